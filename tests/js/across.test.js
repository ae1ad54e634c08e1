// Peers of different doors in one list: an offer, an answer and candidates in
// both directions, each side reading what its own protocol promises.

import assert from 'node:assert/strict';
import {test} from 'node:test';

import {pollingPeer, readyClient, socketIoClient, startServer, webSocketPeer} from './support.js';

/** A peer of each door: `send` to an id, and `receive` as its protocol has it. */
const doors = {
  'long poll': async (t, server) => {
    const peer = await pollingPeer(server, 'Pol');
    return {
      id: peer.id,
      send: async (to, message) => assert.equal(await peer.send(to, JSON.stringify(message)), 200),
      receive: async () => {
        const {from, text} = await peer.message();
        return {from, message: JSON.parse(text)};
      },
    };
  },
  WebSocket: async (t, server) => {
    const peer = await webSocketPeer(t, server, '?peer_name=Wes');
    return {
      id: peer.id,
      send: (to, message) => peer.send({...message, receiverId: to, senderId: peer.id}),
      receive: async () => {
        const {senderId, receiverId, ...message} = JSON.parse(await peer.frames.next());
        assert.equal(receiverId, peer.id);
        return {from: senderId, message};
      },
    };
  },
  'Socket.IO': async (t, server) => {
    const peer = await readyClient(t, server, 'Sio');
    // Other doors know it by its id, which stands in the list.
    const {list} = await pollingPeer(server, 'Lis');
    const lines = list.split('\n').map((line) => line.split(','));
    const [, id] = lines.find(([name]) => name === 'Sio');
    return {
      id,
      send: (to, message) => new Promise((resolve) => {
        peer.socket.emit('messageOne', {...message, from: id, target: to}, (outcome) => {
          assert.deepEqual(outcome, {});
          resolve();
        });
      }),
      receive: async () => {
        const [{from, target, message}] = await peer.message.next();
        assert.equal(target, 'Sio');
        return {from, message};
      },
    };
  },
};

/** What a sender's protocol adds for a receiver of another door. */
function withoutAddress({from, target, senderId, receiverId, ...message}) {
  return message;
}

const pairs = [['long poll', 'WebSocket'], ['long poll', 'Socket.IO'], ['WebSocket', 'Socket.IO']];
for (const [one, other] of pairs) {
  test(`${one} and ${other} exchange an offer, an answer and candidates`, async (t) => {
    const server = await startServer(t, {WEBRTC_WAIT_MS: '100'});
    const a = await doors[one](t, server);
    const b = await doors[other](t, server);
    const exchange = async (from, to, message) => {
      await from.send(to.id, message);
      const received = await to.receive();
      assert.equal(received.from, from.id);
      assert.deepEqual(withoutAddress(received.message), message);
    };
    await exchange(a, b, {type: 'offer', sdp: 'v=0\r\no=- 1 "é"\r\n'});
    await exchange(b, a, {type: 'answer', sdp: 'v=0\r\n'});
    for (let number = 0; number < 20; number += 1) {
      await exchange(a, b, {candidate: `candidate:${number}`, sdpMLineIndex: 0});
      await exchange(b, a, {candidate: `candidate:${number}`, sdpMid: null});
    }
  });
}

test('text that is not JSON reaches each door in the form of its protocol', async (t) => {
  const server = await startServer(t);
  const pol = await pollingPeer(server, 'Pol');
  const wes = await webSocketPeer(t, server);
  const sio = await readyClient(t, server, 'Sio');
  assert.equal(await pol.send(wes.id, 'plain "text"'), 200);
  assert.deepEqual(JSON.parse(await wes.frames.next()),
    {senderId: pol.id, receiverId: wes.id, data: 'plain "text"'});
  assert.equal(await pol.send('3', 'plain "text"'), 200);
  assert.deepEqual(await sio.message.next(), [{from: pol.id, target: 'Sio', message: 'plain "text"'}]);
});

test('a long-poll peer sees the others join and leave', async (t) => {
  const server = await startServer(t);
  const pol = await pollingPeer(server, 'Pol');
  const wes = await webSocketPeer(t, server, '?peer_name=Wes');
  assert.equal((await pol.wait()).text, 'Wes,2,1\nPol,1,1\n');
  const sio = await readyClient(t, server, 'Sio');
  assert.equal((await pol.wait()).text, 'Sio,3,1\nWes,2,1\nPol,1,1\n');
  wes.socket.close();
  assert.equal((await pol.wait()).text, 'Sio,3,1\nPol,1,1\n');
  sio.socket.close();
  assert.equal((await pol.wait()).text, 'Pol,1,1\n');
});

test('a peer with a socket cannot be polled for', async (t) => {
  const server = await startServer(t);
  const pol = await pollingPeer(server, 'Pol');
  const wes = await webSocketPeer(t, server, '?resume=true');
  assert.equal((await fetch(`${server.http}/wait?peer_id=${wes.id}`)).status, 403);
  const own = `${server.http}/wait?peer_id=${wes.id}&peer_token=${wes.token}`;
  assert.equal((await fetch(own)).status, 404);
  assert.equal(await pol.send(wes.id, '{"receiverId":2}'), 200);
  assert.equal(await wes.frames.next(), '{"receiverId":2}');
});

test('a long-poll sign-out for a socket closes it, if it shows the token', async (t) => {
  const server = await startServer(t);
  const wes = await webSocketPeer(t, server, '?resume=true');
  const {socket, disconnect} = await socketIoClient(t, server.http, {query: {resume: 'true'}});
  const session = new Promise((resolve) => socket.on('session', resolve));
  socket.emit('ready', 'Sio');
  const sio = await session;
  for (const id of [wes.id, sio.peerId]) {
    for (const query of ['', '&grace=1']) {
      assert.equal((await fetch(`${server.http}/sign_out?peer_id=${id}${query}`)).status, 403);
    }
  }
  assert.equal((await server.peers()).length, 2);
  const leave = ({peerId, peerToken}) =>
    fetch(`${server.http}/sign_out?peer_id=${peerId}`, {headers: {'X-Peer-Token': peerToken}});
  assert.equal((await leave({peerId: wes.id, peerToken: wes.token})).status, 200);
  assert.equal(await wes.closed, 1000);
  assert.equal((await leave(sio)).status, 200);
  assert.equal((await disconnect.next())[0], 'io server disconnect');
});
