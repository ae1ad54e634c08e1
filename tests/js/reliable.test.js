// Reliable-Signaler: our script, and the unmodified one from npm with
// socket.io-client 4, each in a page of its own.

import assert from 'node:assert/strict';
import {once} from 'node:events';
import {createRequire} from 'node:module';
import {readFileSync} from 'node:fs';
import {test} from 'node:test';

import {JSDOM} from 'jsdom';

import {atEnd, Inbox, cuttableWire, nodeOf, socketIoClient, startServer, until, ofOneProcess} from './support.js';

const require = createRequire(import.meta.url);
const ORIGINAL = readFileSync(require.resolve('reliable-signaler/signaler.js'), 'utf8');
const LIBRARY = readFileSync(
  new URL('./node_modules/socket.io-client-4/dist/socket.io.min.js', import.meta.url), 'utf8');

/** A page of the server, with our script. `room`: `/rooms/NAME`, for that room. */
async function ourPage(t, url, room = '') {
  return page(t, url, `<script src="${room}/reliable-signaler/signaler.js"></script>`);
}

/** A page with the original script and the library that it needs. */
async function originalPage(t, url, room = '') {
  const window = await page(t, url, '');
  window.eval(LIBRARY);
  if (room) {
    // The original script takes no path.
    const {io} = window;
    const inRoom = (server, options) => io(server, {...options, path: `${room}/socket.io/`});
    window.io = Object.assign(inRoom, {connect: inRoom});
  }
  window.eval(ORIGINAL);
  return window;
}

async function page(t, url, html) {
  const dom = new JSDOM(`<!doctype html>${html}`, {
    url: `${nodeOf(url)}/`, runScripts: 'dangerously', resources: 'usable', pretendToBeVisual: true,
  });
  atEnd(t, () => dom.window.close());
  if (dom.window.document.readyState !== 'complete') await once(dom.window, 'load');
  return dom.window;
}

/** What an application does in a page: a signaler, and one channel. */
function use(window, url, userid, options) {
  const connection = {userid, channel: 'room'};
  const signaler = window.initReliableSignaler(connection, `${window.location.origin}/`, options);
  const messages = new Inbox();
  const opened = new Promise((resolve) => {
    connection.signal = connection.openSignalingChannel({
      onmessage: (message) => messages.put(message), onopen: resolve,
    });
  });
  return {
    connection, signaler, messages, opened,
    send: (message) => connection.signal.send(message),
    create: (room) => new Promise((resolve) => signaler.createNewRoomOnServer(room, resolve)),
    find: (room) => new Promise((resolve) => signaler.getRoomFromServer(room, resolve)),
  };
}

for (const [name, open] of [['our script', ourPage], ['the original script', originalPage]]) {
  test(`${name} creates rooms, finds them, and passes messages on`, async (t) => {
    const server = await startServer(t);
    const windows = [await open(t, server.http), await open(t, server.http)];
    const [a, b] = windows.map((window, index) => use(window, server.http, `user${index}`));
    await Promise.all([a.opened, b.opened]);
    // Asked for before it exists.
    const found = b.find('constructor');
    await a.create('constructor');
    assert.equal(await found, 'constructor');
    assert.equal(await b.find('constructor'), 'constructor');
    for (let number = 0; number < 1000; number += 1) a.send({number});
    const numbers = (await b.messages.take(1000)).map((message) => message.number);
    assert.deepEqual(numbers, [...Array(1000).keys()]);
    b.send('back');
    assert.equal(await a.messages.next(), 'back');
  });
}

test('both scripts meet only those of their own room of the server', async (t) => {
  const server = await startServer(t);
  const rooms = await Promise.all(['/rooms/one', '/rooms/two', ''].map(async (room) => {
    const a = use(await ourPage(t, server.http, room), server.http, 'a');
    const b = use(await originalPage(t, server.http, room), server.http, 'b');
    await Promise.all([a.opened, b.opened]);
    return {a, b, room};
  }));
  for (const {a, b, room} of rooms) {
    // The same name, once in each.
    await a.create('meeting');
    assert.equal(await b.find('meeting'), 'meeting');
    a.send(`from ${room}`);
  }
  for (const {b, room} of rooms) assert.equal(await b.messages.next(), `from ${room}`);
  for (const {b, room} of rooms) b.send(`back in ${room}`);
  for (const {a, b, room} of rooms) {
    assert.equal(await a.messages.next(), `back in ${room}`);
    assert.equal(a.messages.length + b.messages.length, 0);
  }
});

test('two of our scripts that send each other more than a mailbox holds lose nothing', async (t) => {
  const server = await startServer(t);
  const both = [];
  for (const name of ['a', 'b']) both.push(use(await ourPage(t, server.http), server.http, name));
  // Only who is there is told.
  await Promise.all(both.map(({create}) => create('room')));
  const count = 300;
  for (let number = 0; number < count; number += 1) {
    for (const {send} of both) send({number, filling: 'x'.repeat(20_000)});
  }
  for (const {messages} of both) {
    const numbers = (await messages.take(count)).map(({number}) => number);
    assert.deepEqual(numbers, [...Array(count).keys()]);
  }
});

test('our script and the original one understand each other', async (t) => {
  const server = await startServer(t);
  const a = use(await ourPage(t, server.http), server.http, 'a');
  const b = use(await originalPage(t, server.http), server.http, 'b');
  await a.create('room');
  assert.equal(await b.find('room'), 'room');
  a.send({hello: 1});
  assert.deepEqual({...(await b.messages.next())}, {hello: 1});
  b.send({hello: 2});
  assert.deepEqual({...(await a.messages.next())}, {hello: 2});
});

test('with our script every message arrives once and in order however often the wire is cut', async (t) => {
  const server = await startServer(t);
  const [wireA, wireB] = [await cuttableWire(t, server), await cuttableWire(t, server)];
  const a = use(await ourPage(t, wireA.http), wireA.http, 'a');
  const b = use(await ourPage(t, wireB.http), wireB.http, 'b');
  await a.create('room');
  await b.find('room');
  const numbers = [...Array(1000).keys()];
  const [fromA, fromB] = [[], []];
  const seed = Math.floor(Math.random() * 2 ** 31);
  t.diagnostic(`seed ${seed}`);
  let state = seed;
  const random = (below) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return (state >>> 8) % below;
  };
  const cutsAt = new Map(Array.from({length: 6}, () => [random(1000), [wireA, wireB][random(2)]]));
  const receive = async (peer, received) => {
    while (received.length < 1000) received.push((await peer.messages.next()).number);
  };
  const received = Promise.all([receive(b, fromA), receive(a, fromB)]);
  for (const number of numbers) {
    a.send({number});
    b.send({number});
    if (number % 10 === 0) await new Promise((resolve) => setTimeout(resolve, 2));
    if (cutsAt.has(number)) cutsAt.get(number).cut();
  }
  await received;
  assert.deepEqual(fromA, numbers);
  assert.deepEqual(fromB, numbers);
  // The room is still there, for a socket of another client too.
  assert.equal(await b.find('room'), 'room');
  assert.equal(a.messages.length + b.messages.length, 0);
});

test('our script announces its rooms again when the server has forgotten them', async (t) => {
  const server = await startServer(t);
  const wire = await cuttableWire(t, server);
  const a = use(await ourPage(t, wire.http), wire.http, 'a');
  await a.create('room');
  // Another server behind the same address.
  const other = await startServer(t);
  server.port = other.port;
  wire.cut();
  const b = await socketIoClient(t, other.http);
  const found = await new Promise((resolve) => b.socket.emit('get-session-info', 'room', resolve));
  assert.equal(found, 'room');
  a.send('again');
  const [message] = await b.message.next();
  assert.equal(message.message, 'again');
});

test('a page that is closed leaves at once', async (t) => {
  const server = await startServer(t);
  const window = await ourPage(t, server.http);
  const a = use(window, server.http, 'a');
  await a.create('room');
  window.dispatchEvent(new window.Event('pagehide'));
  // Asked for by sockets of their own; the answer of each comes before the
  // message that it sends to the next.
  const roomExists = async () => {
    const [asks, tells] = [await socketIoClient(t, server.http), await socketIoClient(t, server.http)];
    let exists = false;
    asks.socket.emit('get-session-info', 'room', () => { exists = true; });
    await asks.settled();
    tells.socket.emit('message', 'after the answer');
    while ((await asks.message.next())[0] !== 'after the answer');
    return exists;
  };
  await until(async () => !(await roomExists()));
});

test('a full server lets our script come back, and a token is sent along', async (t) => {
  const server = await startServer(t, {WEBRTC_MAX_PEERS: '2', TOKEN: 'secret'});
  const wire = await cuttableWire(t, server);
  const auth = {token: 'secret'};
  const a = use(await ourPage(t, wire.http), wire.http, 'a', {auth});
  await a.create('room');
  const b = use(await ourPage(t, server.http), server.http, 'b', {auth});
  assert.equal(await b.find('room'), 'room');
  wire.cut();
  await until(() => !a.signaler.socket.connected);
  b.send('while it is away');
  assert.equal(await a.messages.next(), 'while it is away');
});

test('after a restart of the server our script comes back and sends what it had not', ofOneProcess, async (t) => {
  const server = await startServer(t);
  const a = use(await ourPage(t, server.http), server.http, 'a');
  await a.create('room');
  const exited = once(server.process, 'exit');
  server.process.kill('SIGTERM');
  await exited;
  await until(() => !a.signaler.socket.connected);
  a.send('later');
  const again = await startServer(t, {PORT: String(server.port)});
  const b = await socketIoClient(t, again.http);
  const [message] = await b.message.next();
  assert.equal(message.message, 'later');
  await new Promise((resolve) => b.socket.emit('get-session-info', 'room', resolve));
});

test('with our script a burst arrives, however large', async (t) => {
  const server = await startServer(t);
  const a = use(await ourPage(t, server.http), server.http, 'a');
  const b = use(await ourPage(t, server.http), server.http, 'b');
  await a.create('room');
  await b.find('room');
  for (let number = 0; number < 1000; number += 1) a.send({number, pad: 'x'.repeat(4000)});
  const numbers = (await b.messages.take(1000)).map((message) => message.number);
  assert.deepEqual(numbers, [...Array(1000).keys()]);
});

test('our small client connects as the library does', async (t) => {
  const server = await startServer(t, {TOKEN: 'secret'});
  const window = await page(t, server.http, '<script src="/socket.io/socket.io.js"></script>');
  const refused = window.io.connect(`${server.http}/`);
  const error = await new Promise((resolve) => refused.on('connect_error', resolve));
  assert.equal(error.message, 'Authentication error');
  const socket = window.io(server.http, {auth: {token: 'secret'}});
  const outcome = await new Promise((resolve) => socket.emit('messageOne', {target: 'x'}, resolve));
  assert.equal(outcome.error, 'unknown target');
  const messages = new Inbox();
  socket.on('message', (message) => messages.put(message));
  socket.emit('ready', 'A');
  assert.equal((await messages.next()).action, 'open');
  assert.ok(socket.id && socket.connected);
  socket.disconnect();
  await until(async () => (await server.peers()).length === 0);
});

test('the small client calls back when its message is accepted, and passes no callback on', async (t) => {
  const server = await startServer(t);
  const window = await page(t, server.http, '<script src="/socket.io/socket.io.js"></script>');
  const others = await socketIoClient(t, server.http);
  // As clients from npm take it.
  const socket = window.io.connect('', {reliable: true, path: '/socket.io'});
  await new Promise((resolve) => socket.emit('message', 'hi', resolve));
  assert.deepEqual(await others.message.next(), ['hi']);
});

test('the small client stays disconnected where the application said so', async (t) => {
  const server = await startServer(t);
  const window = await page(t, server.http, '<script src="/socket.io/socket.io.js"></script>');
  const socket = window.io.connect('', {reliable: true});
  const connected = () => new Promise((resolve) => socket.on('connect', resolve));
  const leaveAndReturn = () => {
    for (const type of ['pagehide', 'pageshow']) {
      window.dispatchEvent(new window.PageTransitionEvent(type, {persisted: true}));
    }
  };
  await connected();
  leaveAndReturn();
  await connected();
  socket.disconnect();
  leaveAndReturn();
  assert.ok(!socket._transport, 'it connects again');
});
