// A Redis Cluster: nodes follow each shard to the master that has it, however it goes there.

import assert from 'node:assert/strict';
import {test} from 'node:test';

import {underLoad} from './load.js';
import {testManyNodes} from './many-nodes.js';
import {directory, inRoom, insist, signIn, startInVain, startNodes} from './nodes.js';
import {startRedis, until} from './support.js';

const SHARDS = '6';

/** Three masters and a replica of each. */
async function startCluster(t) {
  const servers = await Promise.all(Array.from({length: 6}, () => startRedis(t,
    '--cluster-enabled', 'yes', '--cluster-node-timeout', '1000', '--repl-diskless-sync-delay', '0',
    '--appendonly', 'yes', '--save', '', '--dir', directory(t, 'redis'))));
  const addresses = servers.map(({port}) => `127.0.0.1:${port}`);
  const [first] = servers;
  await first.cli('--cluster', 'create', ...addresses, '--cluster-replicas', '1', '--cluster-yes');
  const field = async (server, name) => (await server.cli('info', 'replication'))
    .split('\n').find((line) => line.startsWith(`${name}:`))?.split(':')[1].trim();
  const isReady = async (server) => /cluster_state:ok/.test(await server.cli('cluster', 'info'))
    && (await field(server, 'role') === 'master' || await field(server, 'master_link_status') === 'up');
  for (const server of servers) await until(() => isReady(server));
  // Each knows of each master and its replica.
  const knowsAll = async (server) => {
    const slots = JSON.parse(await server.cli('--json', 'cluster', 'slots'));
    return slots.length === 3 && slots.every(([, , ...found]) => found.length === 2);
  };
  for (const server of servers) await until(() => knowsAll(server));
  const byPort = (port) => servers.find((server) => server.port === Number(port));
  const masters = async () => {
    const slots = JSON.parse(await first.cli('--json', 'cluster', 'slots'));
    return slots.map(([, , [, port]]) => byPort(port));
  };
  return {
    servers,
    url: `redis+cluster://${addresses.join(',')}`,
    settings: {WEBRTC_REDIS_SHARDS: SHARDS},
    masters,
    stillness: 500,
    /** The master that has a key, and its replicas, as another server knows them. */
    serversOf: async (key, asked = first) => {
      const slot = Number(await asked.cli('cluster', 'keyslot', key));
      const slots = JSON.parse(await asked.cli('--json', 'cluster', 'slots'));
      const [, , ...found] = slots.find(([from, to]) => from <= slot && slot <= to);
      const [master, ...replicas] = found.map(([, port]) => byPort(port));
      return {slot, master, replicas};
    },
  };
}

const ofShard = (number) => `{signal:${number}}:`;

/** Moves the slot of a shard to another master, key by key. */
async function migrate({servers, serversOf}, shard) {
  const {slot, master: from} = await serversOf(ofShard(shard));
  const masters = await Promise.all([0, 1, 2, 3, 4, 5].map(async (number) => (await serversOf(ofShard(number))).master));
  const to = masters.find((master) => master !== from);
  const [fromId, toId] = [await from.cli('cluster', 'myid'), await to.cli('cluster', 'myid')];
  await to.cli('cluster', 'setslot', String(slot), 'importing', fromId);
  await from.cli('cluster', 'setslot', String(slot), 'migrating', toId);
  for (;;) {
    const keys = await from.cli('cluster', 'getkeysinslot', String(slot), '10');
    if (keys === '') break;
    await from.cli('migrate', '127.0.0.1', String(to.port), '', '0', '5000', 'keys', ...keys.split('\n'));
  }
  for (const server of [to, from, ...servers]) {
    await server.cli('cluster', 'setslot', String(slot), 'node', toId).catch(() => {});
  }
  return to;
}

/** Waits until another server than the one that had a shard is its master. */
async function untilTakenOver({serversOf}, shard, before, asked) {
  await until(async () => (await serversOf(ofShard(shard), asked)).master !== before);
}

const ways = {
  'a shard moves to another master': async (cluster, more) => {
    for (const shard of [0, 1, 2]) {
      const to = await migrate(cluster, shard);
      assert.equal((await cluster.serversOf(ofShard(shard))).master, to);
      await more(20);
    }
  },
  'a replica takes over as planned': async (cluster) => {
    for (const shard of [0, 3]) {
      const {master, replicas: [replica]} = await cluster.serversOf(ofShard(shard));
      assert.equal(await replica.cli('cluster', 'failover'), 'OK');
      await untilTakenOver(cluster, shard, master, replica);
    }
  },
  'a master is killed': async (cluster) => {
    const {master, replicas: [replica]} = await cluster.serversOf(ofShard(0));
    await master.kill();
    await untilTakenOver(cluster, 0, master, replica);
  },
  'a master hangs, and comes back when its replica has taken over': async (cluster) => {
    const {master, replicas: [replica]} = await cluster.serversOf(ofShard(0));
    master.process.kill('SIGSTOP');
    await untilTakenOver(cluster, 0, master, replica);
    master.process.kill('SIGCONT');
  },
  'a master hangs': async (cluster) => {
    const {master, replicas: [replica]} = await cluster.serversOf(ofShard(0));
    master.process.kill('SIGSTOP');
    await untilTakenOver(cluster, 0, master, replica);
  },
};

for (const [what, happens] of Object.entries(ways)) {
  test(`with a Redis Cluster nothing is lost when ${what}`, async (t) => {
    const cluster = await startCluster(t);
    const nodes = await startNodes(t, cluster.url, 2, cluster.settings);
    await underLoad(nodes, true, (more) => happens(cluster, more));
  });
}

testManyNodes('on a Redis Cluster', startCluster, [true]);

test('a wait goes on when its shard has moved, and hears of what comes there', async (t) => {
  const cluster = await startCluster(t);
  // Without a limit, a wait ends only by what Redis pushes to its node.
  const nodes = await startNodes(t, cluster.url, 2, {...cluster.settings, WEBRTC_WAIT_MS: '0'});
  const [from, to] = [await signIn(nodes, 'from'), await signIn(nodes, 'to')];
  const wait = (id) => insist(nodes, `/wait?peer_id=${id}`);
  assert.match((await wait(from)).text, /^to,/);
  const waiting = wait(from);
  await migrate(cluster, 0);
  const sent = await insist(nodes, `/message?peer_id=${to}&to=${from}`, {method: 'POST', body: 'hello'});
  assert.equal(sent.status, 200);
  assert.equal((await waiting).text, 'hello');
});

test('a shard that is away leaves the rooms of the others as they are', async (t) => {
  const cluster = await startCluster(t);
  const nodes = await startNodes(t, cluster.url, 2, cluster.settings);
  const {master, replicas} = await cluster.serversOf(ofShard(0));
  for (const server of cluster.servers) await server.cli('config', 'set', 'cluster-require-full-coverage', 'no');
  const others = [];
  for (let number = 0; others.length < 5; number += 1) {
    const room = inRoom(nodes, `room${number}`);
    const id = await signIn(room, 'x');
    const found = await master.cli('-c', '--scan', '--pattern', `*r:room${number}:version`);
    if (found === '') others.push({room, id});
  }
  await Promise.all([master, ...replicas].map((server) => server.kill()));
  for (const {room, id} of others) {
    assert.equal((await room.ask(`/heartbeat?peer_id=${id}`)).status, 200);
  }
  assert.equal((await nodes.ask('/readyz')).status, 200);
  assert.equal((await nodes.ask('/sign_in?peer_name=x')).status, 503);
});

test('a cluster needs several shards, and a node says so', async () => {
  const [status, line] = await startInVain({WEBRTC_REDIS_URL: 'redis+cluster://127.0.0.1:1'});
  assert.equal(status, 2);
  assert.match(line, /WEBRTC_REDIS_SHARDS/);
});

test('a server of a cluster that is taken for a Redis ends the start', async (t) => {
  const cluster = await startCluster(t);
  const others = await Promise.all(cluster.servers.map(async ({url}) => {
    const settled = startInVain({WEBRTC_REDIS_URL: url, WEBRTC_REDIS_SHARDS: SHARDS});
    return settled;
  }));
  for (const [status, line] of others) {
    assert.equal(status, 2);
    assert.match(line, /redis\+cluster:\/\//);
  }
});
