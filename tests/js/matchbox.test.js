// The matchbox door, with its frames.

import assert from 'node:assert/strict';
import {test} from 'node:test';

import WebSocket from 'ws';

import {atEnd, Inbox, pause, pollingPeer, startServer, until} from './support.js';

const start = (t, settings = {}) => startServer(t, {WEBRTC_DOORS: 'http,websocket,socketio,matchbox', ...settings});

/** A client, which knows its id. */
async function client(t, server, path) {
  const socket = new WebSocket(`${server.ws}${path}`);
  atEnd(t, () => socket.terminate());
  const frames = new Inbox();
  socket.on('message', (data) => frames.put(JSON.parse(data.toString())));
  const closed = new Promise((resolve) => { socket.on('close', resolve); });
  const {IdAssigned: id} = await frames.next();
  assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  const say = (frame) => socket.send(typeof frame === 'string' ? frame : JSON.stringify(frame));
  const signal = (to, data) => say({Signal: {receiver: to.id, data}});
  // It is in its room when its own signal comes back.
  signal({id}, 'ready');
  const heard = new Inbox();
  for (;;) {
    const frame = await frames.next();
    if (frame.Signal?.sender === id) break;
    heard.put(frame);
  }
  (async () => { for (;;) heard.put(await frames.next()); })();
  return {id, socket, say, signal, closed, next: () => heard.next(), frames: heard};
}

test('those in a room hear who comes and goes, and pass signals', async (t) => {
  const server = await start(t);
  const a = await client(t, server, '/matchbox/game');
  const b = await client(t, server, '/matchbox/game');
  assert.deepEqual(await a.next(), {NewPeer: b.id});
  const elsewhere = await client(t, server, '/matchbox/other');
  const data = {Offer: 'v=0\r\n', n: 1.5};
  a.signal(b, data);
  assert.deepEqual(await b.next(), {Signal: {sender: a.id, data}});
  for (let n = 0; n < 100; n += 1) b.signal(a, n);
  for (let n = 0; n < 100; n += 1) assert.deepEqual(await a.next(), {Signal: {sender: b.id, data: n}});
  // What goes nowhere, or is no frame, is dropped, and closes nothing.
  for (const frame of ['"KeepAlive"', '', '{', 'null', '[]', '7', '{}', '{"Signal":{}}', '{"Signal":{"receiver":7,"data":1}}',
    '{"Signal":{"receiver":"nobody","data":1}}', '{"IdAssigned":"x"}']) a.say(frame);
  a.signal(elsewhere, 'from another room');
  a.signal(b, 'last');
  assert.deepEqual(await b.next(), {Signal: {sender: a.id, data: 'last'}});
  b.socket.close();
  assert.deepEqual(await a.next(), {PeerLeft: b.id});
  elsewhere.signal(elsewhere, 'all');
  assert.deepEqual(await elsewhere.next(), {Signal: {sender: elsewhere.id, data: 'all'}});
  assert.equal(a.frames.length, 0);
});

test('with next=N, groups of N fill one after the other', async (t) => {
  const server = await start(t);
  const join = () => client(t, server, '/matchbox/game?next=2');
  const [a, b, c] = [await join(), await join(), await join()];
  assert.deepEqual(await a.next(), {NewPeer: b.id});
  const d = await join();
  assert.deepEqual(await c.next(), {NewPeer: d.id});
  a.socket.close();
  assert.deepEqual(await b.next(), {PeerLeft: a.id});
  await pause(50);
  for (const peer of [b, c, d]) assert.equal(peer.frames.length, 0);
});

test('of many that come at once, of any two one hears of the other', async (t) => {
  const server = await start(t);
  const peers = await Promise.all(Array.from({length: 12}, () => client(t, server, '/matchbox/game')));
  const pairs = new Set();
  const count = (peers.length * (peers.length - 1)) / 2;
  for (const peer of peers) {
    (async () => {
      for (;;) {
        const {NewPeer: id} = await peer.next();
        const pair = [peer.id, id].sort().join();
        assert.ok(!pairs.has(pair));
        pairs.add(pair);
      }
    })();
  }
  await until(() => pairs.size === count);
});

test('a client is in the list of its room under its id, and other doors do not take its messages', async (t) => {
  const server = await start(t);
  const a = await client(t, server, '/rooms/lobby/matchbox/game');
  const poller = await pollingPeer({...server, http: `${server.http}/rooms/lobby`}, 'poller');
  assert.match(poller.list, new RegExp(`\\n${a.id},\\d+,1\\n$`));
  await poller.send(/,(\d+),1\n$/.exec(poller.list)[1], '{"IdAssigned":"x"}');
  a.signal(a, 'still here');
  assert.deepEqual(await a.next(), {Signal: {sender: a.id, data: 'still here'}});
});
