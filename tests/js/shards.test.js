// Shards: the lists of rooms in several parts of Redis.

import assert from 'node:assert/strict';
import {test} from 'node:test';

import {inRoom, insist, signIn, startInVain, startNodes} from './nodes.js';
import {inMemory} from './redis.js';
import {eventStream, receiver, until} from './support.js';

const OPERATED = {WEBRTC_ADMIN_LISTEN: '127.0.0.1:0'};
const ROOMS = Array.from({length: 24}, (_, number) => `room-${number}`);

/** A peer comes to each of these rooms, at any node, and leaves it. */
async function visit(nodes, rooms) {
  for (const name of rooms) {
    const room = inRoom(nodes, name);
    const id = await signIn(room, 'x');
    await insist(room, `/sign_out?peer_id=${id}`);
  }
}

/** What a list of events tells: in each room, what happened in order. */
function byRoom(events) {
  const rooms = {};
  for (const {event, peer} of events) (rooms[peer.room] ??= []).push(event);
  return rooms;
}

const visited = (rooms) => Object.fromEntries(rooms.map((room) => [room, ['connect', 'disconnect']]));

test('rooms are spread over shards, and one stream of events tells of all, also to one that comes back', async (t) => {
  const redis = await inMemory(t);
  const nodes = await startNodes(t, redis.url, 2, {...OPERATED, WEBRTC_REDIS_SHARDS: '4'});
  const [here, there] = nodes.all;
  const stream = await eventStream(t, here);
  await visit(nodes, ROOMS);
  const events = await stream.take(2 * ROOMS.length);
  assert.deepEqual(byRoom(events.map(({data}) => data)), visited(ROOMS));
  const shards = (await redis.cli('--scan', '--pattern', '*event')).split('\n');
  assert.deepEqual(shards.sort(), [0, 1, 2, 3].map((shard) => `{signal:${shard}}:event`));
  // It comes back to the other node with what it heard last.
  const missed = ROOMS.slice(0, 9);
  await visit(nodes, missed);
  const again = await eventStream(t, there, events.at(-1).id);
  assert.deepEqual(byRoom((await again.take(18)).map(({data}) => data)), visited(missed));
  const names = async () => (await (await fetch(`${here.operator}/rooms`)).json()).map(({name}) => name);
  const kept = ROOMS.slice(3, 12).sort();
  for (const name of kept) await signIn(inRoom(nodes, name), 'y');
  assert.deepEqual(await names(), kept);
  const peers = await (await fetch(`${there.operator}/peers?room=*`)).json();
  assert.deepEqual(peers.map(({room}) => room), kept);
});

test('the webhook is sent the events of all shards, each once, with numbers that rise in a room', async (t) => {
  const hook = await receiver(t, (response) => response.end());
  const redis = await inMemory(t);
  const nodes = await startNodes(t, redis.url, 2, {WEBRTC_WEBHOOK_URL: hook.url, WEBRTC_REDIS_SHARDS: '3'});
  await visit(nodes, ROOMS);
  const events = (await hook.received.take(2 * ROOMS.length)).map(({body}) => JSON.parse(body));
  assert.deepEqual(byRoom(events), visited(ROOMS));
  const last = {};
  for (const {sequence, peer} of events) {
    assert.ok(sequence > (last[peer.room] ?? 0));
    last[peer.room] = sequence;
  }
});

test('the server is full when all shards together are', async (t) => {
  const redis = await inMemory(t);
  const nodes = await startNodes(t, redis.url, 1, {WEBRTC_MAX_PEERS: '8', WEBRTC_REDIS_SHARDS: '4'});
  const ask = async (room) => (await inRoom(nodes, room).ask('/sign_in?peer_name=x')).status;
  for (const room of ROOMS.slice(0, 8)) assert.equal(await ask(room), 200);
  // The shards are told of each other now and then.
  for (const shard of [0, 1, 2, 3]) {
    const elsewhere = async () => Number(await redis.cli('get', `{signal:${shard}}:elsewhere`));
    const here = async () => Number(await redis.cli('zcard', `{signal:${shard}}:stale`));
    await until(async () => await elsewhere() + await here() === 8);
  }
  for (const room of ROOMS) assert.equal(await ask(room), 503);
});

test('a node with another number of shards does not start, and says which number is right', async (t) => {
  for (const [first, second] of [[1, 4], [4, 1], [4, 8]]) {
    const redis = await inMemory(t);
    await startNodes(t, redis.url, 1, {WEBRTC_REDIS_SHARDS: String(first)});
    const [status, line] = await startInVain({WEBRTC_REDIS_URL: redis.url, WEBRTC_REDIS_SHARDS: String(second)});
    assert.equal(status, 2);
    assert.match(line, new RegExp(`a server with WEBRTC_REDIS_SHARDS=${first}: set that number`));
  }
});

test('a user that may see only the keys of the shards is enough', async (t) => {
  const redis = await inMemory(t);
  const rights = ['+@all', '-@admin', '-@dangerous', '+info'];
  await redis.cli('acl', 'setuser', 'one', 'on', '>x', '~{signal}:*', '&{signal}:*', ...rights);
  await redis.cli('acl', 'setuser', 'many', 'on', '>x', '~{many:*', '&{many:*', ...rights);
  const url = (user) => redis.url.replace('//', `//${user}:x@`);
  const one = await startNodes(t, url('one'), 1);
  const many = await startNodes(t, url('many'), 1, {WEBRTC_REDIS_SHARDS: '4', WEBRTC_REDIS_PREFIX: 'many'});
  await visit(one, ROOMS);
  await visit(many, ROOMS);
});
