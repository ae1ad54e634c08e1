// Redis behind Sentinels: nodes follow the primary, however it goes.

import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {writeFileSync} from 'node:fs';
import path from 'node:path';
import {test} from 'node:test';

import {directory, inRoom, insist, signIn, startNodes} from './nodes.js';
import {freePort, killAtEnd, startRedis, until} from './support.js';

/** A primary, its replica, and three Sentinels that watch both. */
async function startSentinels(t) {
  const inMemory = () => ['--save', '', '--dir', directory(t, 'redis')];
  const primary = await startRedis(t, ...inMemory(), '--repl-diskless-sync-delay', '0');
  const replica = await startRedis(t, ...inMemory(), '--replicaof', '127.0.0.1', primary.port);
  const isInSync = async () => /master_link_status:up/.test(await replica.cli('info', 'replication'));
  await until(isInSync);
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
  // They know each other, and the replica.
  await until(async () => {
    const known = await ask('sentinel', 'master', 'main');
    return /num-slaves\n1\n/.test(known) && /num-other-sentinels\n2\n/.test(known);
  });
  const url = `redis+sentinel://${ports.map((port) => `127.0.0.1:${port}`).join(',')}/main`;
  const primaryPort = async () => Number((await ask('sentinel', 'get-master-addr-by-name', 'main')).split('\n')[1]);
  return {primary, replica, ask, url, primaryPort};
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
    const sentinels = await startSentinels(t);
    const {primary, replica, url, primaryPort} = sentinels;
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
    await until(async () => await primaryPort() === replica.port);
    await pass(room, from, to, 'after');
    await insist(room, `/message?peer_id=${to}&to=${from}`, {method: 'POST', body: 'back'});
    assert.equal((await waiting).text, 'back');
  });
}

test('Sentinels that do not know the primary end the start', async (t) => {
  const {url} = await startSentinels(t);
  const nodes = startNodes(t, url.replace('/main', '/other'), 1);
  await assert.rejects(nodes, /it exited with 2/);
});
