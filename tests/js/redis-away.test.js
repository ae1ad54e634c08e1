// What a node makes of a Redis that is full, stands still, or is away for long.

import assert from 'node:assert/strict';
import {once} from 'node:events';
import http from 'node:http';
import {test} from 'node:test';

import {persistentRedis, startNodes, startWire} from './nodes.js';
import {atEnd, pause, pollingPeer, readyClient, socketIoClient, startNode, until, webSocketPeer} from './support.js';
import {inMemory, asking, post, script, waits} from './redis.js';

test('out of memory, messages and sign-ins are refused at once, and all else goes on', async (t) => {
  const redis = await inMemory(t);
  const {all: [node]} = await startNodes(t, redis.url, 1);
  const ask = asking(node);
  for (const name of ['a', 'b', 'c']) await ask(`/sign_in?peer_name=${name}`);
  for (const id of [1, 2]) while ((await ask(`/wait?peer_id=${id}&limit=50`)).text.match(/^c,3/) === null);
  const send = (to) => ask(`/message?peer_id=3&to=${to}`, post('x'.repeat(1000)));
  for (const to of [1, 2]) assert.equal((await send(to)).status, 200);
  await redis.cli('config', 'set', 'maxmemory', '1');
  assert.equal((await send(1)).status, 503);
  assert.equal((await ask('/sign_in?peer_name=d')).status, 503);
  await until(() => node.log.some(({message}) => message?.startsWith('Redis is out of memory')));
  for (const id of [1, 2]) assert.equal((await ask(`/wait?peer_id=${id}`)).text, 'x'.repeat(1000));
  assert.equal((await ask('/heartbeat?peer_id=1')).status, 200);
  assert.equal((await ask('/sign_out?peer_id=2')).status, 200);
  assert.equal((await fetch(`${node.http}/readyz`)).status, 200);
  await redis.cli('config', 'set', 'maxmemory', '0');
  assert.equal((await send(1)).status, 200);
});

test('no peer is collected because Redis stood still', async (t) => {
  const redis = await inMemory(t);
  const settings = {WEBRTC_HEARTBEAT_MS: '2000', WEBRTC_HEARTBEAT_GC_MS: '50', WEBRTC_WAIT_MS: '0'};
  const {all: [a, b]} = await startNodes(t, redis.url, 2, settings);
  const beating = [];
  for (const [name, node] of [['a', a], ['b', b]]) {
    const {id} = await pollingPeer(node, name);
    beating.push(async () => (await fetch(`${node.http}/heartbeat?peer_id=${id}`)).status);
  }
  for (const beat of beating) assert.equal(await beat(), 200);
  redis.process.kill('SIGSTOP');
  await pause(4000);
  redis.process.kill('SIGCONT');
  for (const beat of beating) assert.equal(await beat(), 200);
});

test('no peer is collected because the clock of Redis is set forward', async (t) => {
  const redis = await inMemory(t);
  const {all: [node]} = await startNodes(t, redis.url, 1, {WEBRTC_HEARTBEAT_GC_MS: '50'});
  for (const name of ['a', 'b']) await pollingPeer(node, name);
  // All that was written is as old as it would be then.
  await redis.cli('eval', `redis.call('SET', KEYS[1], 1) redis.call('ZADD', KEYS[2], 1, 1, 1, 2)`,
    '2', '{signal}:awake', '{signal}:stale');
  await pause(500);
  assert.deepEqual((await node.peers()).map(({name}) => name), ['a', 'b']);
});

test('a change that falls before a standstill is told after it', async (t) => {
  const redis = await inMemory(t);
  const {all: [a, b]} = await startNodes(t, redis.url, 2, {WEBRTC_WAIT_MS: '0'});
  // So many that they are told of the next only after a pause.
  const hears = asking(b);
  const {from: id} = await hears('/sign_in?bare');
  const others = Array.from({length: 300}, (_, number) => asking(a)(`/sign_in?peer_name=x${number}`));
  await Promise.all(others);
  for (let number = 0; number < 300; number += 1) await hears(`/wait?peer_id=${id}`);
  await asking(a)('/sign_in?peer_name=early');
  assert.match((await hears(`/wait?peer_id=${id}`)).text, /^early,/);
  const parked = hears(`/wait?peer_id=${id}`);
  await asking(a)('/sign_in?peer_name=late');
  redis.process.kill('SIGSTOP');
  // Longer than an ordinary verb is tried for.
  await pause(6500);
  redis.process.kill('SIGCONT');
  assert.match((await parked).text, /^late,/);
});

test('waits that end while Redis is away leave nothing behind', async (t) => {
  const redis = await inMemory(t);
  const wire = await startWire(t, redis.port);
  const settings = {WEBRTC_HEARTBEAT_MS: '1000', WEBRTC_HEARTBEAT_GC_MS: '100', WEBRTC_WAIT_MS: '0'};
  const {all: [node]} = await startNodes(t, wire.url, 1, settings);
  const ask = asking(node);
  await ask('/sign_in?peer_name=a');
  const parked = ask('/wait?peer_id=1&limit=1000');
  await until(async () => (await redis.cli('hget', '{signal}:p:1', 'node')) !== '');
  const away = wire.away(3000);
  assert.equal((await parked).text, 'a,1,1\n');
  for (let count = 0; count < 3; count += 1) {
    assert.equal((await ask('/wait?peer_id=1&limit=300')).text, 'a,1,1\n');
  }
  await away;
  // It does not poll any more.
  await until(async () => (await redis.cli('exists', '{signal}:p:1')) === '0');
});

test('a peer that waits while Redis is away is connected in the list that it is told', async (t) => {
  const redis = await inMemory(t);
  const wire = await startWire(t, redis.port);
  const {all: [node]} = await startNodes(t, wire.url, 1);
  const ask = asking(node);
  const closes = {headers: {connection: 'close'}, agent: false};
  await ask('/sign_in?peer_name=b');
  await new Promise((resolve) => http.get(`${node.http}/sign_in?peer_name=a`, closes, resolve));
  // The node is told that it counts as connected for 2 s more.
  await ask('/wait?peer_id=1');
  const away = wire.away(4000);
  assert.match((await ask('/wait?peer_id=2&limit=2500')).text, /^a,2,1$/m);
  await away;
});

test('a stop while Redis is away answers the waits that have begun since', async (t) => {
  const redis = await inMemory(t);
  const {all: [node]} = await startNodes(t, redis.url, 1, {WEBRTC_WAIT_MS: '0'});
  const ask = asking(node);
  await ask('/sign_in?peer_name=a');
  await redis.kill('SIGTERM');
  const begun = ask('/wait?peer_id=1');
  // The node has it when it answers a later request.
  await fetch(`${node.http}/healthz`);
  await pause(200);
  node.process.kill('SIGTERM');
  const {status, text} = await begun;
  assert.deepEqual([status, text], [200, 'a,1,1\n']);
});

test('a socket that sends while Redis is away stays open, and its message arrives', async (t) => {
  const redis = await inMemory(t);
  const wire = await startWire(t, redis.port);
  const {all: [node]} = await startNodes(t, wire.url, 1, {WEBRTC_HEARTBEAT_MS: '2000'});
  const [a, b] = [await webSocketPeer(t, node, '?peer_name=a'), await webSocketPeer(t, node, '?peer_name=b')];
  const away = wire.away(5000);
  a.send({receiverId: b.id, senderId: a.id, number: 1});
  await away;
  assert.equal(JSON.parse(await b.frames.next()).number, 1);
  a.send({receiverId: b.id, senderId: a.id, number: 2});
  assert.equal(JSON.parse(await b.frames.next()).number, 2);
});

test('what a node has on loan is lent to no other because Redis stood still', async (t) => {
  const redis = await inMemory(t);
  const {all: [node]} = await startNodes(t, redis.url, 1);
  const peer = await pollingPeer(node, 'a');
  for (const text of ['one', 'two']) assert.equal(await peer.send(peer.id, text), 200);
  const lender = await redis.cli('srandmember', '{signal}:announced');
  const {wait, done} = waits(redis, peer.id);
  assert.ok((await wait(lender, 7)).includes('one'));
  redis.process.kill('SIGSTOP');
  await pause(3000);
  redis.process.kill('SIGCONT');
  assert.deepEqual((await wait('other', 1)).slice(0, 2), ['ok', 'later']);
  // The lender's word has waited for as long.
  await done(lender, 7, 1);
  assert.ok((await wait('other', 2)).includes('two'));
  // What a dead node has on loan is lent to the next.
  await redis.cli('zadd', '{signal}:nodes', '1', 'other');
  assert.ok((await wait('third', 1)).includes('two'));
});

test('a peer that signed out while Redis was away does not stay because Redis hears late', async (t) => {
  const redis = await inMemory(t);
  await startNodes(t, redis.url, 1);
  const verb = (...args) => script(redis, 'node', ...args);
  const soon = () => String(Date.now() + 5000);
  await verb('add_unlisted', soon(), 'a', 'key', 'socketio', 'x', '0', '', '', '', '', 'channel');
  const [, session] = await verb('open_socket', soon(), 'attempt', '1', '0', '');
  assert.deepEqual(await verb('open_here', '0'), ['0', '1', `s${session}`]);
  assert.deepEqual(await verb('not_open', '1', `s${Number(session) + 1}`), ['ok']);
  assert.equal(await redis.cli('hget', '{signal}:p:1', 'socket'), '1');
  assert.deepEqual(await verb('not_open', '1', `s${session}`), ['ok']);
  assert.equal(await redis.cli('hget', '{signal}:p:1', 'socket'), '');
  assert.deepEqual((await verb('close_socket', '1', session, 'signed_out')).slice(0, 2), ['1', 'signed_out']);
  assert.equal(await redis.cli('exists', '{signal}:p:1'), '0');
});

test('a Socket.IO client that comes while Redis is away is held, not sent away', async (t) => {
  const redis = await inMemory(t);
  const wire = await startWire(t, redis.port);
  const {all: [node]} = await startNodes(t, wire.url, 1);
  const first = await (await fetch(`${node.http}/sign_in?peer_name=a`)).headers.get('x-peer-token');
  // Longer than a verb is tried for whose client can be refused.
  const away = wire.away(7000);
  const query = {peer_id: '1', peer_token: first};
  const clients = await Promise.all([{}, {query}].map((options) => socketIoClient(t, node.http, options)));
  const said = clients.map(({socket}) => new Promise((resolve, reject) => {
    socket.emit('keep-in-server', 'room', resolve);
    socket.on('disconnect', reject);
  }));
  await away;
  await said[0];
  await said[1];
});

test('what a Socket.IO client says while Redis is out of memory is done when it has some', async (t) => {
  const redis = await inMemory(t);
  const {all: [node]} = await startNodes(t, redis.url, 1);
  const a = await readyClient(t, node, 'A');
  const b = await readyClient(t, node, 'B');
  await a.message.next();
  await redis.cli('config', 'set', 'maxmemory', '1');
  b.socket.emit('message', 'hi');
  await until(() => node.log.some(({message}) => message?.startsWith('Redis is out of memory')));
  await redis.cli('config', 'set', 'maxmemory', '0');
  assert.deepEqual(await a.message.next(), ['hi']);
});

test('a primary that hangs is left for the one that takes its name', async (t) => {
  const primary = await persistentRedis(t);
  const replica = await persistentRedis(t);
  await replica.cli('replicaof', '127.0.0.1', String(primary.port));
  await until(async () => (await replica.cli('info', 'replication')).includes('master_link_status:up'));
  const target = {port: primary.port};
  const wire = await startWire(t, target);
  const node = await startNode(t, {WEBRTC_REDIS_URL: wire.url});
  const peer = await pollingPeer(node, 'a');
  const waiting = peer.message();
  // A replica that lags would lose the peer, and its wait.
  await until(async () => (await replica.cli('hexists', '{signal}:p:1', 'wait')) === '1');
  primary.process.kill('SIGSTOP');
  await replica.cli('replicaof', 'no', 'one');
  // The name is the other's now. Nobody closes a connection to the first.
  wire.toPort(replica.port);
  const other = await pollingPeer(node, 'b');
  assert.equal(await other.send(peer.id, 'after'), 200);
  assert.equal((await waiting).text, 'after');
  primary.process.kill('SIGCONT');
});

test('a socket that closes while Redis is away is gone when it is back', async (t) => {
  const redis = await inMemory(t);
  const wire = await startWire(t, redis.port);
  const {all: [node]} = await startNodes(t, wire.url, 1, {WEBRTC_HEARTBEAT_MS: '60000'});
  const peer = await webSocketPeer(t, node, '?peer_name=a');
  // Longer than an ordinary verb is tried for.
  const away = wire.away(6500);
  peer.socket.terminate();
  await away;
  await until(async () => (await node.peers()).length === 0);
});

test('a socket lives while Redis is away that is to hear what it was given', async (t) => {
  const redis = await inMemory(t);
  const {all: [node]} = await startNodes(t, redis.url, 1, {WEBRTC_HEARTBEAT_MS: '2000'});
  const [a, b] = [await webSocketPeer(t, node, '?peer_name=a'), await webSocketPeer(t, node, '?peer_name=b')];
  let number = 0;
  const heard = [];
  b.socket.on('message', (data) => heard.push(JSON.parse(data).number));
  const sending = setInterval(() => a.send({receiverId: b.id, senderId: a.id, number: (number += 1)}), 1);
  atEnd(t, () => clearInterval(sending));
  await until(() => heard.length > 50);
  redis.process.kill('SIGSTOP');
  await pause(5000);
  redis.process.kill('SIGCONT');
  const goal = number;
  await until(() => heard.includes(goal));
  clearInterval(sending);
  const numbers = heard.filter((one) => one !== undefined);
  assert.deepEqual(numbers, numbers.map((_, index) => index + 1));
});
