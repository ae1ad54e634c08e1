// The Socket.IO door, with socket.io-client 4, 2 and 1, by polling and by
// websocket, and the events of simple_webrtc_signaling_server.

import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import net from 'node:net';
import {test} from 'node:test';

import WebSocket from 'ws';

import {
  atEnd, clients, cuttableWire, killAtEnd, nodeOf, readyClient, socketIoClient, startServer, until, webSocketPeer, ofOneProcess,
} from './support.js';

const TRANSPORTS = ['polling', 'websocket'];
const JOINED = 'Peer has joined the signaling server';
const LEFT = 'Peer has left the signaling server';

/** A client that says what it is told to, and no more. */
async function rawClient(t, server) {
  const socket = new WebSocket(`${server.ws}/socket.io/?EIO=4&transport=websocket`);
  atEnd(t, () => socket.terminate());
  socket.on('error', () => {});
  const packet = (start) => new Promise((resolve) => {
    socket.on('message', (data) => data.toString().startsWith(start) && resolve());
  });
  await packet('0');
  socket.send('40');
  await packet('40');
  return socket;
}

/** One test for each client and each transport. */
function withEachClient(name, run) {
  for (const version of Object.keys(clients)) {
    for (const transport of TRANSPORTS) {
      const options = {version, transports: [transport]};
      test(`${name} (client ${version}, ${transport})`, (t) => run(t, options));
    }
  }
}

withEachClient('a client that is ready is greeted, announced, and missed when it leaves', async (t, options) => {
  const server = await startServer(t);
  const a = await readyClient(t, server, 'A', options);
  assert.deepEqual(a.greeting, {
    from: 'all', target: 'A', action: 'open', connections: {},
    payload: {action: 'open', connections: [], bePolite: false},
  });
  const b = await readyClient(t, server, 'B', options);
  const cards = await server.peers();
  const [cardA, cardB] = cards;
  assert.deepEqual(cards.map(({peerId, peerType}) => [peerId, peerType]), [['A', 'tester'], ['B', 'tester']]);
  assert.ok(cardA.socketId && cardB.socketId);
  assert.deepEqual(b.greeting, {
    from: 'all', target: 'B', action: 'open', connections: {A: cardA},
    payload: {action: 'open', connections: [cardA], bePolite: false},
  });
  assert.deepEqual(await a.message.next(), [{
    from: 'B', target: 'all', message: JOINED, action: 'open',
    payload: {action: 'open', connections: [cardB], bePolite: true},
  }]);
  b.socket.close();
  assert.deepEqual(await a.message.next(), [{
    from: 'B', target: 'all', message: LEFT, action: 'close',
    payload: {action: 'close', message: LEFT},
  }]);
  assert.equal((await server.peers()).length, 1);
});

withEachClient('a thousand messages to all and to one arrive in order, as they were sent', async (t, options) => {
  const server = await startServer(t);
  const a = await readyClient(t, server, 'A', options);
  const b = await readyClient(t, server, 'B', options);
  await a.message.next();
  for (let number = 0; number < 500; number += 1) {
    a.socket.emit('message', {from: 'A', target: 'all', number}, 'more');
    a.socket.emit('messageOne', {from: 'A', target: 'B', number, nested: [{}, null, 'é']});
  }
  for (let number = 0; number < 500; number += 1) {
    assert.deepEqual(await b.message.next(), [{from: 'A', target: 'all', number}, 'more']);
    assert.deepEqual(await b.message.next(), [{from: 'A', target: 'B', number, nested: [{}, null, 'é']}]);
  }
  assert.equal(a.message.length, 0);
});

withEachClient('a name that is taken is refused, and its holder stays', async (t, options) => {
  const server = await startServer(t);
  const holder = await readyClient(t, server, 'constructor', options);
  const other = await socketIoClient(t, server.http, options);
  other.socket.emit('ready', 'constructor');
  const text = 'constructor is already connected to the signalling server. ' +
    'Please change your peer ID and try again.';
  assert.deepEqual(await other.uniquenessError.next(), [{error: text, message: text}]);
  await other.disconnect.next();
  assert.equal((await server.peers()).length, 1);
  // It is free again when its holder is gone.
  holder.socket.close();
  await until(async () => (await server.peers()).length === 0);
  await readyClient(t, server, 'constructor', options);
});

withEachClient('odd arguments are answered or ignored, never fatal', async (t, options) => {
  const server = await startServer(t);
  const a = await readyClient(t, server, '__proto__', options);
  const b = await socketIoClient(t, server.http, options);
  const odd = [null, 7, true, [], {}, '', 'x'.repeat(2000), {target: null}, {target: 7}, {target: '99'},
    {target: 'constructor'}, {constructor: 1}, [[{target: '__proto__'}]]];
  for (const event of ['ready', 'messageOne', 'keep-in-server', 'keep-session', 'get-session-info', 'custom']) {
    b.socket.emit(event);
    if (event !== 'ready') odd.forEach((argument) => b.socket.emit(event, argument, argument));
    else odd.slice(0, 7).forEach((argument) => b.socket.emit(event, argument));
  }
  const answer = (...values) => new Promise((resolve) => b.socket.emit(...values, resolve));
  assert.deepEqual(await answer('messageOne'), {error: 'unknown target'});
  assert.deepEqual(await answer('messageOne', {target: 'nobody'}), {error: 'unknown target'});
  assert.deepEqual(await answer('messageOne', {target: '__proto__'}), {});
  assert.deepEqual(await a.message.next(), [{target: '__proto__'}]);
  assert.equal((await server.peers()).length, 1);
});

test('binary attachments are refused rather than mangled', async (t) => {
  const server = await startServer(t);
  const [a, b] = [await readyClient(t, server, 'A'), await readyClient(t, server, 'B')];
  await a.message.next();
  const answer = (...values) => new Promise((resolve) => b.socket.emit(...values, resolve));
  const error = {error: 'binary attachments are not passed on'};
  assert.deepEqual(await answer('messageOne', {target: 'A', data: Buffer.from('x')}), error);
  assert.deepEqual(await answer('message', Buffer.from('x')), error);
  b.socket.emit('messageOne', {target: 'A', last: true});
  assert.deepEqual(await a.message.next(), [{target: 'A', last: true}]);
});

test('a socket that is not ready hears and is heard, and is in no list', async (t) => {
  const server = await startServer(t);
  const a = await readyClient(t, server, 'A');
  const early = await socketIoClient(t, server.http);
  early.socket.emit('message', 'first');
  assert.deepEqual(await a.message.next(), ['first']);
  a.socket.emit('message', 'second');
  assert.deepEqual(await early.message.next(), ['second']);
  assert.equal((await server.peers()).length, 1);
});

test('no client connects without the token', async (t) => {
  const server = await startServer(t, {TOKEN: 'secret'});
  const wrong = [undefined, {}, {token: ''}, {token: 'secre'}, {token: 'secrets'}, {token: 7}, {token: null}];
  for (const auth of wrong) {
    await assert.rejects(socketIoClient(t, server.http, {auth}), {message: 'Authentication error'});
  }
  await readyClient(t, server, 'A', {auth: {token: 'secret'}});
  assert.equal((await server.peers()).length, 1);
});

test('sockets of one protocol do not hear the broadcasts of the other', async (t) => {
  const server = await startServer(t);
  const named = await readyClient(t, server, 'A');
  const [roomy, neither] = [await socketIoClient(t, server.http), await socketIoClient(t, server.http)];
  await roomy.settled();
  roomy.socket.emit('message', 'of rooms');
  named.socket.emit('message', 'of names');
  neither.socket.emit('message', 'of neither');
  assert.deepEqual(await roomy.message.take(1), [['of neither']]);
  assert.deepEqual(await named.message.take(1), [['of neither']]);
  const heard = (await neither.message.take(2)).flat().sort();
  assert.deepEqual(heard, ['of names', 'of rooms']);
});

test('a peer whose connection is cut is gone for the others at once', async (t) => {
  const server = await startServer(t);
  const wire = await cuttableWire(t, server);
  const a = await readyClient(t, server, 'A');
  const b = await readyClient(t, {...server, http: wire.http}, 'B', {transports: ['websocket']});
  await a.message.next();
  for (let number = 0; number < 100; number += 1) a.socket.emit('messageOne', {target: 'B', number});
  wire.cut();
  const [left] = await a.message.next();
  assert.equal(left.message, LEFT);
  assert.equal((await b.disconnect.next())[0], 'transport close');
});

test('a socket that does not read is removed and others do not notice', async (t) => {
  const server = await startServer(t, {WEBRTC_MAX_PENDING_BYTES: '600000'});
  const [a, b] = [await readyClient(t, server, 'A'), await readyClient(t, server, 'B')];
  await a.message.next();
  const deaf = await rawClient(t, server);
  deaf.send('42["ready","deaf"]');
  await a.message.next();
  deaf.pause();
  const pad = 'x'.repeat(100_000);
  for (let number = 0; number < 400; number += 1) {
    // One after the other: a client that floods is disconnected itself.
    await new Promise((resolve) => a.socket.emit('messageOne', {target: 'deaf', pad}, resolve));
    a.socket.emit('messageOne', {target: 'B', number});
  }
  await b.message.next();
  const numbers = [];
  while (numbers.length < 400) {
    const [message] = await b.message.next();
    if ('number' in message) numbers.push(message.number);
  }
  assert.deepEqual(numbers, [...Array(400).keys()]);
  await until(async () => (await server.peers()).length === 2);
});

test('lists that clients do not read take little more memory than one', ofOneProcess, async (t) => {
  const server = await startServer(t, {WEBRTC_HEARTBEAT_MS: '600000'});
  const name = 'n'.repeat(500);
  for (let number = 0; number < 8000; number += 50) {
    await Promise.all(Array.from({length: 50}, (_, more) => fetch(`${server.http}/sign_in?peer_name=${name}${number + more}`)));
  }
  await fetch(`${server.http}/connections`).then((reply) => reply.text());
  const before = server.resident();
  // Eight megabytes each, of which the kernel takes some.
  for (let number = 0; number < 20; number += 1) {
    const socket = await rawClient(t, server);
    socket.pause();
    socket.send(`42["ready","deaf${number}"]`);
    const request = net.connect({port: server.port, host: '127.0.0.1'});
    atEnd(t, () => request.destroy());
    request.write('GET /connections HTTP/1.1\r\nHost: x\r\n\r\n');
    request.pause();
    await until(async () => (await server.peers()).length === 8001 + number);
  }
  const grown = server.resident() - before;
  assert.ok(grown < 40 * 1024, `${grown} KiB more`);
});

test('wrong Engine.IO packets and silent connections leave the server as it was', ofOneProcess, async (t) => {
  const server = await startServer(t);
  const a = await readyClient(t, server, 'A');
  const url = `${server.http}/socket.io/`;
  for (const query of ['', '?EIO=4', '?EIO=5&transport=polling', '?EIO=4&transport=smoke',
    '?EIO=4&transport=polling&sid=nobody', '?EIO=4&transport=websocket']) {
    const {status} = await fetch(url + query);
    assert.ok(status >= 400 && status < 500, `${query}: ${status}`);
  }
  const before = server.resident();
  const rubbish = ['', '9', '4', '49', '42', '42[', '42{}', '42[]', '42[7]', '42[null]', '42["ready"', '45-', '451-["x"]',
    '43', '439[]', '4299999999999999999999["x"]', '2probe', '40/nowhere,', 'b', '\u0000', '42["x",{"_placeholder":true,"num":0}]'];
  for (const packet of rubbish) {
    const socket = await rawClient(t, server);
    socket.send(packet);
    socket.send(Buffer.from(packet));
  }
  const silent = Array.from({length: 1000}, () => {
    const socket = net.connect(server.port, '127.0.0.1');
    socket.on('error', () => {});
    return socket;
  });
  await Promise.all(silent.map((socket) => new Promise((resolve) => socket.once('connect', resolve))));
  a.socket.emit('messageOne', {target: 'A', still: 'here'});
  assert.deepEqual(await a.message.next(), [{target: 'A', still: 'here'}]);
  assert.equal((await server.peers()).length, 1);
  silent.forEach((socket) => socket.destroy());
  await a.settled();
  const grown = server.resident() - before;
  assert.ok(grown < 16 * 1024, `${grown} KiB more`);
});

test('no burst removes a peer, however large', async (t) => {
  const server = await startServer(t);
  const options = {transports: ['websocket']};
  const a = await readyClient(t, server, 'A', options);
  const b = await readyClient(t, server, 'B', options);
  await a.message.next();
  for (const [count, pad] of [[10_000, 0], [1000, 4000]]) {
    for (let number = 0; number < count; number += 1) {
      a.socket.emit('messageOne', {target: 'B', number, pad: 'x'.repeat(pad)});
    }
    const numbers = (await b.message.take(count)).map(([message]) => message.number);
    assert.deepEqual(numbers, [...Array(count).keys()]);
  }
});

test('a client that says again and again that it is ready, and does not read, costs one list', ofOneProcess, async (t) => {
  const server = await startServer(t);
  for (let number = 0; number < 500; number += 1) {
    await fetch(`${server.http}/sign_in?peer_name=${'n'.repeat(400)}${number}`);
  }
  const flood = await rawClient(t, server);
  flood.pause();
  const before = server.resident();
  const a = await readyClient(t, server, 'A');
  // Handled in order, so that those before it were when it is answered.
  for (let number = 0; number < 20_000; number += 1) flood.send('42["ready","flood"]');
  flood.send('42["messageOne",{"target":"A","last":true}]');
  const joined = await a.message.next();
  assert.equal(joined[0].from, 'flood');
  assert.deepEqual(await a.message.next(), [{target: 'A', last: true}]);
  const grown = server.resident() - before;
  assert.ok(grown < 16 * 1024, `${grown} KiB more`);
});

test('a client still hears the others after a burst of acknowledgements', async (t) => {
  const server = await startServer(t);
  const a = await readyClient(t, server, 'A', {transports: ['websocket']});
  const b = await readyClient(t, server, 'B', {transports: ['websocket']});
  // That B has joined.
  await a.message.next();
  const said = Array.from({length: 5000}, () => a.socket.emitWithAck('keep-in-server', 'room'));
  await Promise.all(said);
  b.socket.emit('message', 'hi');
  assert.deepEqual(await a.message.next(), ['hi']);
});

test('the id of a session is not shown to others, and the public id opens nothing', async (t) => {
  const server = await startServer(t);
  const transport = `${server.http}/socket.io/?EIO=4&transport=polling`;
  const victim = await readyClient(t, server, 'victim', {transports: ['polling']});
  const other = await readyClient(t, server, 'other');
  const secret = victim.socket.io.engine.id;
  const told = JSON.stringify([await server.peers(), other.greeting, (await victim.message.next())]);
  assert.ok(!told.includes(secret));
  const {socketId} = (await server.peers()).find(({peerId}) => peerId === 'victim');
  assert.equal(socketId, victim.socket.id);
  for (const [options, target] of [
    [{}, transport], [{method: 'POST', body: '1'}, transport],
  ]) {
    const answer = await fetch(`${target}&sid=${socketId}`, options);
    assert.equal(answer.status, 400);
  }
  other.socket.emit('messageOne', {target: 'victim', still: 'here'});
  assert.equal((await victim.message.next())[0].still, 'here');
});

for (const transport of ['polling', 'websocket']) {
  test(`a client that dies is gone at once, and its name is free (${transport})`, async (t) => {
    const server = await startServer(t);
    const start = async () => {
      const script = `import {io} from 'socket.io-client-4';
        const socket = io('${nodeOf(server.http)}', {transports: ['${transport}']});
        socket.on('connect', () => socket.emit('ready', 'alice'));
        socket.on('message', () => console.log('in'));
        socket.on('uniquenessError', () => console.log('taken'));`;
      const client = spawn(process.execPath, ['--input-type=module', '-e', script], {stdio: ['ignore', 'pipe', 'inherit']});
      killAtEnd(t, client);
      const [said] = await once(client.stdout, 'data');
      return [client, said.toString().trim()];
    };
    for (let time = 0; time < 3; time += 1) {
      const [client, said] = await start();
      assert.equal(said, 'in');
      client.kill('SIGKILL');
      await until(async () => (await server.peers()).length === 0);
    }
  });
}

test('sessions that never connect count against WEBRTC_MAX_PEERS', ofOneProcess, async (t) => {
  const server = await startServer(t, {WEBRTC_MAX_PEERS: '5'});
  const handshake = async (version) =>
    (await fetch(`${server.http}/socket.io/?EIO=${version}&transport=polling`)).status;
  const statuses = [];
  for (let number = 0; number < 10; number += 1) statuses.push(await handshake(4));
  assert.deepEqual(statuses, [...Array(5).fill(200), ...Array(5).fill(503)]);
});

test('sockets that do not read hold no more than their mailboxes', ofOneProcess, async (t) => {
  const server = await startServer(t, {WEBRTC_MAX_PENDING_BYTES: '600000'});
  const a = await socketIoClient(t, server.http, {transports: ['websocket']});
  const deaf = [];
  for (let number = 0; number < 20; number += 1) {
    deaf.push(await rawClient(t, server));
    deaf.at(-1).pause();
  }
  const before = server.resident();
  const pad = 'x'.repeat(100_000);
  // Each with an acknowledgement: a client that sends faster waits.
  for (let number = 0; number < 200; number += 1) await a.socket.emitWithAck('message', pad);
  const grown = server.resident() - before;
  assert.ok(grown < 20 * 1024, `${grown} KiB more`);
});

test('after a restart of the server clients come back by themselves', ofOneProcess, async (t) => {
  const server = await startServer(t);
  const {socket, disconnect} = await socketIoClient(t, server.http, {
    reconnection: true, reconnectionDelay: 20, transports: ['websocket'],
  });
  const exited = once(server.process, 'exit');
  server.process.kill('SIGTERM');
  assert.equal((await disconnect.next())[0], 'transport close');
  await exited;
  const again = new Promise((resolve) => socket.once('connect', resolve));
  await startServer(t, {PORT: String(server.port)});
  await again;
});

test('the start warns that the token guards one door only', async (t) => {
  const warned = ({log}) => log.some(({message}) => message.startsWith('TOKEN protects Socket.IO only'));
  assert.ok(warned(await startServer(t, {TOKEN: 'secret'})));
  assert.ok(!warned(await startServer(t, {TOKEN: 'secret', WEBRTC_DOORS: 'socketio'})));
});

test('peers of other doors are told of under their ids', async (t) => {
  const server = await startServer(t);
  await webSocketPeer(t, server, '?peer_name=Wes');
  const a = await readyClient(t, server, 'A');
  const wes = {peerId: '1', name: 'Wes'};
  assert.deepEqual(a.greeting.connections, {1: wes});
  assert.deepEqual(a.greeting.payload.connections, [wes]);
  assert.deepEqual((await server.peers())[0], wes);
});

test('the list of connections and the scripts may be used by any page', async (t) => {
  const server = await startServer(t);
  for (const [path, type] of [['/connections', 'application/json'],
    ['/socket.io/socket.io.js', 'text/javascript; charset=utf-8'],
    ['/reliable-signaler/signaler.js', 'text/javascript; charset=utf-8']]) {
    const response = await fetch(server.http + path);
    assert.equal(response.status, 200);
    assert.equal(response.headers.get('content-type'), type);
    assert.equal(response.headers.get('access-control-allow-origin'), '*');
  }
});
