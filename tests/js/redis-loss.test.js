// What a node makes of a Redis that has lost what it had, and of nodes that die.

import assert from 'node:assert/strict';
import {once} from 'node:events';
import {cpSync, rmSync} from 'node:fs';
import path from 'node:path';
import {test} from 'node:test';

import {persistentRedis, startNodes} from './nodes.js';
import {
  eventStream, pause, pollingPeer, readyClient, socketIoClient, until, webSocketPeer,
} from './support.js';
import {inMemory, asking, post, script, waits} from './redis.js';

test('after Redis lost its last second, an acknowledging peer hears all that is sent again', async (t) => {
  const redis = await persistentRedis(t);
  const {all: [node]} = await startNodes(t, redis.url, 1);
  const ask = asking(node);
  const [{from: a}, {from: b}] = [await ask('/sign_in?peer_name=a'), await ask('/sign_in?peer_name=b')];
  let ack = 0;
  const hear = async (count) => {
    const heard = [];
    while (heard.length < count) {
      const {text, from, number} = await ask(`/wait?peer_id=${b}&ack=${ack}`);
      if (from === b || number <= ack) continue;
      assert.equal(number, ack + 1);
      ack = number;
      heard.push(text);
    }
    return heard;
  };
  const send = async (...bodies) => {
    for (const body of bodies) {
      assert.equal((await ask(`/message?peer_id=${a}&to=${b}`, post(body))).status, 200);
    }
  };
  await send('1', '2', '3');
  assert.deepEqual(await hear(3), ['1', '2', '3']);
  await ask(`/wait?peer_id=${b}&ack=${ack}&limit=1`);
  const log = path.join(redis.dir, 'appendonlydir');
  await redis.cli('config', 'set', 'appendfsync', 'always');
  await redis.cli('wait', '0', '0');
  cpSync(log, `${log}.before`, {recursive: true});
  await send('4', '5', '6');
  await hear(3);
  await ask('/sign_in?peer_name=lost');
  await redis.kill();
  rmSync(log, {recursive: true});
  cpSync(`${log}.before`, log, {recursive: true});
  await redis.restart();
  await until(async () => (await fetch(`${node.http}/readyz`)).status === 200);
  await send('new 1', 'new 2', 'new 3', 'new 4');
  assert.deepEqual(await hear(4), ['new 1', 'new 2', 'new 3', 'new 4']);
  await until(() => node.log.some(({message}) => /lost its last changes/.test(message)));
});

test('when Redis loses all, peers sign in again, and none gets the id of another', async (t) => {
  const redis = await inMemory(t);
  const {all: [a, b]} = await startNodes(t, redis.url, 2, {WEBRTC_ADMIN_LISTEN: '127.0.0.1:0'});
  const events = await eventStream(t, a);
  const old = [await pollingPeer(a, 'old1'), await pollingPeer(b, 'old2')];
  await events.take(2);
  // One that stands still hears of none of it.
  b.process.kill('SIGSTOP');
  await redis.cli('flushall');
  const ids = [];
  for (const name of ['new1', 'new2']) ids.push((await pollingPeer(a, name)).id);
  b.process.kill('SIGCONT');
  assert.ok(ids.every((id) => Number(id) > 2), `${ids}`);
  for (const peer of old) await assert.rejects(peer.wait(), /404/);
  const {list} = await pollingPeer(b, 'new3');
  assert.deepEqual(list.trim().split('\n').map((line) => line.split(',')[0]), ['new3', 'new2', 'new1']);
  const told = [];
  while (told.at(-1) !== 'new3') {
    const {event, data} = await events.next();
    if (event === 'connect') told.push(data.peer.name);
  }
  assert.deepEqual(told, ['new1', 'new2', 'new3']);
  for (const {log} of [a, b]) await until(() => log.some(({message}) => /lost the peer list/.test(message)));
});

test('when Redis loses all, no peer is listed, and subscribers are told at once', async (t) => {
  const redis = await inMemory(t);
  const {all: [node]} = await startNodes(t, redis.url, 1, {WEBRTC_ADMIN_LISTEN: '127.0.0.1:0'});
  const events = await eventStream(t, node);
  await pollingPeer(node, 'a');
  assert.equal((await events.next()).event, 'connect');
  await redis.cli('flushall');
  assert.equal((await events.next()).event, 'gap');
  assert.deepEqual(await node.peers(), []);
});

test('after the largest id come the smallest that are free', async (t) => {
  const redis = await inMemory(t);
  const {all: [node]} = await startNodes(t, redis.url, 1);
  const ids = [(await pollingPeer(node, 'first')).id];
  await redis.cli('set', '{signal}:id', '2147483646');
  for (const name of ['largest', 'next']) ids.push((await pollingPeer(node, name)).id);
  assert.deepEqual(ids, ['1', '2147483647', '2']);
});

test('a node that dies after all was lost leaves no peer behind', async (t) => {
  const redis = await inMemory(t);
  const settings = {WEBRTC_HEARTBEAT_MS: '1000', WEBRTC_HEARTBEAT_GC_MS: '100', WEBRTC_WAIT_MS: '0'};
  const {all: [dies, stays]} = await startNodes(t, redis.url, 2, settings);
  await redis.cli('flushall');
  const ghost = await pollingPeer(dies, 'ghost');
  const parked = ghost.wait().catch(() => {});
  const names = async () => (await stays.peers()).map(({name}) => name);
  await until(async () => (await redis.cli('hget', `{signal}:p:${ghost.id}`, 'node')) !== '');
  dies.process.kill('SIGKILL');
  await parked;
  await until(async () => (await names()).length === 0);
});

test('what a peer has acknowledged, and Redis has lost, hides nothing that comes then', async (t) => {
  const redis = await inMemory(t);
  const {all: [node]} = await startNodes(t, redis.url, 1);
  const peer = await pollingPeer(node, 'a');
  const {wait, take, done, end} = waits(redis, peer.id);
  const now = Date.now();
  await wait('a', 1, {began: now, ack: '0'});
  // It had eight; Redis knows of six.
  await redis.cli('hset', `{signal}:p:${peer.id}`, 'gone', '6', 'delivered', '6', 'offered', '6');
  assert.equal(await peer.send(peer.id, 'new'), 200);
  assert.deepEqual((await take('a', 1, now, '8')).slice(0, 2), ['message', '9']);
  // Nor does a number of which nobody knows where it is from take anything off.
  await done('a', 1, 9);
  assert.ok((await wait('a', 2, {began: now + 1, ack: '99'})).includes('new'));
  assert.equal((await end('a', 2))[0], 'ok');
  await redis.cli('del', `{signal}:p:${peer.id}`);
  assert.deepEqual(await end('a', 2), ['gone', 'timed_out']);
});

test('when Redis loses all, no old socket or wait takes the messages of a new peer with its id', async (t) => {
  const redis = await inMemory(t);
  await startNodes(t, redis.url, 1);
  const verb = (...args) => script(redis, 'node', ...args);
  const soon = () => String(Date.now() + 5000);
  const sockets = [];
  const began = String(Date.now() + 1);
  for (let count = 0; count < 2; count += 1) {
    const [, id] = await verb('add_unlisted', soon(), `op${count}`, '', 'socketio', 'x', '0', '', '', '', '', 'channel');
    assert.equal(id, '1');
    sockets.push((await verb('open_socket', soon(), 'attempt', id, '0', ''))[1]);
    await pause(5);
    if (count === 0) await redis.cli('flushall');
  }
  const take = (lease, at) => verb('take', at, '1', lease, '', '0', '');
  assert.deepEqual(await take(`s${sockets[0]}`, '0'), ['outdated']);
  assert.equal((await take(`s${sockets[1]}`, '0'))[0], 'none');
  await redis.cli('hdel', '{signal}:p:1', 'socket');
  assert.deepEqual(await take('node.1', began), ['outdated']);
  // A socket that opened in the second that is lost.
  assert.equal((await take(`s${Number(sockets[1]) + 1}`, '0'))[0], 'none');
});

test('when Redis loses all, no peer gets the id of an unlisted socket', async (t) => {
  const redis = await inMemory(t);
  const {all: [node]} = await startNodes(t, redis.url, 1);
  const {socket} = await socketIoClient(t, node.http);
  await socket.emitWithAck('keep-in-server', 'room');
  await redis.cli('flushall');
  assert.equal((await pollingPeer(node, 'a')).id, '2');
  await redis.cli('flushall');
  // Nodes that have seen none learn of it when the others say that they live.
  await until(async () => (await redis.cli('get', '{signal}:id')) === '2');
});

test('a wait that Redis has lost goes on, and one that is over does not', async (t) => {
  const redis = await inMemory(t);
  const {all: [node]} = await startNodes(t, redis.url, 1);
  const peer = await pollingPeer(node, 'a');
  const {wait, take, end} = waits(redis, peer.id);
  const now = Date.now();
  await wait('a', 1, {began: now});
  await end('a', 1);
  assert.deepEqual(await take('a', 1, now), ['outdated']);
  assert.equal((await take('b', 1, now + 1))[0], 'none');
  assert.equal(await redis.cli('hget', `{signal}:p:${peer.id}`, 'wait'), 'b.1');
});

test('to acknowledge never holds Redis up, whatever became of the mailbox', async (t) => {
  const redis = await inMemory(t);
  await startNodes(t, redis.url, 1, {WEBRTC_MAX_MESSAGE_BYTES: '1000', WEBRTC_MAX_PENDING_BYTES: '3000'});
  const verb = (...args) => script(redis, 'node', ...args);
  const soon = () => String(Date.now() + 5000);
  for (const secret of ['', 'key']) await verb('add_unlisted', soon(), `op${secret}`, secret, 'socketio', 'x', '0', '', '', '', '', 'channel');
  const [, session] = await verb('open_socket', soon(), 'attempt', '2', '1', '');
  const lease = `s${session}`;
  for (const op of ['one', 'two']) await verb('publish', op, '1', '', '0', 'x'.repeat(1000), 'channel');
  assert.equal((await verb('take', '0', '2', lease, '', '0', ''))[1], '1');
  await verb('done', '2', lease, 'message', '1', '0', '1');
  const full = await redis.cli('hget', '{signal}:p:2', 'bytes');
  assert.deepEqual(await verb('give_up', '2', '1000', '0'), ['ok'], `it has taken one: ${full}`);
  assert.deepEqual(await verb('give_up', '2', '10', '1'), ['ok'], 'it has room');
  assert.deepEqual(await verb('give_up', '2', '1000', '1'), ['gone']);
  assert.deepEqual(await verb('acknowledge', '2', '1'), ['ok']);
  await redis.cli('hdel', '{signal}:p:2', 'doomed');
  for (const number of ['1', '9', '9007199254740992']) {
    assert.deepEqual(await verb('acknowledge', '2', number), ['ok']);
  }
});

test('a node that is taken for dead, and lives, reports again what is open there', async (t) => {
  const redis = await inMemory(t);
  const {all: [node]} = await startNodes(t, redis.url, 1);
  const name = await redis.cli('srandmember', '{signal}:announced');
  const peer = await pollingPeer(node, 'a');
  await waits(redis, peer.id).wait(name, 99);
  await redis.cli('zadd', '{signal}:nodes', '1', name);
  await script(redis, 'other', 'bury');
  assert.equal((await script(redis, name, 'live', '0', '0'))[0], '1');
});

test('a peer that left in a second that Redis has lost is not listed after it', async (t) => {
  const redis = await persistentRedis(t);
  const settings = {WEBRTC_HEARTBEAT_MS: '1000', WEBRTC_HEARTBEAT_GC_MS: '100', WEBRTC_WAIT_MS: '0'};
  const {all: [node]} = await startNodes(t, redis.url, 1, settings);
  const stays = await webSocketPeer(t, node, '?peer_name=stays');
  const socket = await webSocketPeer(t, node, '?peer_name=socket');
  const {socket: member} = await readyClient(t, node, 'member');
  const polls = await pollingPeer(node, 'polls');
  const leaving = new AbortController();
  const wait = fetch(`${node.http}/wait?peer_id=${polls.id}`, {signal: leaving.signal}).catch(() => {});
  await until(async () => (await redis.cli('hget', `{signal}:p:${polls.id}`, 'wait')) !== '');
  const log = path.join(redis.dir, 'appendonlydir');
  await redis.cli('config', 'set', 'appendfsync', 'always');
  await redis.cli('wait', '0', '0');
  cpSync(log, `${log}.before`, {recursive: true});
  leaving.abort();
  await wait;
  member.close();
  socket.socket.terminate();
  await until(async () => (await node.peers()).length === 1);
  await redis.kill();
  rmSync(log, {recursive: true});
  cpSync(`${log}.before`, log, {recursive: true});
  await redis.restart();
  await until(async () => (await fetch(`${node.http}/readyz`)).status === 200);
  await until(async () => (await node.peers()).length === 1);
  assert.equal((await node.peers())[0].name, 'stays');
  await fetch(`${node.http}/message?peer_id=${(await pollingPeer(node, 'x')).id}&to=${stays.id}`, {method: 'POST', body: '{"hi":1}'});
  assert.equal(JSON.parse(await stays.frames.next()).hi, 1);
});

test('the sockets of a node that is taken for dead are closed, to come back', async (t) => {
  const redis = await inMemory(t);
  const {all: [node]} = await startNodes(t, redis.url, 1);
  const name = await redis.cli('srandmember', '{signal}:announced');
  const sockets = [];
  for (const resume of [true, false]) sockets.push(await webSocketPeer(t, node, `?resume=${resume}`));
  await redis.cli('zadd', '{signal}:nodes', '1', name);
  await script(redis, 'other', 'bury');
  for (const {closed} of sockets) assert.equal(await closed, 1001);
});
