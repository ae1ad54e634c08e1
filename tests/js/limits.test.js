// Limits, each filled, and what goes on beside it.

import assert from 'node:assert/strict';
import {spawnSync} from 'node:child_process';
import {once} from 'node:events';
import http from 'node:http';
import net from 'node:net';
import {test} from 'node:test';

import WebSocket from 'ws';

import {BINARY, atEnd, clients, eventStream, nodeOf, ownClient, pause, pollingPeer, startNode, startServer, told, until} from './support.js';

/** A GET from another address of this machine, on a connection of its own. */
function getFrom(address, server, target, headers = {}) {
  return new Promise((resolve, reject) => {
    const options = {localAddress: address, agent: false, headers};
    const request = http.get(`${server.http}${target}`, options, async (answer) => {
      const chunks = [];
      for await (const chunk of answer) chunks.push(chunk);
      resolve({status: answer.statusCode, headers: answer.headers, text: Buffer.concat(chunks).toString()});
    });
    request.on('error', reject);
  });
}

/** Connections that have sent nothing, as many as this. */
async function idleConnections(t, server, count, localAddress = '127.0.0.1') {
  const sockets = [];
  for (let number = 0; number < count; number += 1) {
    const socket = net.connect({port: server.port, host: '127.0.0.1', localAddress});
    socket.on('error', () => {});
    atEnd(t, () => socket.destroy());
    await once(socket, 'connect');
    sockets.push(socket);
  }
  return sockets;
}

const one = /^[^\n]+\n$/;

test('one connection too many is told so and closed, and those that are open go on', async (t) => {
  const server = await startNode(t, {WEBRTC_MAX_CONNECTIONS: '20', WEBRTC_ADMIN_LISTEN: '127.0.0.1:0'});
  const peer = new WebSocket(`${server.ws}/?events=true`);
  atEnd(t, () => peer.terminate());
  await once(peer, 'message');
  const idle = await idleConnections(t, server, 19);
  for (let number = 0; number < 5; number += 1) {
    const {status, headers, text} = await getFrom('127.0.0.1', server, '/healthz');
    assert.equal(status, 503);
    assert.equal(headers['retry-after'], '1');
    assert.match(text, one);
  }
  // What the operator asks has places of its own.
  for (const path of ['healthz', 'readyz']) assert.equal(await (await fetch(`${server.operator}/${path}`)).text(), 'ok');
  const env = {PORT: String(server.port), WEBRTC_ADMIN_LISTEN: server.operator.replace('http://', '')};
  assert.equal(spawnSync(BINARY, ['healthcheck'], {env}).status, 0);
  const pong = once(peer, 'pong');
  peer.ping();
  await pong;
  idle.pop().destroy();
  await until(async () => (await getFrom('127.0.0.1', server, '/healthz')).status === 200);
});

test('an address has only so many connections, and others have theirs', async (t) => {
  const server = await startNode(t, {WEBRTC_MAX_CONNECTIONS_PER_IP: '10', WEBRTC_TRUSTED_PROXIES: '127.0.0.9'});
  const idle = await idleConnections(t, server, 10);
  const {status, headers, text} = await getFrom('127.0.0.1', server, '/healthz');
  assert.equal(status, 429);
  assert.equal(headers['retry-after'], '1');
  assert.match(text, one);
  assert.equal((await getFrom('127.0.0.2', server, '/healthz')).status, 200);
  // A proxy has those of all its clients.
  await idleConnections(t, server, 20, '127.0.0.9');
  assert.equal((await getFrom('127.0.0.9', server, '/healthz')).status, 200);
  idle.pop().destroy();
  await until(async () => (await getFrom('127.0.0.1', server, '/healthz')).status === 200);
});

test('an address signs in only so often, at all doors together, and goes on otherwise', async (t) => {
  const server = await startNode(t, {WEBRTC_SIGN_INS_PER_IP: '4/h', WEBRTC_TRUSTED_PROXIES: '127.0.0.9'});
  const first = await getFrom('127.0.0.1', server, '/sign_in?peer_name=a');
  assert.equal(first.status, 200);
  assert.equal((await getFrom('127.0.0.1', server, '/rooms/blue/sign_in?peer_name=a')).status, 200);
  const socket = new WebSocket(`${server.ws}/`, {localAddress: '127.0.0.1'});
  atEnd(t, () => socket.terminate());
  await once(socket, 'open');
  const io = clients[4](server.http, {forceNew: true, reconnection: false, transports: ['websocket']});
  atEnd(t, () => io.close());
  await once(io, 'connect');

  const refused = await getFrom('127.0.0.1', server, '/sign_in?peer_name=a');
  assert.equal(refused.status, 429);
  assert.match(refused.text, one);
  const wait = Number(refused.headers['retry-after']);
  assert.ok(wait > 800 && wait <= 901, `${wait}`);
  const upgrade = new WebSocket(`${server.ws}/`);
  upgrade.on('error', () => {});
  const [, answer] = await once(upgrade, 'unexpected-response');
  assert.equal(answer.statusCode, 429);
  answer.destroy();
  for (const transport of ['polling', 'websocket']) {
    const late = clients[4](server.http, {forceNew: true, reconnection: false, transports: [transport]});
    atEnd(t, () => late.close());
    await once(late, 'connect_error');
  }
  assert.equal((await getFrom('127.0.0.1', server, `/heartbeat?peer_id=${first.headers.pragma}`)).status, 200);

  assert.equal((await getFrom('127.0.0.2', server, '/sign_in?peer_name=a')).status, 200);
  // Behind a proxy each client counts for itself, whatever it writes into the header.
  for (let number = 0; number < 4; number += 1) {
    const headers = {'X-Forwarded-For': `192.0.2.${number}, 192.0.2.77`};
    assert.equal((await getFrom('127.0.0.9', server, '/sign_in?peer_name=a', headers)).status, 200);
  }
  const same = {'X-Forwarded-For': '192.0.2.99, 192.0.2.77'};
  assert.equal((await getFrom('127.0.0.9', server, '/sign_in?peer_name=a', same)).status, 429);
  const other = {'X-Forwarded-For': '192.0.2.78'};
  assert.equal((await getFrom('127.0.0.9', server, '/sign_in?peer_name=a', other)).status, 200);
});

test('an address has only so many peers, of all doors and rooms, and others have theirs', async (t) => {
  const server = await startServer(t, {WEBRTC_MAX_PEERS_PER_IP: '3', WEBRTC_LOG_ADDRESSES: 'false'});
  const {http: url, ws} = {http: nodeOf(server.http), ws: nodeOf(server.http).replace('http', 'ws')};
  const own = {...server, http: url};
  const first = await getFrom('127.0.0.1', own, '/sign_in?peer_name=a');
  const socket = new WebSocket(`${ws}/rooms/blue`, {localAddress: '127.0.0.1'});
  atEnd(t, () => socket.terminate());
  await once(socket, 'message');
  const connect = async () => {
    const io = clients[4](url, {forceNew: true, reconnection: false, transports: ['websocket']});
    atEnd(t, () => io.close());
    return Promise.race([once(io, 'connect').then(() => io), once(io, 'connect_error').then(([error]) => error.message)]);
  };
  const io = await connect();
  assert.equal(io.connected, true);

  const refused = await getFrom('127.0.0.1', own, '/sign_in?peer_name=a');
  assert.equal(refused.status, 429);
  assert.match(refused.text, one);
  assert.equal(await connect(), 'Too many clients of this address');
  const late = new WebSocket(`${ws}/`);
  const [code] = await once(late, 'close');
  assert.equal(code, 1013);
  assert.equal((await getFrom('127.0.0.2', own, '/sign_in?peer_name=a')).status, 200);

  await getFrom('127.0.0.1', own, `/sign_out?peer_id=${first.headers.pragma}`);
  assert.equal((await getFrom('127.0.0.1', own, '/sign_in?peer_name=a')).status, 200);
  io.close();
  await until(async () => (await getFrom('127.0.0.1', own, '/sign_in?peer_name=a')).status === 200);
  assert.equal((await getFrom('127.0.0.1', own, '/sign_in?peer_name=a')).status, 429);
});

test('client.js waits as long as the server asks when its address has too many peers', async (t) => {
  const server = await startNode(t, {WEBRTC_MAX_PEERS_PER_IP: '1'});
  const SignalingClient = await ownClient(server);
  const first = await getFrom('127.0.0.1', server, '/sign_in?peer_name=first');
  const client = new SignalingClient(server.http, {name: 'a'});
  const refused = once(client, 'disconnected');
  const connecting = client.connect();
  const [{detail: {cause}}] = await refused;
  assert.equal(cause.status, 429);
  assert.equal(cause.retryAfter, 1000);
  await getFrom('127.0.0.1', server, `/sign_out?peer_id=${first.headers.pragma}`);
  await connecting;
  await client.close();
});

test('a server that is full is healthy', async (t) => {
  const server = await startNode(t, {WEBRTC_MAX_CONNECTIONS: '3'});
  await idleConnections(t, server, 3);
  const {status} = spawnSync(BINARY, ['healthcheck'], {env: {HOST: '127.0.0.1', PORT: String(server.port)}});
  assert.equal(status, 0);
});

test('who guesses tokens at /connections is counted like one that signs in', async (t) => {
  const server = await startNode(t, {WEBRTC_ACCESS_TOKEN: 'x', WEBRTC_SIGN_INS_PER_IP: '2/h'});
  const guess = async (token) => (await getFrom('127.0.0.1', server, `/connections?access_token=${token}`)).status;
  assert.deepEqual([await guess('a'), await guess('b'), await guess('x')], [401, 401, 429]);
});

/** POSTs whose bodies do not end, of this many bytes, until the server refuses one. */
async function unfinishedPosts(t, server, target, bytes) {
  const posts = [];
  for (let status = ''; !status; assert.ok(posts.length < 100)) {
    const [socket] = await idleConnections(t, server, 1);
    posts.push(socket);
    const head = `POST ${target} HTTP/1.1\r\nHost: x\r\nContent-Length: ${bytes + 1}\r\n\r\n`;
    socket.write(head + 'x'.repeat(bytes));
    // One that is refused later does no harm.
    status = await Promise.race([once(socket, 'data').then(String), pause(50).then(() => '')]);
    if (status) assert.match(status, /^HTTP\/1.1 503 /);
  }
  return posts;
}

/** The status of a POST whose body comes after its head. */
async function slowPost(t, server, target, body) {
  const [socket] = await idleConnections(t, server, 1);
  socket.write(`POST ${target} HTTP/1.1\r\nHost: x\r\nContent-Length: ${body.length}\r\n\r\n`);
  await pause(20);
  socket.write(body);
  return Number(String(await once(socket, 'data')).split(' ')[1]);
}

test('when clients make the server hold all it may, nothing more is taken, and what was goes on', async (t) => {
  const server = await startNode(t, {WEBRTC_MAX_BUFFERED_BYTES: String(3 << 20), WEBRTC_ADMIN_LISTEN: '127.0.0.1:0'});
  const [a, b] = [await pollingPeer(server, 'a'), await pollingPeer(server, 'b')];
  const send = (body) => fetch(`${server.http}/message?peer_id=${a.id}&to=${b.id}`, {method: 'POST', body});
  assert.equal((await send('kept')).status, 200);
  const socket = new WebSocket(`${server.ws}/`);
  atEnd(t, () => socket.terminate());
  await once(socket, 'message');
  const handshake = await (await fetch(`${server.http}/socket.io/?EIO=4&transport=polling`)).text();
  const polling = `/socket.io/?EIO=4&transport=polling&sid=${JSON.parse(handshake.slice(1)).sid}`;
  assert.equal(await slowPost(t, server, polling, '40'), 200);
  const posts = [];
  for (const bytes of [400_000, 40_000]) {
    posts.push(...await unfinishedPosts(t, server, `/message?peer_id=${a.id}&to=${b.id}`, bytes));
  }

  assert.equal((await getFrom('127.0.0.1', server, '/sign_in?peer_name=c')).status, 503);
  const more = 'x'.repeat(100_000);
  const refused = await send(more);
  assert.equal(refused.status, 503);
  assert.equal(refused.headers.get('retry-after'), '1');
  assert.equal(refused.headers.get('x-error'), null);
  assert.match(await refused.text(), one);
  const closed = once(socket, 'close');
  socket.send(JSON.stringify({receiverId: a.id, more}));
  assert.equal((await closed)[0], 1013);
  const upgrade = new WebSocket(`${server.ws}/`);
  upgrade.on('error', () => {});
  const [, answer] = await once(upgrade, 'unexpected-response');
  assert.equal(answer.statusCode, 503);
  answer.destroy();
  const late = clients[4](server.http, {forceNew: true, reconnection: false, transports: ['websocket']});
  atEnd(t, () => late.close());
  assert.equal((await once(late, 'connect_error'))[0].message, 'The server is full');

  // Waits, heartbeats and sign-outs go on, and what was accepted is there.
  assert.equal((await b.message()).text, 'kept');
  assert.equal((await fetch(`${server.http}/heartbeat?peer_id=${a.id}`)).status, 200);
  // A Socket.IO client by polling sends its heartbeat as a POST, whose body may come later.
  assert.equal(await slowPost(t, server, polling, '3'), 200);
  for (const post of posts) post.destroy();
  await until(async () => (await send(more)).status === 200);
});

test('peers that read nothing are removed when little is left, the largest first', async (t) => {
  const server = await startNode(t, {
    WEBRTC_MAX_BUFFERED_BYTES: '3900000', WEBRTC_HEARTBEAT_MS: '60000', WEBRTC_ADMIN_LISTEN: '127.0.0.1:0',
  });
  const events = await eventStream(t, server);
  const peers = ['a', 'small', 'large', 'other'].map((name) => pollingPeer(server, name));
  const [a, small, large, other] = await Promise.all(peers);
  assert.equal(await a.send(small.id, 'x'.repeat(1000)), 200);
  for (let number = 0; number < 3; number += 1) assert.equal(await a.send(large.id, 'x'.repeat(500_000)), 200);
  // Beyond seven eighths, which is too soon at first: this one holds more, but not for long.
  for (let number = 0; number < 5; number += 1) await a.send(other.id, 'x'.repeat(500_000));
  const isGone = async () => {
    await other.message();
    await a.send(other.id, 'x'.repeat(500_000));
    return (await fetch(`${server.operator}/peers/${large.id}`)).status === 404;
  };
  await until(isGone);
  let event;
  do event = await events.next(); while (event.event !== 'disconnect');
  assert.deepEqual(told(event), ['disconnect', Number(large.id), 'closed']);
  for (const {id} of [small, other]) assert.equal((await fetch(`${server.operator}/peers/${id}`)).status, 200);
});
