// What is asked of Redis is done once and in order, also when it comes late or an
// answer is lost.

import assert from 'node:assert/strict';
import {once} from 'node:events';
import http from 'node:http';
import {test} from 'node:test';

import {startNodes} from './nodes.js';
import {pollingPeer, startNode, until} from './support.js';
import {inMemory, asking, script, waits} from './redis.js';

test('a wait that is overtaken on its way to Redis takes nothing from the one that is open', async (t) => {
  const redis = await inMemory(t);
  const {all: [node]} = await startNodes(t, redis.url, 1);
  const peer = await pollingPeer(node, 'a');
  const {wait, take, end} = waits(redis, peer.id);
  const now = Date.now();
  assert.deepEqual((await wait('newer', 1, {began: now})).slice(0, 2), ['ok', 'none']);
  assert.deepEqual((await wait('older', 1, {began: now - 700})).slice(0, 2), ['ok', 'outdated']);
  await end('older', 1);
  assert.equal(await peer.send(peer.id, 'hi'), 200);
  assert.equal((await take('older', 1, now - 700))[0], 'outdated');
  assert.equal((await take('newer', 1, now)).at(-1), 'hi');
});

test('a wait that comes to Redis later than its own end is not open', async (t) => {
  const redis = await inMemory(t);
  const {all: [node]} = await startNodes(t, redis.url, 1);
  const peer = await pollingPeer(node, 'a');
  const {wait, end} = waits(redis, peer.id);
  const field = (name) => redis.cli('hget', `{signal}:p:${peer.id}`, name);
  await end('a', 2);
  for (const number of [1, 2]) {
    assert.deepEqual((await wait('a', number)).slice(0, 2), ['ok', 'outdated']);
  }
  assert.equal(await field('wait'), '');
  assert.deepEqual((await wait('a', 3)).slice(0, 2), ['ok', 'none']);
  assert.equal(await field('wait'), 'a.3');
});

test('of waits that began almost at once the newest stays the newest', async (t) => {
  const redis = await inMemory(t);
  const {all: [node]} = await startNodes(t, redis.url, 1);
  const peer = await pollingPeer(node, 'a');
  const {wait, take} = waits(redis, peer.id);
  const now = Date.now() + 10;
  await wait('a', 1, {began: now});
  // The clock of its node lags behind a little.
  await wait('b', 1, {began: now - 60});
  assert.equal((await take('b', 1, now - 60))[0], 'none');
  assert.deepEqual(await take('a', 1, now), ['outdated']);
});

test('a repeat is put off at whichever node it is asked for', async (t) => {
  const redis = await inMemory(t);
  const {all: [node]} = await startNodes(t, redis.url, 1);
  const peer = await pollingPeer(node, 'a');
  assert.equal(await peer.send(peer.id, 'one'), 200);
  const {wait, take, done} = waits(redis, peer.id);
  const now = Date.now();
  await redis.cli('zadd', '{signal}:nodes', String(now + 60_000), 'a');
  assert.ok((await wait('a', 1, {began: now, ack: '0'})).includes('one'));
  assert.deepEqual((await wait('b', 1, {began: now + 1, ack: '0'})).slice(0, 2), ['ok', 'later']);
  await done('a', 1, 1);
  assert.equal((await take('b', 1, now + 1, '0'))[0], 'later');
  assert.deepEqual((await wait('b', 2, {began: now + 2, ack: '0'})).slice(0, 2), ['ok', 'later']);
  // What it has not had is not put off.
  assert.equal(await peer.send(peer.id, 'two'), 200);
  assert.ok((await wait('b', 3, {began: now + 3, ack: '1'})).includes('two'));
});

test('a peer that is to be removed loses its alias', async (t) => {
  const redis = await inMemory(t);
  await startNodes(t, redis.url, 1, {WEBRTC_MAX_MESSAGE_BYTES: '1000', WEBRTC_MAX_PENDING_BYTES: '1256'});
  const verb = (...args) => script(redis, 'node', ...args);
  const soon = () => String(Date.now() + 5000);
  for (const secret of ['', 'key']) await verb('add_unlisted', soon(), `op${secret}`, secret, 'socketio', 'x', '0', '', '', '', '', 'channel');
  const claim = async (id) => (await verb('claim', id, 'scope', 'B', '5000'))[0];
  assert.equal(await claim('2'), 'ok');
  assert.equal((await verb('list_peer', 'ready', '2', 'B', '{}', 'hello', 'bye'))[0], 'ok');
  assert.deepEqual(await verb('send_to_alias', 'one', '1', 'scope', 'B', 'x'.repeat(1000)), ['ok', '2', '0']);
  assert.deepEqual(await verb('send_to_alias', 'two', '1', 'scope', 'B', 'x'), ['ok', '2', '2', '0']);
  const [, taken] = await verb('has_space', '2', '1');
  assert.deepEqual(await verb('give_up', '2', '1', taken), ['gone']);
  assert.deepEqual(await verb('push_owed', 'two', '1', '', '2', 'p', 'x'), ['unknown']);
  assert.deepEqual(await verb('send_to_alias', 'three', '1', 'scope', 'B', 'x'), ['unknown']);
  // Its name is free before its time is over.
  await until(async () => (await claim('1')) === 'ok');
});

test('a copy that waits for room is delivered once, also when its sender comes back meanwhile', async (t) => {
  const redis = await inMemory(t);
  await startNodes(t, redis.url, 1, {WEBRTC_MAX_MESSAGE_BYTES: '1000', WEBRTC_MAX_PENDING_BYTES: '1256'});
  const verb = (...args) => script(redis, 'node', ...args);
  const soon = () => String(Date.now() + 5000);
  for (const op of ['a', 'b']) await verb('add_unlisted', soon(), op, '', 'socketio', 'x', '0', '', '', '', '', 'channel');
  const full = 'x'.repeat(1000);
  assert.deepEqual(await verb('publish', 'one', '1', '1', '0', full, 'channel'), ['ok']);
  assert.deepEqual(await verb('publish', 'two', '1', '2', '0', full, 'channel'), ['ok', '2']);
  // Its client says it again through another socket, which announces a name first.
  assert.deepEqual(await verb('announce', 'three', '1', 'room'), ['ok']);
  assert.deepEqual(await verb('publish', 'four', '1', '2', '0', full, 'channel'), ['ok', '2']);
  const push = (op, number) => verb('push_owed', op, '1', number, '2', 'p', full);
  assert.deepEqual(await push('two', '2'), ['full']);
  await redis.cli('del', '{signal}:m:2');
  await redis.cli('hset', '{signal}:p:2', 'bytes', '0');
  for (const op of ['four', 'two']) assert.deepEqual(await push(op, '2'), ['ok']);
  assert.equal(await redis.cli('llen', '{signal}:m:2'), '1');
  assert.deepEqual(await verb('publish', 'five', '1', '2', '0', full, 'channel'), ['ok']);
  assert.deepEqual(await verb('publish', 'six', '1', '1', '0', full, 'channel'), ['ok']);
  // What a socket before says is late, and takes nothing from what is owed now.
  assert.deepEqual(await verb('publish', 'later', '1', '3', '0', full, 'channel'), ['ok', '2']);
  await redis.cli('del', '{signal}:m:2');
  await redis.cli('hset', '{signal}:p:2', 'bytes', '0');
  assert.deepEqual(await push('two', '2'), ['ok']);
  assert.equal(await redis.cli('llen', '{signal}:m:2'), '0');
  assert.deepEqual(await push('later', '3'), ['ok']);
  assert.equal(await redis.cli('llen', '{signal}:m:2'), '1');
  // However long Redis was away in between.
  for (const op of ['seven', 'seven']) assert.deepEqual(await verb('announce', op, '2', 'room'), ['ok']);
  assert.equal(await redis.cli('exists', '{signal}:op:seven'), '0');
});

test('the webhook is sent no event again because one was told of late', async (t) => {
  const redis = await inMemory(t);
  await startNodes(t, redis.url, 1);
  for (const number of ['12', '10']) await script(redis, 'node', 'webhook_sent', number);
  assert.equal(await redis.cli('get', '{signal}:webhook:sent'), '12');
});

test('a sign-in that was refused because Redis stood still is not in the list later', async (t) => {
  const redis = await inMemory(t);
  const node = await startNode(t, {WEBRTC_REDIS_URL: redis.url});
  const ask = asking(node);
  redis.process.kill('SIGSTOP');
  // No list is told that may be an old one.
  const asked = ['/connections', ...Array.from({length: 20}, () => '/sign_in?peer_name=x')];
  const refused = await Promise.all(asked.map((target) => ask(target)));
  redis.process.kill('SIGCONT');
  for (const {status} of refused) assert.equal(status, 503);
  await until(async () => (await ask('/readyz')).status === 200);
  assert.equal((await ask('/sign_in?peer_name=a')).status, 200);
  await until(async () => (await node.peers()).length === 1);
});

test('a sign-in that is given up is undone, and an earlier peer stays', async (t) => {
  const redis = await inMemory(t);
  await startNodes(t, redis.url, 1);
  const verb = (...args) => script(redis, 'node', ...args);
  const soon = () => String(Date.now() + 5000);
  const add = (op, key) => verb('add_unlisted', soon(), op, key, 'socketio', 'token', '0', '', '', '', '');
  const signIn = (op) => verb('add_peer', soon(), op, 'a', 'http', 'l', 'token', '0', '0', '', '', '', '');
  assert.deepEqual(await add('first', 'key'), ['ok', '1', '0']);
  // A node may have to wait for half a minute until it can give the sign-in up.
  assert.ok(Number(await redis.cli('pttl', '{signal}:op:first')) > 35_000);
  await verb('give_up_sign_in', 'first');
  assert.deepEqual(await add('first', 'key'), ['given up']);
  assert.deepEqual(await add('second', 'key'), ['ok', '2', '0']);
  // It comes back, and is not told.
  assert.deepEqual(await add('third', 'key'), ['ok', '2', '1']);
  await verb('give_up_sign_in', 'third');
  assert.deepEqual(await add('fourth', 'key'), ['ok', '2', '1']);
  // Given up before it was carried out.
  await verb('give_up_sign_in', 'fifth');
  assert.deepEqual(await add('fifth', ''), ['given up']);
  assert.equal((await signIn('sixth'))[0], 'ok');
  assert.ok(Number(await redis.cli('pttl', '{signal}:op:sixth')) > 35_000);
  await verb('give_up_sign_in', 'sixth');
  assert.deepEqual(await signIn('sixth'), ['given up']);
  assert.equal(await redis.cli('hlen', '{signal}:listed'), '0');
});

test('a burst of sign-ins is answered, each once', async (t) => {
  const redis = await inMemory(t);
  const node = await startNode(t, {WEBRTC_REDIS_URL: redis.url});
  const ask = asking(node);
  // Some have nothing open: nodes ask who is connected of those that have not.
  for (let number = 0; number < 300; number += 1) await ask(`/sign_in?peer_name=old${number}`);
  const all = await Promise.all(Array.from({length: 200}, (_, number) => ask(`/sign_in?peer_name=new${number}`)));
  for (const [number, {status, text, from}] of all.entries()) {
    assert.equal(status, 200);
    assert.ok(text.startsWith(`new${number},${from},1\n`), text.slice(0, 40));
  }
  assert.equal((await node.peers()).length, 500);
  // From the node's copy, not from Redis.
  await redis.cli('config', 'resetstat');
  for (let number = 0; number < 50; number += 1) await node.peers();
  const stats = await redis.cli('info', 'commandstats');
  assert.ok(!/cmdstat_hgetall/.test(stats), stats);
});

test('what a client was refused because it came late is not done later', async (t) => {
  const redis = await inMemory(t);
  const {all: [node]} = await startNodes(t, redis.url, 1);
  const peer = await pollingPeer(node, 'a');
  const late = String(Date.now() - 1);
  for (const [verb, ...args] of [
    ['open_socket', 'attempt', peer.id, '0', ''], ['resume_peer', 'op', peer.id, 'x', '', 'http', 'l', '', '', '', '0'],
    ['resume_unlisted', 'op', peer.id, 'x', '', '', ''], ['add_unlisted', 'op', '', 'socketio', 'x', '0', '', '', '', ''],
    ['add_peer', 'op', 'b', 'http', 'l', 'x', '0', '0', '', '', '', ''],
    ['send', 'op', peer.id, '', peer.id, '', '0', '', '0', 'hi'],
  ]) assert.equal((await script(redis, 'node', verb, late, ...args))[0], 'late', verb);
});

test('a socket whose opening got no answer is closed', async (t) => {
  const redis = await inMemory(t);
  const {all: [node]} = await startNodes(t, redis.url, 1);
  const peer = await pollingPeer(node, 'a');
  const soon = String(Date.now() + 5000);
  await script(redis, 'node', 'open_socket', soon, 'attempt', peer.id, '0', '');
  await script(redis, 'node', 'drop_socket', peer.id, 'another');
  assert.equal((await node.peers()).length, 1);
  await script(redis, 'node', 'drop_socket', peer.id, 'attempt');
  assert.deepEqual(await node.peers(), []);
});

test('a call that is repeated because its answer was lost is carried out once, with the same answer', async (t) => {
  const redis = await inMemory(t);
  await startNodes(t, redis.url, 1, {WEBRTC_MAX_MESSAGE_BYTES: '1000', WEBRTC_MAX_PENDING_BYTES: '1256'});
  const verb = (...args) => script(redis, 'node', ...args);
  const soon = () => String(Date.now() + 5000);
  for (const id of ['1', '2', '3', '3']) {
    const added = await verb('add_unlisted', soon(), `op${id}`, '', 'socketio', 'token', '0', '', '', '', '', 'channel');
    assert.deepEqual(added, ['ok', id, '0', 'channel']);
  }
  const waiting = async (id) => Number(await redis.cli('llen', `{signal}:m:${id}`));
  const full = 'x'.repeat(1000);
  assert.deepEqual(await verb('publish', 'first', '1', '', '0', full, 'channel'), ['ok']);
  assert.deepEqual(await verb('publish', 'second', '1', '', '0', full, 'channel'), ['ok', '2', '3']);
  assert.deepEqual(await verb('publish', 'second', '1', '', '0', full, 'channel'), ['ok', '2', '3']);
  await redis.cli('del', '{signal}:m:2');
  await redis.cli('hset', '{signal}:p:2', 'bytes', '0');
  for (let count = 0; count < 2; count += 1) {
    assert.deepEqual(await verb('push_owed', 'second', '1', '', '2', 'p', full), ['ok']);
  }
  assert.equal(await waiting(2), 1);
  await redis.cli('del', '{signal}:m:2');
  await redis.cli('hset', '{signal}:p:2', 'bytes', '0');
  assert.deepEqual(await verb('announce', 'fourth', '1', 'room'), ['ok']);
  for (let count = 0; count < 2; count += 1) {
    assert.deepEqual(await verb('watch_for', 'fifth', '2', 'room'), ['ok']);
  }
  assert.equal(await waiting(2), 1);
  const [, peer] = await verb('add_peer', soon(), 'sixth', 'a', 'http', 'l', 'token', '0', '0', '', '', '', '');
  const before = await redis.cli('get', '{signal}:event');
  for (let count = 0; count < 2; count += 1) {
    const back = await verb('resume_peer', soon(), 'seventh', peer, 'token', '', 'http', 'l', '', '', '', '0');
    assert.deepEqual(back.slice(0, 2), ['ok', peer]);
  }
  assert.equal(BigInt(await redis.cli('get', '{signal}:event')) - BigInt(before), 1n);
  for (let count = 0; count < 2; count += 1) {
    assert.equal((await verb('remove_peer', 'eighth', peer, 'kicked'))[0], 'ok');
  }
  assert.deepEqual(await verb('remove_peer', 'ninth', peer, 'kicked'), ['gone']);
});
