// Rooms: the clients of every door in several rooms of one server.

import assert from 'node:assert/strict';
import {once} from 'node:events';
import {request} from 'node:http';
import {test} from 'node:test';
import {fileURLToPath} from 'node:url';

import WebSocket from 'ws';

import {
  atEnd, Inbox, eventStream, ofOneProcess, pollingPeer, readyClient, socketIoClient, signIn, startServer, told, until,
  webSocketPeer,
} from './support.js';

const CLIENT = fileURLToPath(new URL('../../packages/client/client.js', import.meta.url));
const {SignalingClient} = await import(CLIENT);
const OPERATED = {WEBRTC_ADMIN_LISTEN: '127.0.0.1:0'};

/** A server as a client of this room sees it; without a name, the root list. */
function inRoom(server, name) {
  const prefix = name ? `/rooms/${name}` : '';
  const http = `${server.http}${prefix}`;
  return {
    ...server,
    http,
    ws: `${server.ws}${prefix}`,
    // Of a client of Socket.IO: the server, and the path there.
    socketIo: {...server, path: `${prefix}/socket.io/`},
    names: async () => {
      const connections = await (await fetch(`${http}/connections`)).json();
      return connections.map(({name, peerId}) => name ?? peerId).sort();
    },
  };
}

/** One client of each door. */
async function clientsIn(t, server, name) {
  const room = inRoom(server, name);
  const of = (client) => `${client}-${name || 'root'}`;
  const poll = await pollingPeer(room, of('poll'));
  const ws = await webSocketPeer(t, room, `?peer_name=${of('ws')}&events=true`);
  const sockets = {};
  for (const version of [4, 2, 1]) {
    const options = {version, path: room.socketIo.path};
    sockets[version] = await readyClient(t, server, of(`io${version}`), options);
  }
  const page = new SignalingClient(server.http, {name: of('page'), room: name, storage: null});
  const messages = new Inbox();
  page.addEventListener('message', ({detail}) => messages.put(detail));
  await page.connect();
  atEnd(t, () => page.close());
  const names = ['io1', 'io2', 'io4', 'page', 'poll', 'ws'].map(of);
  return {name, room, names, poll, ws, sockets, page, messages};
}

test('clients of every door in two rooms and in none at once see and reach only their own', async (t) => {
  const server = await startServer(t);
  const all = await Promise.all(['one', 'two', undefined].map((name) => clientsIn(t, server, name)));
  for (const {room, names} of all) assert.deepEqual(await room.names(), names);
  for (const {names, poll, ws, sockets, page, messages, name} of all) {
    const hello = `hello in ${name}`;
    // From each door to another.
    assert.equal(await poll.send(page.id, hello), 200);
    assert.deepEqual(await messages.next(), {from: Number(poll.id), data: hello});
    await page.send(ws.id, {hello});
    let frame;
    do frame = JSON.parse(await ws.frames.next()); while (frame.type === 'peers');
    assert.deepEqual([frame.hello, frame.senderId], [hello, String(page.id)]);
    ws.send({receiverId: poll.id, hello});
    assert.equal((await poll.message()).from, ws.id);
    sockets[4].socket.emit('messageOne', {from: sockets[4].name, target: sockets[2].name, hello});
    let message;
    do [message] = await sockets[2].message.next(); while (message.action);
    assert.equal(message.hello, hello);
    await until(() => page.peers.length === names.length - 1);
    assert.deepEqual(page.peers.map((peer) => peer.name).sort(), names.filter((other) => !other.startsWith('page')));
  }
  // What a client publishes is heard in its room.
  for (const {sockets, name} of all) sockets[1].socket.emit('message', {said: name ?? 'root'});
  for (const {sockets, name} of all) {
    for (const version of [4, 2]) {
      let message;
      do [message] = await sockets[version].message.next(); while (!message.said);
      assert.equal(message.said, name ?? 'root');
    }
  }
  // Rooms share their ids, so that an id of the one is none of the other.
  const [one, two] = all;
  assert.equal(await one.poll.send(two.poll.id, 'x'), 404);
  one.ws.send({receiverId: two.ws.id});
  let error;
  do error = JSON.parse(await one.ws.frames.next()); while (error.type === 'peers');
  assert.deepEqual(error, {type: 'error', error: 'unknown_receiver', receiverId: two.ws.id});
});

test('a token and an id are of one room', async (t) => {
  const server = await startServer(t);
  const [one, two] = ['one', 'two'].map((name) => inRoom(server, name));
  const alice = await signIn(one, 'alice');
  const elsewhere = await signIn(two, 'alice', `&peer_id=${alice.id}&peer_token=${alice.token}`);
  assert.notEqual(elsewhere.id, alice.id);
  const back = await signIn(one, 'alice', `&peer_id=${alice.id}&peer_token=${alice.token}`);
  assert.equal(back.id, alice.id);
  const {status} = await fetch(`${two.http}/heartbeat?peer_id=${alice.id}`);
  assert.equal(status, 404);
  // A goodbye that comes late, in another room.
  await fetch(`${two.http}/sign_out?peer_id=${alice.id}&peer_token=${alice.token}`);
  assert.deepEqual(await one.names(), ['alice']);
});

test('a session of Socket.IO is of the room through whose path it began', ofOneProcess, async (t) => {
  const server = await startServer(t);
  const [one, two] = ['one', 'two'].map((name) => inRoom(server, name));
  const query = '/socket.io/?EIO=4&transport=polling';
  const {sid} = JSON.parse((await (await fetch(`${one.http}${query}`)).text()).slice(1));
  const post = (room) => fetch(`${room.http}${query}&sid=${sid}`, {method: 'POST', body: '40'});
  for (const other of [two, inRoom(server)]) assert.equal((await post(other)).status, 400);
  assert.equal((await post(one)).status, 200);
});

test('a socket comes back to its room only', async (t) => {
  const server = await startServer(t);
  const [one, two] = ['one', 'two'].map((name) => inRoom(server, name));
  const first = await webSocketPeer(t, one, '?peer_name=alice&resume=true');
  first.socket.terminate();
  const claim = `?peer_name=alice&peer_id=${first.id}&peer_token=${first.token}`;
  assert.notEqual((await webSocketPeer(t, two, claim)).id, first.id);
  assert.equal((await webSocketPeer(t, one, claim)).id, first.id);
  // The path of a room is one with and without a slash at its end.
  const plain = new WebSocket(`${one.ws}?peer_name=bob`);
  atEnd(t, () => plain.terminate());
  await once(plain, 'open');
  // Another node may hear of it a moment later.
  await until(async () => (await one.names()).join() === 'alice,bob');
});

/** The status and the text of an answer, for a path that is sent as it is. */
/** What a client of a WebSocket asks for. */
const UPGRADE = {
  connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-version': '13', 'sec-websocket-key': 'MDEyMzQ1Njc4OUFCQ0RFRg==',
};

function ask(server, path, headers = {}) {
  return new Promise((resolve, reject) => {
    const {hostname, port} = new URL(server.http);
    const asked = request({hostname, port, path, headers}, async (answer) => {
      let text = '';
      for await (const chunk of answer) text += chunk;
      resolve([answer.statusCode, text]);
    });
    asked.on('error', reject).end();
  });
}

test('what is no name of a room is a 404 that says what is one', async (t) => {
  const server = await startServer(t);
  const longest = 'x'.repeat(64);
  for (const name of ['a', 'A.b_c~d-9', '...', longest]) {
    assert.equal((await ask(server, `/rooms/${name}/sign_in?peer_name=a`))[0], 200, name);
  }
  const wrong = [
    '', '.', '..', `${longest}x`, '%61', 'a%2Fb', '%2e%2e', 'a%00', 'a+b', 'a*b', 'a:b', 'a@b', "a'b", 'a;b', '%C3%A9',
    'a%20b', '~%', 'a,b',
  ];
  const ofDoors = [
    ['/sign_in?peer_name=a'], ['/client.js'], ['/reliable-signaler/signaler.js'], ['/socket.io/?EIO=4&transport=polling'],
    ['/socket.io/?EIO=4&transport=websocket', UPGRADE], ['/ws?peer_name=a', UPGRADE], ['/?peer_name=a', UPGRADE],
  ];
  for (const name of wrong) {
    for (const [path, headers] of ofDoors) {
      const [status, text] = await ask(server, `/rooms/${name}${path}`, headers);
      assert.equal(status, 404, name + path);
      assert.match(text, /^a room's name is 1 to 64 of A-Z a-z 0-9 \. _ ~ - /, name + path);
    }
  }
  for (const path of ['/rooms', '/rooms/a/b/sign_in?peer_name=a', '/rooms/a/rooms/b/sign_in?peer_name=a', '/rooms/a/healthz']) {
    const [status, text] = await ask(server, path);
    assert.equal(status, 404, path);
    assert.match(text, /^this path does not exist: there are \/sign_in, .*; \/ws \(WebSocket\); .*; \/openapi.yml has all\n$/, path);
  }
  for (const path of ['/rooms/a', '/rooms/a/', '/rooms/a/ws']) {
    assert.match((await ask(server, path))[1], /^this path takes only WebSockets/, path);
  }
  const peers = (await ask(server, '/connections'))[1];
  assert.equal(peers, '[]', 'nobody came in anywhere else');
});

test('there are the rooms that the settings allow, each with as many peers as they allow', async (t) => {
  const server = await startServer(t, {
    WEBRTC_ROOMS: 'one, two', WEBRTC_MAX_ROOM_PEERS: '2', WEBRTC_MAX_PEERS: '4', WEBRTC_REDIS_SHARDS: '1',
  });
  const [one, two, three] = ['one', 'two', 'three'].map((name) => inRoom(server, name));
  const sign = async (room) => {
    const answer = await fetch(`${room.http}/sign_in?peer_name=a`);
    return [answer.status, answer.status === 200 ? '' : (await answer.text()).trim(), answer.headers.get('retry-after')];
  };
  assert.deepEqual(await sign(three), [404, 'this server does not have that room', null]);
  for (const room of [one, one, two]) assert.equal((await sign(room))[0], 200);
  assert.deepEqual(await sign(one), [503, 'the room is full: try again later', '1']);
  const refused = {path: '/rooms/one/socket.io/'};
  await assert.rejects(socketIoClient(t, server.http, refused), /The room is full/);
  assert.equal((await sign(inRoom(server)))[0], 200);
  assert.deepEqual(await sign(two), [503, 'the server is full: try again later', '1']);
  const none = await startServer(t, {WEBRTC_ROOMS: 'none'});
  assert.equal((await sign(inRoom(none, 'one')))[0], 404);
  assert.equal((await sign(inRoom(none)))[0], 200);
});

test('the operator sees rooms, their peers and their events, and removes a peer of a room', async (t) => {
  const server = await startServer(t, OPERATED);
  const get = async (path) => (await fetch(`${server.operator}${path}`)).json();
  const all = await eventStream(t, server);
  const one = await eventStream(t, server, undefined, '?room=one');
  const rooms = async () => (await get('/rooms')).map(({name, peers}) => [name, peers]);
  assert.deepEqual(await rooms(), []);
  const root = await signIn(server, 'root');
  const a = await signIn(inRoom(server, 'two'), 'a');
  const b = await signIn(inRoom(server, 'one'), 'b');
  assert.deepEqual(await rooms(), [['one', 1], ['two', 1]]);
  assert.deepEqual((await get('/rooms?limit=1&after=one')).map(({name}) => name), ['two']);
  const seen = async (path) => (await get(path)).map(({room, id}) => [room, id]);
  const ids = [root, a, b].map(({id}) => Number(id));
  assert.deepEqual(await seen('/peers'), [[null, ids[0]]]);
  assert.deepEqual(await seen('/rooms/two/peers'), [['two', ids[1]]]);
  assert.deepEqual(await seen('/peers?room=two'), [['two', ids[1]]]);
  assert.deepEqual(await seen('/peers?room=*'), [[null, ids[0]], ['one', ids[2]], ['two', ids[1]]]);
  // Page by page.
  const page = (after) => seen(`/peers?room=*&limit=1${after}`);
  assert.deepEqual(await page(''), [[null, ids[0]]]);
  assert.deepEqual(await page(`&after=${ids[0]}`), [['one', ids[2]]]);
  assert.deepEqual(await page(`&after=one/${ids[2]}`), [['two', ids[1]]]);
  assert.deepEqual(await page(`&after=two/${ids[1]}`), []);
  assert.equal((await get(`/rooms/one/peers/${b.id}`)).name, 'b');
  const remove = (path) => fetch(`${server.operator}${path}`, {method: 'DELETE'});
  assert.equal((await remove(`/rooms/two/peers/${b.id}`)).status, 404);
  assert.equal((await remove(`/rooms/one/peers/${b.id}`)).status, 200);
  assert.deepEqual(await rooms(), [['two', 1]]);
  const purged = await fetch(`${server.operator}/rooms/two/purge`, {method: 'POST'});
  assert.deepEqual(await purged.json(), {removed: []});
  assert.equal((await remove('/rooms/%6f/peers/1')).status, 404);
  for (const [method, path] of [['DELETE', `/peers/${root.id}`], ['GET', `/peers/${root.id}`], ['POST', '/purge']]) {
    // The root list is not taken for the room that somebody means.
    assert.equal((await fetch(`${server.operator}${path}?room=two`, {method})).status, 400, path);
  }
  for (const path of ['/peers?room=*&after=a', '/peers?after=a%20b/1', '/peers?after=a/x', '/rooms/two/peers?room=one', '/peers?room=.', '/events?room=a/b']) {
    assert.equal((await fetch(`${server.operator}${path}`)).status, 400, path);
  }
  const events = await all.take(4);
  assert.deepEqual(events.map((event) => [...told(event), event.data.peer.room]), [
    ['connect', ids[0], null], ['connect', ids[1], 'two'], ['connect', ids[2], 'one'],
    ['disconnect', ids[2], 'kicked', 'one'],
  ]);
  assert.deepEqual((await one.take(2)).map(told), [['connect', ids[2]], ['disconnect', ids[2], 'kicked']]);
});

test('who hears of one room finds no gap after much has happened in others', async (t) => {
  const server = await startServer(t, OPERATED);
  const quiet = inRoom(server, 'quiet');
  const answer = await fetch(`${server.operator}/events?room=quiet`);
  for (let number = 0; number < 550; number += 1) {
    const {id} = await signIn(inRoom(server, 'busy'), 'x');
    assert.equal((await fetch(`${server.http}/rooms/busy/sign_out?peer_id=${id}`)).status, 200);
  }
  // It has heard only how far it is.
  let text = '';
  let heard = [];
  for await (const chunk of answer.body.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    heard = [...text.matchAll(/^id: ?(\S+)\n\n/gm)];
    if (heard.length === 11) break;
  }
  assert.ok(!text.includes('event:'), text);
  const events = await eventStream(t, server, heard.at(-1)[1], '?room=quiet');
  const {id} = await signIn(quiet, 'a');
  assert.deepEqual(told(await events.next()), ['connect', id]);
  // A gap is told once (for each shard).
  const late = await eventStream(t, server, 'of another server', '?room=quiet');
  let gap;
  for (let event = await late.next(); event.event === 'gap'; event = await late.next()) gap = event;
  const again = await eventStream(t, server, gap.id, '?room=quiet');
  assert.deepEqual(told(await again.next()), ['connect', id]);
});
