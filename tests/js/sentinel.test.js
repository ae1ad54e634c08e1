// Redis behind Sentinels: nodes follow the primary, however it goes.

import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {writeFileSync} from 'node:fs';
import path from 'node:path';
import {test} from 'node:test';

import {underLoad} from './load.js';
import {testManyNodes} from './many-nodes.js';
import {directory, inRoom, insist, signIn, startInVain, startNodes} from './nodes.js';
import {freePort, killAtEnd, startRedis, until} from './support.js';

/** A primary, its replicas, and three Sentinels that watch them. */
async function startSentinels(t, count, ...options) {
  const settings = () => ['--save', '', '--dir', directory(t, 'redis'), '--repl-diskless-sync-delay', '0', ...options];
  const primary = await startRedis(t, ...settings());
  const replicas = await Promise.all(Array.from({length: count}, () => startRedis(t, ...settings(),
    '--replicaof', '127.0.0.1', primary.port)));
  const isInSync = async (replica) => /master_link_status:up/.test(await replica.cli('info', 'replication'));
  for (const replica of replicas) await until(() => isInSync(replica));
  const ports = await Promise.all([1, 2, 3].map(async (number) => {
    const port = await freePort();
    const config = path.join(directory(t, `sentinel${number}`), 'sentinel.conf');
    writeFileSync(config, [
      `port ${port}`, 'bind 127.0.0.1',
      `sentinel monitor main 127.0.0.1 ${primary.port} 2`,
      'sentinel down-after-milliseconds main 1000', 'sentinel failover-timeout main 5000', '',
    ].join('\n'));
    const sentinel = spawn(process.env.REDIS_SERVER ?? 'redis-server', [config, '--sentinel'], {stdio: 'ignore'});
    killAtEnd(t, sentinel);
    await once(sentinel, 'spawn');
    return port;
  }));
  const ask = (...words) => primary.cli('-p', ports[0], ...words).catch(() => '');
  // They know each other, and the replicas.
  const knowsAll = async (port) => {
    const known = await primary.cli('-p', port, 'sentinel', 'master', 'main').catch(() => '');
    return known.includes(`num-slaves\n${count}\n`) && known.includes('num-other-sentinels\n2\n');
  };
  for (const port of ports) await until(() => knowsAll(port));
  const url = `redis+sentinel://${ports.map((port) => `127.0.0.1:${port}`).join(',')}/main`;
  const primaryPort = async () => Number((await ask('sentinel', 'get-master-addr-by-name', 'main')).split('\n')[1]);
  const untilTakenOver = () => until(async () => ![primary.port, NaN].includes(await primaryPort()));
  const servers = [primary, ...replicas];
  const masters = async () => {
    const port = await primaryPort();
    return servers.filter((server) => server.port === port);
  };
  return {primary, ask, url, untilTakenOver, masters, stillness: 500};
}

/** Passes a message from one peer to another, through any node. */
async function pass(room, from, to, text) {
  const sent = await insist(room, `/message?peer_id=${from}&to=${to}`, {method: 'POST', body: text});
  assert.equal(sent.status, 200, sent.text);
  for (;;) {
    const news = await insist(room, `/wait?peer_id=${to}`);
    assert.equal(news.status, 200, news.text);
    if (news.headers.get('pragma') === from) return assert.equal(news.text, text);
  }
}

const ways = {
  'is told to hand over': ({ask}) => ask('sentinel', 'failover', 'main'),
  'is killed': ({primary}) => primary.kill(),
  'hangs': ({primary}) => { primary.process.kill('SIGSTOP'); },
};

for (const [how, goes] of Object.entries(ways)) {
  test(`nodes follow the Sentinels when the primary ${how}`, async (t) => {
    const sentinels = await startSentinels(t, 1);
    const {primary, url, untilTakenOver} = sentinels;
    // Without a limit, a wait ends only by what Redis pushes to its node.
    const nodes = await startNodes(t, url, 2, {WEBRTC_WAIT_MS: '0'});
    const room = inRoom(nodes, 'a');
    const [from, to] = [await signIn(room, 'from'), await signIn(room, 'to')];
    await pass(room, from, to, 'before');
    const wait = () => insist(room, `/wait?peer_id=${from}`);
    assert.match((await wait()).text, /^to,/);
    // A wait that is open meanwhile.
    const waiting = wait();
    assert.equal(await primary.cli('wait', '1', '0'), '1');
    await goes(sentinels);
    await untilTakenOver();
    await pass(room, from, to, 'after');
    await insist(room, `/message?peer_id=${to}&to=${from}`, {method: 'POST', body: 'back'});
    assert.equal((await waiting).text, 'back');
  });

  // A primary that was told to hand over goes on until it is told that another has followed. If
  // it has no replica left then, it accepts nothing more; but what it had sent to the replica,
  // and that had not read yet, is lost.
  const [replicas, lost] = how === 'is told to hand over' ? [1, 20] : [2, 0];
  test(`behind Sentinels no more is lost than Redis loses when the primary ${how}`, async (t) => {
    const sentinels = await startSentinels(t, replicas, '--min-replicas-to-write', '1');
    const nodes = await startNodes(t, sentinels.url);
    await underLoad(nodes, true, async () => {
      await goes(sentinels);
      await sentinels.untilTakenOver();
    }, {lost});
  });
}

testManyNodes('behind Sentinels', (t) => startSentinels(t, 2, '--min-replicas-to-write', '1', '--appendonly', 'yes'), [true]);

test('behind Sentinels nothing is lost when a primary that hung comes back after another has followed', async (t) => {
  const {url, primary, untilTakenOver} = await startSentinels(t, 2, '--min-replicas-to-write', '1');
  const nodes = await startNodes(t, url);
  await underLoad(nodes, true, async () => {
    primary.process.kill('SIGSTOP');
    await untilTakenOver();
    primary.process.kill('SIGCONT');
  });
});

test('nodes leave a primary that was told to hand over before it knows', async (t) => {
  const sentinels = await startSentinels(t, 1);
  const {primary, ask, url, untilTakenOver} = sentinels;
  const nodes = await startNodes(t, url);
  const clients = async () => (await primary.cli('client', 'list', 'type', 'normal')).split('\n')
    .filter((client) => /cmd=(fcall|spublish)/.test(client)).length;
  await until(async () => await clients() === 2);
  await ask('sentinel', 'failover', 'main');
  await untilTakenOver();
  await until(async () => await clients() === 0);
  assert.match(await primary.cli('info', 'replication'), /role:master/);
  await signIn(nodes, 'x');
});

test('Sentinels that do not know the primary end the start', async (t) => {
  const {url} = await startSentinels(t, 1);
  const [status, line] = await startInVain({WEBRTC_REDIS_URL: url.replace('/main', '/other')});
  assert.equal(status, 2);
  assert.match(line, /the Sentinels do not know that name/);
});
