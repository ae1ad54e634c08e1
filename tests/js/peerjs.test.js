// The PeerJS door: with its frames, and with npm `peerjs` in Node and in Chromium.

import assert from 'node:assert/strict';
import {createHmac} from 'node:crypto';
import {once} from 'node:events';
import {readFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {after, test} from 'node:test';

import wrtc from '@roamhq/wrtc';
import WebSocket from 'ws';

import {
  atEnd, cuttableWire, Inbox, NODES, nodeOf, pollingPeer, startBrowser, startServer, until, webSocketPeer,
} from './support.js';

const OPEN_DOORS = {WEBRTC_DOORS: 'http,websocket,socketio,peerjs', WEBRTC_ADMIN_LISTEN: '127.0.0.1:0'};
const OPENED = {type: 'OPEN'};

const start = (t, settings = {}) => startServer(t, {...OPEN_DOORS, ...settings});

/** A client by its frames. `token`: by default one of its own. */
function join(t, server, id, {token = Math.random().toString(36).slice(2), key = 'peerjs', path = '/peerjs-server/', query} = {}) {
  const socket = new WebSocket(`${server.ws}${path}peerjs?${query ?? new URLSearchParams({key, id, token, version: '1.5.5'})}`);
  atEnd(t, () => socket.terminate());
  const frames = new Inbox();
  socket.on('message', (data) => frames.put(JSON.parse(data.toString())));
  socket.on('error', () => {});
  const closed = new Promise((resolve) => socket.on('close', resolve));
  const send = (frame) => socket.send(typeof frame === 'string' ? frame : JSON.stringify(frame));
  return {socket, token, closed, send, next: () => frames.next(), frames};
}

async function opened(...args) {
  const peer = join(...args);
  assert.deepEqual(await peer.next(), OPENED);
  return peer;
}

/** Ready when the server has noticed that the socket of a peer has closed. */
const isAway = (server, name) => until(async () => {
  const peers = await (await fetch(`${server.operator}/peers`)).json();
  return peers.some((peer) => peer.name === name && !peer.connected);
});

const offer = (dst, payload) => ({type: 'OFFER', dst, payload});
const told = (src, dst, payload, type = 'OFFER') => ({type, src, dst, payload});

test('a fresh id is a UUID and nothing else', async (t) => {
  const server = await start(t);
  const ids = await Promise.all([1, 2].map(async () => {
    const answer = await fetch(`${server.http}/peerjs-server/peerjs/id?ts=1&version=1.5.5`, {headers: {Origin: 'https://example.org'}});
    assert.equal(answer.headers.get('access-control-allow-origin'), '*');
    return answer.text();
  }));
  for (const id of ids) assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.notEqual(ids[0], ids[1]);
  assert.equal((await fetch(`${server.http}/peerjs-server/other/id`)).status, 401);
  for (const path of ['', '/']) {
    const {name} = await (await fetch(`${server.http}/peerjs-server${path}`)).json();
    assert.equal(name, 'signal-http-heartbeat');
  }
  assert.equal((await fetch(`${server.http}/peerjs-server/peerjs`)).status, 404);
});

test('messages reach their receiver, and the server says who sent them', async (t) => {
  const server = await start(t);
  const [a, b] = [await opened(t, server, 'alice'), await opened(t, server, 'bob the 2nd')];
  const payload = {sdp: {type: 'offer', sdp: 'v=0\r\n'}, connectionId: 'dc_1', n: 1.50};
  for (const type of ['OFFER', 'ANSWER', 'CANDIDATE', 'LEAVE']) {
    a.send({type, dst: 'bob the 2nd', src: 'mallory', payload, more: 1});
    assert.deepEqual(await b.next(), {type, src: 'alice', dst: 'bob the 2nd', payload});
  }
  a.send({type: 'LEAVE', dst: 'bob the 2nd'});
  assert.deepEqual(await b.next(), {type: 'LEAVE', src: 'alice', dst: 'bob the 2nd'});
  for (let n = 0; n < 100; n += 1) b.send(offer('alice', n));
  for (let n = 0; n < 100; n += 1) assert.deepEqual(await a.next(), told('bob the 2nd', 'alice', n));
  a.send(offer('alice', 'to myself'));
  assert.deepEqual(await a.next(), told('alice', 'alice', 'to myself'));
});

test('what is no message is passed over, and heartbeats are not answered', async (t) => {
  const server = await start(t);
  const [a, b] = [await opened(t, server, 'alice'), await opened(t, server, 'bob')];
  for (const frame of ['', '{', 'null', '[]', '7', '{}', '{"type":"HEARTBEAT"}', '{"type":7,"dst":"bob"}', '{"type":"OPEN","dst":"bob"}',
    '{"type":"EXPIRE","dst":"bob"}', '{"type":"ID-TAKEN","dst":"bob"}', '{"type":"OFFER"}', '{"type":"OFFER","dst":""}',
    '{"type":"OFFER","dst":7}', '{"type":"OFFER","dst":{}}', `{"type":"OFFER","dst":"${'x'.repeat(1000)}"}`,
    `{"type":"OFFER","dst":"bob","payload":${'['.repeat(5000)}}`]) a.send(frame);
  a.socket.send(Buffer.from([0xff, 0]));
  a.send(offer('bob', 'last'));
  assert.deepEqual(await b.next(), told('alice', 'bob', 'last'));
  assert.equal(a.frames.length, 0);
});

test('who cannot come in is told why', async (t) => {
  const server = await start(t, {WEBRTC_MAX_PEERS: '1'});
  const refusal = async (...args) => {
    const peer = join(t, server, ...args);
    const frame = await peer.next();
    await peer.closed;
    return frame;
  };
  const error = (msg) => ({type: 'ERROR', payload: {msg}});
  for (const query of ['', 'key=peerjs&id=a', 'key=peerjs&token=b', 'id=a&token=b', 'key=&id=a&token=b']) {
    assert.deepEqual(await refusal('', {query}), error('No id, token, or key supplied to websocket server'));
  }
  assert.deepEqual(await refusal('alice', {key: 'other'}), error('Invalid key provided'));
  for (const id of ['a  b', '-a', 'a/b', 'é', 'signal-7', 'x'.repeat(257)]) {
    assert.match((await refusal(id)).payload.msg, /^This id cannot be used/);
  }
  await opened(t, server, 'alice');
  assert.deepEqual(await refusal('bob'), error('Server has reached its concurrent user limit'));
});

test('an id whose holder is there is taken', async (t) => {
  const server = await start(t);
  const a = await opened(t, server, 'alice');
  const other = join(t, server, 'alice');
  assert.deepEqual(await other.next(), {type: 'ID-TAKEN', payload: {msg: 'ID is taken'}});
  await other.closed;
  // The holder has not noticed.
  a.send(offer('alice', 1));
  assert.deepEqual(await a.next(), told('alice', 'alice', 1));
  assert.equal((await server.peers()).length, 1);
});

test('the same client over another socket takes over, and is told so', async (t) => {
  const server = await start(t);
  const a = await opened(t, server, 'alice');
  const b = await opened(t, server, 'bob');
  const again = await opened(t, server, 'alice', {token: a.token});
  assert.equal(await a.closed, 4001);
  b.send(offer('alice', 1));
  assert.deepEqual(await again.next(), told('bob', 'alice', 1));
  assert.equal((await server.peers()).length, 2);
});

test('a client that lost its socket gets what was sent meanwhile, once', async (t) => {
  const server = await start(t);
  const a = await opened(t, server, 'alice');
  const b = await opened(t, server, 'bob');
  b.send(offer('alice', 'before'));
  await a.next();
  a.socket.terminate();
  await isAway(server, 'alice');
  for (const n of [1, 2, 3]) b.send(offer('alice', n));
  // What it was told is still on its way to the server.
  b.send(offer('bob', 'self'));
  assert.deepEqual(await b.next(), told('bob', 'bob', 'self'));
  const back = await opened(t, server, 'alice', {token: a.token});
  for (const n of [1, 2, 3]) assert.deepEqual(await back.next(), told('bob', 'alice', n));
  back.send(offer('bob', 'back'));
  assert.deepEqual(await b.next(), told('alice', 'bob', 'back'));
  // A page that is loaded again has another token.
  back.socket.terminate();
  await isAway(server, 'alice');
  b.send(offer('alice', 'for the page before'));
  b.send(offer('bob', 'self'));
  await b.next();
  const page = await opened(t, server, 'alice');
  b.send(offer('alice', 'for this page'));
  assert.deepEqual(await page.next(), told('bob', 'alice', 'for this page'));
});

test('what is sent to a peer that is not there waits for it, in order', async (t) => {
  const server = await start(t);
  const a = await opened(t, server, 'alice');
  for (let n = 0; n < 20; n += 1) a.send(offer('bob', n));
  const b = await opened(t, server, 'bob');
  for (let n = 20; n < 40; n += 1) a.send(offer('bob', n));
  for (let n = 0; n < 40; n += 1) assert.deepEqual(await b.next(), told('alice', 'bob', n));
});

test('the sender is told once that a peer did not come, and can send again', async (t) => {
  const server = await start(t);
  const a = await opened(t, server, 'alice');
  const carol = await opened(t, server, 'carol');
  // Nobody waits for that.
  a.send({type: 'LEAVE', dst: 'dave'});
  carol.socket.terminate();
  await isAway(server, 'carol');
  for (const dst of ['bob', 'signal-99', 'carol', 'bob', 'carol']) a.send(offer(dst, 1));
  const expired = await Promise.all([a.next(), a.next(), a.next()]);
  expired.sort((one, other) => one.src.localeCompare(other.src));
  assert.deepEqual(expired, ['bob', 'carol', 'signal-99'].map((src) => ({type: 'EXPIRE', src, dst: 'alice'})));
  // She may come back all the same.
  const back = await opened(t, server, 'carol', {token: carol.token});
  for (let n = 0; n < 2; n += 1) assert.deepEqual(await back.next(), told('alice', 'carol', 1));
  const b = await opened(t, server, 'bob');
  a.send(offer('bob', 2));
  assert.deepEqual(await b.next(), told('alice', 'bob', 2));
  assert.equal(a.frames.length, 0);
});

test('a client that says that it leaves is gone, and its id is free', async (t) => {
  const server = await start(t);
  const a = await opened(t, server, 'alice');
  a.send({type: 'LEAVE'});
  assert.equal(await a.closed, 1000);
  assert.deepEqual(await server.peers(), []);
  await opened(t, server, 'alice');
});

test('peers of other doors are reached by their ids, and reach PeerJS clients by theirs', async (t) => {
  const server = await start(t);
  const a = await opened(t, server, 'alice');
  const poller = await pollingPeer(server, 'poller');
  assert.match(poller.list, /^poller,2,1\nalice,1,1\n$/);
  a.send(offer('signal-2', {sdp: 'v=0'}));
  const heard = await poller.message();
  assert.equal(heard.from, '1');
  assert.deepEqual(JSON.parse(heard.text), told('alice', 'signal-2', {sdp: 'v=0'}));
  const say = (body) => poller.send('1', typeof body === 'string' ? body : JSON.stringify(body));
  await say({type: 'ANSWER', src: 'alice', dst: 'x', payload: [1]});
  assert.deepEqual(await a.next(), told('signal-2', 'alice', [1], 'ANSWER'));
  // What only the server says is no type of its own.
  for (const body of [{type: 'ID-TAKEN', payload: {}}, {candidate: 1}, 'plain text']) {
    await say(body);
    assert.deepEqual(await a.next(), told('signal-2', 'alice', body, 'MESSAGE'));
  }
  const ws = await webSocketPeer(t, server);
  a.send(offer(`signal-${ws.id}`, 1));
  assert.deepEqual(JSON.parse(await ws.frames.next()), {...told('alice', `signal-${ws.id}`, 1), senderId: '1', receiverId: ws.id});
  // A card of this door is not one of Socket.IO's.
  const {name, peerId} = (await server.peers()).find((peer) => peer.name === 'alice');
  assert.deepEqual([name, peerId], ['alice', '1']);
});

test('ids are listed only where the operator allows it', async (t) => {
  const [closed, open] = [await start(t), await start(t, {WEBRTC_PEERJS_DISCOVERY: 'true', WEBRTC_PEERJS_PATH: '/', WEBRTC_PEERJS_KEY: 'k'})];
  assert.equal((await fetch(`${closed.http}/peerjs-server/peerjs/peers`)).status, 401);
  await opened(t, open, 'alice', {path: '/', key: 'k'});
  await opened(t, open, 'bob', {path: '/', key: 'k'});
  await pollingPeer(open, 'poller');
  const answer = await fetch(`${open.http}/k/peers`);
  assert.match(answer.headers.get('content-type'), /^application\/json/);
  assert.deepEqual((await answer.json()).sort(), ['alice', 'bob']);
  assert.equal((await fetch(`${open.http}/other/peers`)).status, 401);
});

test('a room has ids of its own', async (t) => {
  const server = await start(t);
  const room = {path: '/rooms/lobby/peerjs-server/'};
  const [outside, inside] = [await opened(t, server, 'alice'), await opened(t, server, 'alice', room)];
  const bob = await opened(t, server, 'bob', room);
  bob.send(offer('alice', 1));
  assert.deepEqual(await inside.next(), told('bob', 'alice', 1));
  assert.equal((await fetch(`${server.http}/rooms/lobby/peerjs-server/peerjs/id`)).status, 200);
  assert.equal(outside.frames.length, 0);
});

test('with access control, the token of PeerJS is the access token', async (t) => {
  const server = await start(t, {WEBRTC_JWT_SECRET: 'a secret of thirty-two bytes or more'});
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const head = `${part({alg: 'HS256', typ: 'JWT'})}.${part({sub: 'alice', exp: Math.floor(Date.now() / 1000) + 600})}`;
  const token = `${head}.${createHmac('sha256', 'a secret of thirty-two bytes or more').update(head).digest('base64url')}`;
  const refused = join(t, server, 'alice');
  const [, {statusCode}] = await once(refused.socket, 'unexpected-response');
  assert.equal(statusCode, 401);
  await opened(t, server, 'alice', {token});
  const query = new URLSearchParams({key: 'peerjs', id: 'bob', token: 'x', access_token: token});
  await opened(t, server, 'bob', {query});
});

// The client of npm.

const SCRIPT = {
  '1.5': readFileSync(new URL('node_modules/peerjs/dist/peerjs.min.js', import.meta.url), 'utf8'),
  '1.3': readFileSync(new URL('node_modules/peerjs-1-3/dist/peerjs.min.js', import.meta.url), 'utf8'),
};

// The threads of @roamhq/wrtc keep a process that has used it alive for ever.
after(() => setTimeout(() => process.exit(), 200));

/** The client in Node, which has no WebRTC of its own. */
function clientInNode() {
  Object.assign(globalThis, {
    WebSocket,
    RTCPeerConnection: wrtc.RTCPeerConnection,
    RTCSessionDescription: wrtc.RTCSessionDescription,
    RTCIceCandidate: wrtc.RTCIceCandidate,
    window: globalThis,
    self: globalThis,
  });
  return createRequire(import.meta.url)('peerjs').Peer;
}

/** What happens to a client, by event. */
function eventsOf(emitter, ...names) {
  const events = {};
  for (const name of names) {
    events[name] = new Inbox();
    emitter.on(name, (value) => events[name].put(value));
  }
  return events;
}

async function peerInNode(t, server, id, options = {}) {
  const Peer = clientInNode();
  const settings = {host: '127.0.0.1', port: Number(new URL(server.http).port), path: '/peerjs-server', secure: false, debug: 0, ...options};
  const peer = id ? new Peer(id, settings) : new Peer(settings);
  atEnd(t, () => peer.destroy());
  return {peer, ...eventsOf(peer, 'open', 'connection', 'disconnected', 'close', 'error')};
}

async function talk(from, to, text) {
  const connection = from.peer.connect(to.peer.id, {reliable: true});
  const {open} = eventsOf(connection, 'open');
  const other = await to.connection.next();
  const {data} = eventsOf(other, 'data');
  await open.next();
  connection.send({text});
  assert.deepEqual(await data.next(), {text});
  return [connection, other];
}

test('two clients in Node open a data channel, with ids of the server and of their own', async (t) => {
  const server = await start(t);
  const [a, b] = [await peerInNode(t, server), await peerInNode(t, server, 'bob')];
  assert.match(await a.open.next(), /^[0-9a-f-]{36}$/);
  assert.equal(await b.open.next(), 'bob');
  await talk(a, b, 'hello');
  await talk(b, a, 'and you');
});

test('a client in Node hears that an id is taken, that a peer is not there, and that its key is wrong', async (t) => {
  const server = await start(t);
  const a = await peerInNode(t, server, 'alice');
  await a.open.next();
  const same = await peerInNode(t, server, 'alice');
  assert.equal((await same.error.next()).type, 'unavailable-id');
  a.peer.connect('nobody');
  assert.equal((await a.error.next()).type, 'peer-unavailable');
  const wrong = await peerInNode(t, server, 'bob', {key: 'wrong'});
  assert.equal((await wrong.error.next()).type, 'server-error');
  const ids = await peerInNode(t, server, undefined, {key: 'wrong'});
  assert.equal((await ids.error.next()).type, 'server-error');
});

test('a client in Node that was cut off comes back with its id, and can be called', async (t) => {
  const server = await start(t);
  const wire = await cuttableWire(t, server);
  const [a, b] = [await peerInNode(t, wire, 'alice'), await peerInNode(t, server, 'bob')];
  await Promise.all([a.open.next(), b.open.next()]);
  const [connection] = await talk(a, b, 'before');
  wire.cut();
  await a.disconnected.next();
  a.peer.reconnect();
  assert.equal(await a.open.next(), 'alice');
  await talk(b, a, 'after');
  // A connection outlives the socket over which it was made.
  assert.ok(connection.open);
});

test('clients of a node that ends go on at another one', {skip: NODES === 1 && 'it is about several nodes'}, async (t) => {
  const server = await start(t);
  const on = (number) => ({http: server.nodes[number].http});
  const [a, b] = [await peerInNode(t, on(0), 'alice'), await peerInNode(t, on(1), 'bob')];
  await Promise.all([a.open.next(), b.open.next()]);
  await talk(a, b, 'across');
  server.nodes[0].process.kill('SIGKILL');
  await a.disconnected.next();
  // As behind a load balancer.
  a.peer.options.port = server.nodes[1].port;
  a.peer.destroy();
  const again = await peerInNode(t, on(1), 'alice', {token: a.peer.options.token});
  assert.equal(await again.open.next(), 'alice');
  await talk(b, again, 'after');
});

/** A page with a client of this version, called `peer`. */
async function page(t, browser, server, version, id) {
  const page = await (await browser.createBrowserContext()).newPage();
  await page.goto(`${nodeOf(server.http)}/healthz`);
  await page.addScriptTag({content: SCRIPT[version]});
  const open = () => page.evaluate(async (id) => {
    window.peer = new Peer(id, {host: location.hostname, port: location.port, path: '/peerjs-server'});
    window.errors = [];
    window.heard = [];
    peer.on('error', ({type}) => errors.push(type));
    peer.on('connection', (connection) => connection.on('data', (data) => { heard.push(data); connection.send(`echo ${data}`); }));
    peer.on('call', async (call) => {
      call.answer(await navigator.mediaDevices.getUserMedia({video: true}));
      call.on('stream', ({id}) => heard.push('video'));
    });
    await new Promise((resolve) => peer.on('open', resolve));
  }, id);
  await open();
  return {page, open, script: () => page.addScriptTag({content: SCRIPT[version]})};
}

for (const version of Object.keys(SCRIPT)) {
  test(`pages with PeerJS ${version} send data, call each other, and do so again after a reload`, async (t) => {
    const [server, browser] = await Promise.all([
      start(t),
      startBrowser(t, '--allow-loopback-in-peer-connection', '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream'),
    ]);
    const [alice, bob] = [await page(t, browser, server, version, 'alice'), await page(t, browser, server, version, 'bob')];
    const send = (from, to, text) => from.page.evaluate(async (to, text) => {
      const connection = peer.connect(to);
      await new Promise((resolve) => connection.on('open', resolve));
      connection.send(text);
      return new Promise((resolve) => connection.on('data', resolve));
    }, to, text);
    assert.equal(await send(alice, 'bob', 'hello'), 'echo hello');
    const width = await bob.page.evaluate(async () => {
      const call = peer.call('alice', await navigator.mediaDevices.getUserMedia({video: true}));
      const stream = await new Promise((resolve) => call.on('stream', resolve));
      const video = Object.assign(document.createElement('video'), {srcObject: stream, muted: true});
      await video.play();
      return video.videoWidth;
    });
    assert.ok(width > 0);
    await alice.page.waitForFunction(() => heard.includes('video'));
    // The page before has gone only now; the new one is of another token.
    await alice.page.reload();
    await alice.script();
    await alice.open();
    assert.equal(await send(bob, 'alice', 'welcome back'), 'echo welcome back');
    assert.deepEqual(await bob.page.evaluate(() => errors), []);
  });
}
