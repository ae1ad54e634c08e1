// The script for pages, in Node: it loses nothing, whatever is cut.

import assert from 'node:assert/strict';
import {once} from 'node:events';
import http from 'node:http';
import net from 'node:net';
import {test} from 'node:test';
import {fileURLToPath} from 'node:url';

import {WebSocketServer} from 'ws';

import {atEnd, Inbox, cuttableWire, cuttingWire, PageWebSocket, freePort, pollingPeer, randomFrom, startNode, startServer, until, ofOneProcess} from './support.js';

const CLIENT = fileURLToPath(new URL('../../packages/client/client.js', import.meta.url));
const {SignalingClient, SignalingError} = await import(CLIENT);
// Node has WebSockets from version 22 on.
globalThis.WebSocket ??= PageWebSocket;
/** For what is about long polls only. */
const POLL = {transport: 'poll'};
const OPERATED = {WEBRTC_ADMIN_LISTEN: '127.0.0.1:0'};

/** Ready when nobody is signed in. */
function untilNobody(server) {
  return until(async () => (await (await fetch(`${server.operator}/peers`)).json()).length === 0);
}

/** A client that is signed in, and what it is told. */
async function client(t, url, name, options) {
  const signaling = new SignalingClient(url, {name, ...options});
  const told = {};
  for (const type of ['peers', 'message', 'connected', 'disconnected']) {
    told[type] = new Inbox();
    signaling.addEventListener(type, ({detail}) => told[type].put(detail));
  }
  atEnd(t, () => signaling.close());
  await signaling.connect();
  return {signaling, ...told};
}

/** A test of both ways to hear; `join` makes a client that hears in this way. */
function inBothWays(name, ...rest) {
  const body = rest.pop();
  for (const transport of ['poll', 'websocket']) {
    const join = (t, url, name, options) => client(t, url, name, {transport, ...options});
    test(`${name} (${transport})`, ...rest, (t) => body(t, join));
  }
}

/** As `sessionStorage`, for more than one client. */
function storage() {
  const items = new Map();
  return {
    getItem: (key) => items.get(key) ?? null,
    setItem: (key, value) => items.set(key, value),
    removeItem: (key) => items.delete(key),
  };
}

test('a room is named once, by the URL or by the option', async (t) => {
  const server = await startServer(t);
  const room = await client(t, server.http, 'alice', {room: 'lobby', storage: null});
  const byUrl = await client(t, `${server.http}/rooms/lobby`, 'bob', {room: null, storage: null});
  await until(() => room.signaling.peers.length === 1);
  assert.equal(byUrl.signaling.peers[0].name, 'alice');
  for (const [url, name] of [[`${server.http}/rooms/a`, 'b'], [server.http, 'a/b'], [server.http, '..'], [server.http, 7]]) {
    assert.throws(() => new SignalingClient(url, {name: 'x', room: name}), TypeError);
  }
});

inBothWays('two clients find each other and pass objects and text', async (t, join) => {
  const server = await startServer(t);
  const alice = await join(t, server.http, 'alice');
  const bob = await join(t, `${server.http}/`, 'bob, the builder');
  const name = 'bob_ the builder';
  await until(() => alice.signaling.peers.length === 1);
  assert.deepEqual(alice.signaling.peers, [{id: bob.signaling.id, name, connected: true}]);
  assert.equal(bob.signaling.peers[0].name, 'alice');
  for (const data of [{sdp: 'v=0\r\n'}, ['a'], 'text', '{no json', '', 'half a crab: \ud83e']) {
    await alice.signaling.send(bob.signaling.id, data);
    const heard = typeof data === 'string' ? data.replace('\ud83e', '\ufffd') : data;
    assert.deepEqual(await bob.message.next(), {from: alice.signaling.id, data: heard});
  }
  await bob.signaling.send(bob.signaling.id, 'to myself');
  assert.equal((await bob.message.next()).data, 'to myself');
  await bob.signaling.close();
  assert.equal((await bob.disconnected.take(1)).length, 1);
  await until(() => alice.signaling.peers.length === 0);
});

inBothWays('a send that is refused rejects, and the next one does not', async (t, join) => {
  const server = await startServer(t);
  const alice = await join(t, server.http, 'alice');
  const bob = await pollingPeer(server, 'bob');
  await assert.rejects(alice.signaling.send(99, 'x'), (error) => {
    return error instanceof SignalingError && error.status === 404;
  });
  await alice.signaling.send(bob.id, 'y');
  assert.equal((await bob.message()).text, 'y');
});

inBothWays('of messages over connections that are cut, each comes once and in order', async (t, join) => {
  const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32));
  t.diagnostic(`SEED=${seed}`);
  const server = await startServer(t);
  const wire = await cuttingWire(t, server, randomFrom(seed), 0.01);
  const [alice, bob] = await Promise.all(['alice', 'bob'].map((name) => join(t, wire.http, name)));
  const count = 1000;
  const numbers = Array.from({length: count}, (_, number) => number);
  const exchange = async (from, to) => {
    const sends = numbers.map((number) => from.signaling.send(to.signaling.id, {number}));
    const messages = await to.message.take(count);
    await Promise.all(sends);
    assert.deepEqual(messages.map(({data}) => data.number), numbers, `seed ${seed}`);
    assert.ok(messages.every((message) => message.from === from.signaling.id));
  };
  await Promise.all([exchange(alice, bob), exchange(bob, alice)]);
  assert.ok(wire.cuts > 10, `only ${wire.cuts} cuts`);
  // Nothing is left that would come twice.
  await Promise.all([alice, bob].map(({signaling}) => signaling.send(signaling.id, 'last')));
  for (const {message} of [alice, bob]) assert.equal((await message.next()).data, 'last');
});

inBothWays('a client whose server is gone for a while is itself again', ofOneProcess, async (t, join) => {
  const server = await startServer(t);
  const wire = await cuttableWire(t, server);
  const alice = await join(t, wire.http, 'alice');
  const bob = await pollingPeer(server, 'bob');
  const {id} = alice.signaling;
  await alice.connected.next();
  server.process.kill('SIGSTOP');
  wire.cut();
  await until(() => { wire.cut(); return !alice.signaling.connected; });
  server.process.kill('SIGCONT');
  assert.deepEqual(await alice.connected.next(), {id, resumed: true});
  assert.equal(await bob.send(id, 'hi'), 200);
  assert.equal((await alice.message.next()).data, 'hi');
});

inBothWays('a client that was removed signs in again', async (t, join) => {
  const server = await startServer(t, OPERATED);
  const alice = await join(t, server.http, 'alice');
  const {id} = alice.signaling;
  await alice.connected.next();
  assert.equal((await fetch(`${server.operator}/peers/${id}`, {method: 'DELETE'})).status, 200);
  const {id: next, resumed} = await alice.connected.next();
  assert.ok(next !== id && !resumed);
  // Not a refusal.
  assert.equal((await alice.disconnected.next()).cause.status, 0);
  await alice.signaling.send(next, 'hi');
  assert.equal((await alice.message.next()).data, 'hi');
});

inBothWays('after a client leaves, another one can use the same storage and name', async (t, join) => {
  const server = await startServer(t, {WEBRTC_PEER_TOKENS: 'required'});
  const shared = storage();
  const alice = await join(t, server.http, 'alice', {storage: shared});
  const bob = await join(t, server.http, 'bob');
  const {id} = alice.signaling;
  await bob.signaling.send(id, 'one');
  await alice.message.next();
  alice.signaling.leave();
  await bob.signaling.send(id, 'two');
  const again = await join(t, server.http, 'alice', {storage: shared});
  assert.deepEqual(await again.connected.next(), {id, resumed: true});
  assert.equal((await again.message.next()).data, 'two');
  // What it is now is nobody else's to take over.
  const other = await join(t, server.http, 'alice', {storage: shared});
  assert.notEqual(other.signaling.id, id);
});

test('it beats as often as the server asks, and when a wait returns', async (t) => {
  // However long waits may last.
  const server = await startServer(t, {
    ...OPERATED, WEBRTC_HEARTBEAT_MS: '900', WEBRTC_HEARTBEAT_GC_MS: '50', WEBRTC_WAIT_MS: '0',
  });
  // Timers that are as slow as those of a hidden page.
  t.mock.method(globalThis, 'setInterval', () => 0);
  const alice = await client(t, server.http, 'alice', POLL);
  const {id} = alice.signaling;
  const peer = async () => (await fetch(`${server.operator}/peers/${id}`)).json();
  await until(async () => (await peer()).heartbeat);
  const {since} = await peer();
  await until(async () => {
    const {lastSeen} = await peer();
    return Date.parse(lastSeen) - Date.parse(since) > 3 * 900;
  });
  assert.equal(alice.signaling.id, id);
});

inBothWays('a receiver that takes no messages does not hold up those to others', async (t, join) => {
  const server = await startServer(t, {WEBRTC_MAX_MESSAGE_BYTES: '100', WEBRTC_MAX_PENDING_BYTES: '600'});
  const alice = await join(t, server.http, 'alice');
  const full = await pollingPeer(server, 'full');
  const bob = await pollingPeer(server, 'bob');
  const sends = ['1', '2', '3', '4'].map((text) => alice.signaling.send(full.id, text));
  await Promise.all(sends.slice(0, 2));
  await alice.signaling.send(bob.id, 'hi');
  assert.equal((await bob.message()).text, 'hi');
  for (const text of ['1', '2', '3', '4']) assert.equal((await full.message()).text, text);
  await Promise.all(sends);
});

inBothWays('a message of nothing but a byte order mark arrives, and those behind it', async (t, join) => {
  const server = await startServer(t);
  const alice = await join(t, server.http, 'alice');
  const bob = await pollingPeer(server, 'bob');
  for (const text of ['\uFEFF', '\uFEFFx', 'y']) {
    assert.equal(await bob.send(alice.signaling.id, text), 200);
    assert.equal((await alice.message.next()).data, text);
  }
});

/** A server that signs everybody in, and answers what else is asked with these in turn, or never. */
async function pretended(t, {waits = [], messages = []}) {
  const asked = [];
  const signedIn = {Pragma: '1', 'X-Peer-Token': 'x'};
  const server = http.createServer((request, response) => {
    const {pathname, searchParams} = new URL(request.url, 'http://x');
    const answer = (status, headers, text = '') => response.writeHead(status, headers).end(text);
    if (pathname === '/message') {
      asked.push([searchParams.get('to'), searchParams.get('seq')]);
      if (messages.length > 0) answer(...messages.shift());
    } else if (pathname !== '/wait') {
      answer(200, signedIn, 'alice,1,1\n');
    } else if (waits.length > 0) {
      answer(200, signedIn, waits.shift());
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  atEnd(t, () => { server.closeAllConnections(); server.close(); });
  return {http: `http://127.0.0.1:${server.address().port}`, server, asked};
}

test('peers are told when they change, not whenever a wait ends', async (t) => {
  const [alone, two] = ['alice,1,1\n', 'bob,2,1\nalice,1,1\n'];
  const server = await pretended(t, {waits: [alone, alone, two, two, alone]});
  const alice = await client(t, server.http, 'alice', POLL);
  const bob = {id: 2, name: 'bob', connected: true};
  assert.deepEqual(await alice.peers.take(3), [
    {peers: [], joined: [], left: []},
    {peers: [bob], joined: [bob], left: []},
    {peers: [], joined: [], left: [bob]},
  ]);
});

test('what may have been accepted is sent again with its number, what was refused with another', async (t) => {
  const full = {'X-Error': 'mailbox_full'};
  const messages = [[503, {}], [502, {}], [503, full], [200, {}], [200, {}]];
  const server = await pretended(t, {messages});
  const alice = await client(t, server.http, 'alice', POLL);
  await Promise.all([alice.signaling.send(7, 'a'), alice.signaling.send(8, 'b')]);
  assert.deepEqual(server.asked.slice(0, 3), [['7', '1'], ['7', '1'], ['7', '1']]);
  assert.deepEqual(server.asked.slice(3), [['8', '2'], ['7', '3']]);
});

test('a send that is not answered ends when the client is closed', async (t) => {
  const server = await pretended(t, {});
  const alice = await client(t, server.http, 'alice', POLL);
  const sent = alice.signaling.send(7, 'a');
  await until(() => server.asked.length > 0);
  // From now on no timer ends.
  const {setTimeout: start} = globalThis;
  t.mock.method(globalThis, 'setTimeout', () => start(() => {}, 2 ** 30).unref());
  const closed = alice.signaling.close();
  await assert.rejects(sent, SignalingError);
  await closed;
});

test('a wait on a dead connection is given up', async (t) => {
  const waits = new Inbox();
  const server = http.createServer((request, response) => {
    if (request.url.startsWith('/wait')) return waits.put(request.url);
    response.writeHead(200, {Pragma: '1', 'X-Peer-Token': 'x', 'X-Heartbeat-Interval': '1000'});
    return response.end('alice,1,1\n');
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  atEnd(t, () => { server.closeAllConnections(); server.close(); });
  const alice = await client(t, `http://127.0.0.1:${server.address().port}`, 'alice', POLL);
  // What is under way keeps its timers; the next wait's are these.
  t.mock.timers.enable({apis: ['setTimeout']});
  assert.match(await waits.next(), /limit=1000/);
  server.closeAllConnections();
  while (waits.length === 0) {
    await new Promise(setImmediate);
    t.mock.timers.tick(100);
  }
  await waits.next();
  // By then it is over even at a server that answers as late as it may.
  t.mock.timers.tick(1000 + 15_000);
  let ms = 0;
  for (; waits.length === 0; ms += 100) {
    await new Promise(setImmediate);
    t.mock.timers.tick(100);
  }
  assert.ok(ms < 60_000, `${ms} ms`);
  assert.equal(alice.signaling.id, 1);
});

test('a socket on a dead connection is given up', async (t) => {
  const server = await pretended(t, {});
  const sockets = new Inbox();
  const asked = new Inbox();
  const door = new WebSocketServer({server: server.server});
  door.on('connection', (socket) => {
    sockets.put(socket);
    socket.on('message', (frame) => asked.put(JSON.parse(frame)));
    socket.send(JSON.stringify({type: 'id', peerId: '1', peerToken: 'x', maxFrameBytes: 1000}));
  });
  t.mock.timers.enable({apis: ['setTimeout']});
  /** The time, in ms, until there is something. */
  const passes = async (inbox) => {
    for (let ms = 0; ; ms += 100) {
      // What is on its way comes first.
      for (let turn = 0; turn < 20; turn += 1) await new Promise(setImmediate);
      if (inbox.length > 0) return ms;
      t.mock.timers.tick(100);
    }
  };
  await client(t, server.http, 'alice', {transport: 'websocket'});
  await passes(sockets);
  const first = await sockets.next();
  const isAbout = (ms, least) => assert.ok(ms >= least && ms < least + 30_000, `${ms} ms`);
  isAbout(await passes(asked), 24_000);
  assert.deepEqual(await asked.next(), {type: 'heartbeat'});
  // It is not dead.
  first.send('{"type":"heartbeat"}');
  isAbout(await passes(asked), 24_000);
  isAbout(await passes(sockets), 14_000);
});

test('a message at which every socket is cut goes by a request, however useful the sockets are', async (t) => {
  const server = await pretended(t, {messages: [[200, {}]]});
  const door = new WebSocketServer({server: server.server});
  let seq = 0;
  door.on('connection', (socket) => {
    socket.send(JSON.stringify({type: 'id', peerId: '1', peerToken: 'x', maxFrameBytes: 100_000}));
    seq += 1;
    socket.send(JSON.stringify({type: 'message', seq, from: '2', data: 'of use'}));
    socket.on('message', (frame) => { if (JSON.parse(frame).type === 'message') socket.terminate(); });
  });
  const alice = await client(t, server.http, 'alice');
  await alice.message.next();
  await alice.signaling.send(2, 'large');
  assert.deepEqual(server.asked, [['2', '1']]);
});

test('what is no id of a peer is refused at once, and so is a frame that the server cannot read', async (t) => {
  const server = await pretended(t, {});
  const door = new WebSocketServer({server: server.server});
  door.on('connection', (socket) => {
    socket.send(JSON.stringify({type: 'id', peerId: '1', peerToken: 'x', maxFrameBytes: 100_000}));
    socket.on('message', (frame) => {
      if (JSON.parse(frame).type === 'message') socket.send('{"type":"refused","error":"bad_frame"}');
    });
  });
  const alice = await client(t, server.http, 'alice', {transport: 'websocket'});
  await until(() => door.clients.size === 1);
  await assert.rejects(alice.signaling.send(2, 'hi'), {status: 400, code: 'bad_frame'});
  for (const to of ['\ud800', 'bob', 0, -1, undefined]) {
    assert.throws(() => alice.signaling.send(to, 'hi'), {name: 'TypeError', message: /^not the id of a peer/});
  }
});

test('a peer that is found to be gone when the client turns to long polls is told as lost', async (t) => {
  let signIns = 0;
  const server = http.createServer((request, response) => {
    if (!request.url.startsWith('/sign_in')) return;
    signIns += 1;
    response.writeHead(200, {Pragma: String(signIns), 'X-Peer-Token': 'x'}).end(`alice,${signIns},1\n`);
  });
  // There are no sockets: each is closed at once.
  server.on('upgrade', (request, socket) => socket.destroy());
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  atEnd(t, () => { server.closeAllConnections(); server.close(); });
  const alice = await client(t, `http://127.0.0.1:${server.address().port}`, 'alice');
  const {cause} = await alice.disconnected.next();
  assert.equal(cause.status, 0);
  assert.deepEqual(await alice.connected.take(2), [{id: 1, resumed: false}, {id: 2, resumed: false}]);
});

test('where WebSockets are forbidden, a client hears by long polls', async (t) => {
  const server = await startServer(t);
  t.mock.method(globalThis, 'WebSocket', function forbidden() { throw new DOMException('forbidden', 'SecurityError'); });
  const alice = await client(t, server.http, 'alice');
  await alice.signaling.send(alice.signaling.id, 'hi');
  assert.equal((await alice.message.next()).data, 'hi');
});

test('where no WebSocket opens, a client hears by long polls, and opens one when it can', async (t) => {
  const server = await startServer(t, {WEBRTC_DOORS: 'http'});
  const alice = await client(t, server.http, 'alice');
  await alice.signaling.send(alice.signaling.id, 'hi');
  assert.equal((await alice.message.next()).data, 'hi');
  const refused = new SignalingClient(server.http, {name: 'bob', transport: 'websocket'});
  atEnd(t, () => refused.close());
  const told = new Inbox();
  refused.addEventListener('disconnected', ({detail}) => told.put(detail));
  await refused.connect();
  assert.match((await told.next()).cause.message, /WebSocket does not open/);
});

inBothWays('what waits for a server that is restarted is sent to nobody else', ofOneProcess, async (t, join) => {
  const port = String(await freePort());
  const first = await startNode(t, {PORT: port});
  const alice = await join(t, first.http, 'alice');
  const bob = await pollingPeer(first, 'bob');
  first.process.kill('SIGKILL');
  await once(first.process, 'exit');
  const sends = ['a', 'b', 'c'].map((text) => alice.signaling.send(bob.id, text));
  const settled = Promise.allSettled(sends);
  const second = await startNode(t, {PORT: port});
  // One of these has the id that bob had.
  const others = [await pollingPeer(second, 'x'), await pollingPeer(second, 'y'), await pollingPeer(second, 'z')];
  assert.ok(others.some(({id}) => id === bob.id) || alice.signaling.id === Number(bob.id));
  for (const {status, reason} of await settled) {
    assert.equal(status, 'rejected');
    assert.ok([0, 403, 404].includes(reason.status), reason.message);
  }
});

/** A wire that cuts each socket as soon as it has opened; it counts them. */
async function socketCuttingWire(t, server) {
  const wire = {sockets: 0};
  const listener = net.createServer((client) => {
    client.on('error', () => {});
    const upstream = net.connect(server.port, '127.0.0.1');
    upstream.on('error', () => {});
    client.pipe(upstream).pipe(client);
    client.once('data', (request) => {
      if (!/^GET \/ws/.test(request)) return;
      upstream.on('data', (heard) => {
        if (!heard.includes('"type":"peers"')) return;
        wire.sockets += 1;
        // What was sent arrives.
        client.end();
        upstream.destroy();
      });
    });
  });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  atEnd(t, () => listener.close());
  return Object.assign(wire, {http: `http://127.0.0.1:${listener.address().port}`});
}

test('a client whose sockets are cut as soon as they open hears by long polls', async (t) => {
  const server = await startServer(t);
  const wire = await socketCuttingWire(t, server);
  const alice = await client(t, wire.http, 'alice');
  await until(() => wire.sockets === 2);
  await alice.signaling.send(alice.signaling.id, 'hi');
  assert.equal((await alice.message.next()).data, 'hi');
  assert.equal(wire.sockets, 2);
  assert.equal(alice.disconnected.length, 0);
});

test('peers are told with who joined and who left, and to a new peer all are new', async (t) => {
  const server = await startServer(t, OPERATED);
  const alice = await client(t, server.http, 'alice');
  const bob = await client(t, server.http, 'bob');
  const names = ({peers, joined, left}) => [peers, joined, left].map((some) => some.map(({name}) => name));
  assert.deepEqual(names(await alice.peers.next()), [[], [], []]);
  assert.deepEqual(names(await alice.peers.next()), [['bob'], ['bob'], []]);
  assert.deepEqual(names(await bob.peers.next()), [['alice'], ['alice'], []]);
  await fetch(`${server.operator}/peers/${alice.signaling.id}`, {method: 'DELETE'});
  assert.deepEqual(names(await alice.peers.next()), [['bob'], ['bob'], ['bob']]);
  const carol = await client(t, server.http, 'carol');
  const {joined, left} = await alice.peers.next();
  assert.deepEqual([joined.map(({id}) => id), left], [[carol.signaling.id], []]);
  await bob.signaling.close();
  assert.deepEqual(names(await alice.peers.next()), [['carol'], [], ['bob']]);
});

test('what is no signaling server is told to be none', async (t) => {
  const server = http.createServer((request, response) => response.end('<title>An application</title>'));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  atEnd(t, () => { server.closeAllConnections(); server.close(); });
  const signaling = new SignalingClient(`http://127.0.0.1:${server.address().port}`, {name: 'alice'});
  await assert.rejects(signaling.connect(), /there is no signaling server at http:/);
});

for (const moment of ['connected', 'peers']) {
  test(`a client that is closed when it is told "${moment}" leaves no peer behind`, async (t) => {
    const server = await startServer(t, OPERATED);
    const signaling = new SignalingClient(server.http, {name: 'alice'});
    let late = 0;
    signaling.addEventListener('disconnected', () => {
      signaling.addEventListener('peers', () => { late += 1; });
    });
    signaling.addEventListener(moment, () => signaling.close());
    await assert.rejects(signaling.connect(), /was closed/);
    await untilNobody(server);
    assert.equal(late, 0);
  });
}

test('a client that is closed while it signs in leaves no peer behind', async (t) => {
  const server = await startServer(t, OPERATED);
  const events = await fetch(`${server.operator}/events`);
  const signaling = new SignalingClient(server.http, {name: 'alice'});
  const connecting = signaling.connect();
  await signaling.close();
  await assert.rejects(connecting, /was closed/);
  // It was in the list, and is no more.
  let text = '';
  for await (const chunk of events.body.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    if (text.includes('event: disconnect')) break;
  }
  assert.match(text, /signed_out/);
});

inBothWays('the last request of a client that is closed outlives its page', async (t, join) => {
  const server = await startServer(t, OPERATED);
  const alice = await join(t, server.http, 'alice');
  const {mock} = t.mock.method(globalThis, 'fetch');
  await alice.signaling.close();
  const [, options] = mock.calls.map((call) => call.arguments).find(([url]) => /sign_out/.test(url));
  assert.equal(options.keepalive, true);
  await untilNobody(server);
});

inBothWays('what has left can still be signed out', async (t, join) => {
  const server = await startServer(t, OPERATED);
  const alice = await join(t, server.http, 'alice', {storage: storage()});
  alice.signaling.leave();
  await alice.signaling.close();
  await untilNobody(server);
});

test('a heartbeat that could not start starts when it is asked for again', async (t) => {
  const {heartbeatStart, heartbeatStop} = await import(CLIENT.replace('client.js', 'heartbeat.js'));
  const server = await startServer(t, {...OPERATED, WEBRTC_ACCESS_TOKEN: 'secret'});
  const wrong = `${server.http}/nowhere`;
  await assert.rejects(heartbeatStart({name: 'alice', url: wrong}), SignalingError);
  await assert.rejects(heartbeatStart({name: 'alice', url: server.http}), {status: 401});
  const started = {name: 'alice', url: server.http, accessToken: 'secret'};
  await heartbeatStart(started);
  await heartbeatStart(started);
  await assert.rejects(heartbeatStart({name: 'bob', url: server.http}), TypeError);
  const peers = await (await fetch(`${server.operator}/peers`)).json();
  assert.deepEqual(peers.map(({name}) => name), ['alice']);
  await heartbeatStop();
  await untilNobody(server);
});
