// Many nodes, one list: what is lost when a node, Redis, or the wire between
// them fails under load. Nothing.

import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {readFileSync, writeFileSync} from 'node:fs';
import path from 'node:path';
import {createInterface} from 'node:readline';
import {test} from 'node:test';

import {underLoad} from './load.js';
import {abandonWait, testManyNodes} from './many-nodes.js';
import {directory, persistentRedis, startNodes, startWire} from './nodes.js';
import {
  atEnd, freePort, pause, pollingPeer, readyClient, startNode, startRedis, until, webSocketPeer,
} from './support.js';

testManyNodes('on one Redis', async (t) => {
  const redis = await persistentRedis(t);
  return {...redis, masters: () => [redis], stillness: 3000};
}, [true, false]);

for (const acknowledges of [true, false]) {
  const how = acknowledges ? 'with acknowledgements' : 'without acknowledgements';
  test(`${how}, nothing is lost when the wire to Redis is cut, or away for a while`, async (t) => {
    const redis = await persistentRedis(t);
    const wire = await startWire(t, redis.port);
    const nodes = await startNodes(t, wire.url);
    await underLoad(nodes, acknowledges, async (more) => {
      for (let number = 0; number < 5; number += 1) {
        wire.cut();
        await more(20);
      }
      await wire.away(500);
    });
  });
}

test('while Redis is away waits are held, others are refused, and all go on afterwards', async (t) => {
  const redis = await persistentRedis(t);
  const wire = await startWire(t, redis.port);
  const {all: [node]} = await startNodes(t, wire.url, 1, {WEBRTC_WAIT_MS: '0'});
  const ask = async (target, options) => {
    const answer = await fetch(`${node.http}${target}`, options);
    const {headers} = answer;
    return {
      status: answer.status, text: await answer.text(),
      from: headers.get('pragma'), retry: headers.get('retry-after'),
    };
  };
  let isAway = true;
  // That the list changed may be told twice, if Redis went away in between.
  const message = async (id) => {
    for (;;) {
      const {status, from, text} = await ask(`/wait?peer_id=${id}`);
      assert.equal(status, 200, text);
      assert.ok(!isAway, 'a wait ended while Redis was away');
      if (from !== id) return text;
    }
  };
  await ask('/sign_in?peer_name=alice');
  await ask('/sign_in?peer_name=bob');
  await ask('/wait?peer_id=1');
  const parked = message('1');
  const away = wire.away(7000);
  const begun = message('2');
  await until(async () => (await ask('/readyz')).status === 503);
  assert.equal((await ask('/healthz')).status, 200);
  const refused = [];
  for (const [target, method] of [
    ['/sign_in?peer_name=carol', 'GET'], ['/message?peer_id=2&to=1', 'POST'],
    ['/heartbeat?peer_id=1', 'GET'], ['/sign_out?peer_id=1', 'GET'], ['/connections', 'GET'],
  ]) {
    // Side by side they take no longer than one.
    refused.push(ask(target, {method}));
  }
  for (const {status, text, retry} of await Promise.all(refused)) {
    assert.deepEqual([status, retry], [503, '1'], text);
    assert.match(text, /^the peer list cannot be reached[^\n]*\n$/);
  }
  // What nobody could obey is the client's fault, whatever else is.
  assert.equal((await ask('/message?peer_id=2&to=1&seq=x', {method: 'POST'})).status, 400);
  isAway = false;
  await away;
  await until(async () => (await ask('/readyz')).status === 200);
  assert.equal((await ask('/message?peer_id=2&to=1', {method: 'POST', body: 'hi'})).status, 200);
  assert.equal((await ask('/message?peer_id=1&to=2', {method: 'POST', body: 'ho'})).status, 200);
  assert.equal(await parked, 'hi');
  assert.equal(await begun, 'ho');
});

/** The nginx of deploy/, before nodes on these ports. */
async function startNginx(t, ports) {
  const port = await freePort();
  const settings = readFileSync(new URL('../../deploy/nginx.conf', import.meta.url), 'utf8')
    // Debian's nginx is older than that.
    .replaceAll('node1:3000 resolve', `127.0.0.1:${ports[0]}`)
    .replaceAll('node2:3000 resolve', `127.0.0.1:${ports[1]}`)
    .replace('listen 80', `access_log off; listen 127.0.0.1:${port}`);
  const dir = directory(t, 'nginx');
  writeFileSync(path.join(dir, 'nginx.conf'), `pid ${dir}/pid;\n${settings}`);
  const nginx = spawn('nginx', ['-c', `${dir}/nginx.conf`, '-p', dir, '-e', 'stderr', '-g', 'daemon off;'], {
    env: {PATH: `${process.env.PATH}:/usr/sbin`}, stdio: ['ignore', 'ignore', 'pipe'],
  });
  const log = [];
  createInterface(nginx.stderr).on('line', (line) => log.push(line));
  atEnd(t, async () => {
    nginx.kill();
    await once(nginx, 'exit');
  });
  const server = {http: `http://127.0.0.1:${port}`, ws: `ws://127.0.0.1:${port}`, log};
  await until(() => fetch(`${server.http}/readyz`).then(({status}) => status === 200, () => false));
  return server;
}

test('behind the nginx of deploy/ peers of all doors meet, at any node', async (t) => {
  const redis = await startRedis(t, '--save', '');
  const {all} = await startNodes(t, redis.url);
  const server = await startNginx(t, all.map(({port}) => port));
  const polling = await pollingPeer(server, 'polling');
  const socket = await webSocketPeer(t, server, '?peer_name=socket');
  // By polling first, as its clients do.
  const socketIo = await readyClient(t, server, 'socketio');
  for (let number = 0; number < 20; number += 1) {
    assert.equal(await polling.send(socket.id, JSON.stringify({number})), 200);
    assert.equal(JSON.parse(await socket.frames.next()).number, number);
    socket.send({receiverId: polling.id, senderId: socket.id, number});
    assert.equal(JSON.parse((await polling.message()).text).number, number);
  }
  socketIo.socket.emit('messageOne', {target: String(polling.id), text: 'hi'});
  assert.equal(JSON.parse((await polling.message()).text).text, 'hi');
  const inRooms = await Promise.all(['a', 'b'].map((name) => readyClient(t, server, name, {path: '/rooms/lobby/socket.io/'})));
  const [a, b] = inRooms;
  a.socket.emit('messageOne', {from: 'a', target: 'b', text: 'in a room'});
  let message;
  do [message] = await b.message.next(); while (message.action);
  assert.equal(message.text, 'in a room');
});

test('behind the nginx of deploy/ requests succeed while each node is restarted in turn', async (t) => {
  const redis = await startRedis(t, '--save', '');
  const ports = [await freePort(), await freePort()];
  const start = (port) => startNode(t, {WEBRTC_REDIS_URL: redis.url, WEBRTC_WAIT_MS: '200', PORT: String(port)});
  const nodes = await Promise.all(ports.map(start));
  const server = await startNginx(t, ports);
  let isOver = false;
  const {from: id} = await fetch(`${server.http}/sign_in?peer_name=a`).then(({headers}) => ({from: headers.get('pragma')}));
  const statuses = new Set();
  const waiting = Array.from({length: 20}, async () => {
    while (!isOver) {
      const answer = await fetch(`${server.http}/wait?peer_id=${id}`);
      statuses.add(answer.status);
      await answer.text();
    }
  });
  for (const [index, signal] of ['SIGTERM', 'SIGKILL', 'SIGTERM', 'SIGKILL'].entries()) {
    const exited = once(nodes[index % 2].process, 'exit');
    nodes[index % 2].process.kill(signal);
    await exited;
    nodes[index % 2] = await start(ports[index % 2]);
    // Until nginx uses it again.
    await pause(1500);
  }
  isOver = true;
  await Promise.all(waiting);
  assert.deepEqual([...statuses], [200]);
  assert.deepEqual(server.log.filter((line) => line.includes('no live upstreams')), []);
});

test('behind the nginx of deploy/ a thousand waits are open at once', async (t) => {
  const redis = await startRedis(t, '--save', '');
  const {all} = await startNodes(t, redis.url, 2, {WEBRTC_WAIT_MS: '0'});
  const server = await startNginx(t, all.map(({port}) => port));
  const sender = await pollingPeer(server, 'sender');
  // Waits are open for ever, but all else is refused when it takes 5 s: it comes
  // from twenty clients at a time, as a thousand at once may take longer here.
  const byTwenty = (each) => Promise.all(Array.from({length: 20}, async () => {
    for (let turn = 0; turn < 50; turn += 1) await each();
  }));
  const peers = [];
  await byTwenty(async () => peers.push(await pollingPeer(server, 'x')));
  const told = peers.map((peer) => peer.message());
  // A wait that is open is what makes it connected, past the list that it is told.
  const parked = sender.message();
  await until(async () => (await redis.cli('zcard', '{signal}:linger')) === '0');
  const receivers = peers.values();
  await byTwenty(async () => assert.equal(await sender.send(receivers.next().value.id, 'hi'), 200));
  for (const {text} of await Promise.all(told)) assert.equal(text, 'hi');
  assert.equal(await peers[0].send(sender.id, 'bye'), 200);
  assert.equal((await parked).text, 'bye');
});

test('a client that leaves while its wait begins leaves no connection behind', async (t) => {
  const redis = await startRedis(t, '--save', '');
  const {all: [a, b]} = await startNodes(t, redis.url);
  const peer = await pollingPeer(a, 'peer');
  const link = () => redis.cli('hget', `{signal}:p:${peer.id}`, 'link');
  const own = await link();
  for (let number = 0; number < 40; number += 1) {
    await abandonWait(b, peer.id, number % 8);
    await until(async () => [own, ''].includes(await link()));
  }
});

test('nodes are not taken for dead because Redis stood still', async (t) => {
  const redis = await startRedis(t, '--save', '');
  const {all: [a, b]} = await startNodes(t, redis.url);
  await webSocketPeer(t, a, '?peer_name=a');
  await webSocketPeer(t, b, '?peer_name=b');
  redis.process.kill('SIGSTOP');
  await pause(12_000);
  redis.process.kill('SIGCONT');
  await until(async () => (await fetch(`${a.http}/readyz`)).status === 200);
  // Longer than it takes to find dead nodes.
  await pause(4000);
  const names = (await a.peers()).map(({name}) => name);
  assert.deepEqual(names.sort(), ['a', 'b']);
});
