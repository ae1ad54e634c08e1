// What a node makes of its Redis: one that cannot be used, that loses what it
// had, is full, stands still, or is away for long.

import assert from 'node:assert/strict';
import {execFileSync, spawn} from 'node:child_process';
import {once} from 'node:events';
import {cpSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import path from 'node:path';
import {test} from 'node:test';

import {directory, persistentRedis, startNodes, startWire} from './nodes.js';
import {
  BINARY, eventStream, freePort, pause, pollingPeer, readyClient, socketIoClient, startNode, startRedis,
  until, webSocketPeer,
} from './support.js';

const inMemory = (t, ...options) => startRedis(t, '--save', '', ...options);

/** Starts a server that ends by itself: its exit status, and what it says. */
async function startInVain(settings) {
  const node = spawn(BINARY, {
    env: {PORT: '0', HOST: '127.0.0.1', ...settings}, stdio: ['ignore', 'ignore', 'pipe'],
  });
  let text = '';
  node.stderr.on('data', (data) => { text += data; });
  const [status] = await once(node, 'close');
  const [, line] = /^signal-http-heartbeat: ([^\n]*)\n$/.exec(text) ?? assert.fail(text);
  return [status, line];
}

/** Asks a node, and reads the answer. */
const asking = (node) => async (target, options) => {
  const answer = await fetch(`${node.http}${target}`, options);
  const {status, headers} = answer;
  return {
    status, text: await answer.text(), from: headers.get('pragma'),
    number: Number(headers.get('x-message-seq')),
  };
};

const post = (body) => ({method: 'POST', body});

test('a URL that is none ends the start, and its password is not shown', async () => {
  const [status, line] = await startInVain({WEBRTC_REDIS_URL: 'redis://:se#cret@127.0.0.1:x/'});
  assert.equal(status, 2);
  assert.match(line, /^WEBRTC_REDIS_URL .*redis:\/\/.*%40/);
  assert.ok(!line.includes('se#cret'), line);
});

test('a Redis that does not answer ends the start after a while', async () => {
  // Nobody listens on port 1.
  const [status, line] = await startInVain({WEBRTC_REDIS_URL: 'redis://127.0.0.1:1/'});
  assert.equal(status, 1);
  assert.match(line, /^Redis cannot be reached: .*is it running/);
});

test('a Redis that requires a password gets it, and a wrong one ends the start', async (t) => {
  const redis = await inMemory(t, '--requirepass', 'se cret');
  const url = (password) => redis.url.replace('://', `://default:${password}@`);
  const node = await startNode(t, {WEBRTC_REDIS_URL: `${url('se%20cret')}3`});
  assert.equal((await fetch(`${node.http}/readyz`)).status, 200);
  assert.ok(!JSON.stringify(node.log).includes('cret'));
  // The rights that the README names.
  await redis.cli('-a', 'se cret', '--no-auth-warning', 'acl', 'setuser', 'signal', 'on', '>x',
    '~{signal}:*', '&{signal}:*', '+@all', '-@admin', '-@dangerous', '+info');
  const {log: [, ...warnings]} = await startNode(t, {WEBRTC_REDIS_URL: redis.url.replace('://', '://signal:x@')});
  assert.deepEqual(warnings, []);
  for (const [url_, why] of [[url('wrong'), /is wrong$/], [redis.url, /requires a password/]]) {
    const [status, line] = await startInVain({WEBRTC_REDIS_URL: url_});
    assert.equal(status, 2, line);
    assert.match(line, /^Redis cannot be used: /);
    assert.match(line, why);
  }
});

test('a Redis that would not keep its word ends the start', async (t) => {
  const redis = await inMemory(t);
  const refused = async (why, url = redis.url) => {
    const [status, line] = await startInVain({WEBRTC_REDIS_URL: url});
    assert.equal(status, 2, line);
    assert.match(line, why);
  };
  await redis.cli('acl', 'setuser', 'guest', 'on', '>x', '~*', '&*', '+info', '+hello', '+client');
  await refused(/lacks a permission: .*fcall/, redis.url.replace('://', '://guest:x@'));
  await redis.cli('config', 'set', 'maxmemory', '100mb', 'maxmemory-policy', 'allkeys-lru');
  await refused(/maxmemory-policy allkeys-lru\): set noeviction$/);
  // It forgets keys with a time limit, and those are needed too.
  await redis.cli('config', 'set', 'maxmemory-policy', 'volatile-ttl');
  await refused(/maxmemory-policy volatile-ttl\): set noeviction$/);
  await redis.cli('config', 'set', 'maxmemory-policy', 'noeviction');
  await redis.cli('replicaof', '127.0.0.1', '1');
  await refused(/it is a read-only replica/);
});

test('a list of another version ends the start', async (t) => {
  const redis = await inMemory(t);
  const refused = async (why) => {
    const [status, line] = await startInVain({WEBRTC_REDIS_URL: redis.url});
    assert.equal(status, 2, line);
    assert.match(line, why);
  };
  // The first version stored no number.
  await redis.cli('set', '{signal}:created', '1');
  await refused(/\(schema 1, not \d+\): stop all servers of that version and delete the keys \{signal\}:\*, or set another/);
  await redis.cli('set', '{signal}:schema', '999');
  await refused(/\(schema 999, not \d+\)/);
  await redis.cli('flushall');
  await startNode(t, {WEBRTC_REDIS_URL: redis.url});
  await redis.cli('set', '{signal}:schema', '999');
  await refused(/schema 999/);
});

test('a Redis that is too old, or none, ends the start', async (t) => {
  for (const [answer, why] of [
    ['-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n'.repeat(3), /it is a version before 6: version 7.0 or newer is needed$/],
    ['HTTP/1.1 400 Bad Request\r\n\r\n', /is not a Redis$/],
  ]) {
    const server = net.createServer((client) => {
      client.on('error', () => {}).once('data', () => client.write(answer));
    }).listen(0, '127.0.0.1');
    t.after(() => server.close());
    await once(server, 'listening');
    const [status, line] = await startInVain({WEBRTC_REDIS_URL: `redis://127.0.0.1:${server.address().port}`});
    assert.equal(status, 2, line);
    assert.match(line, why);
  }
});

/** A key and certificate for this machine, and the authority that signed it. */
function certificates(t) {
  const dir = directory(t, 'tls');
  const openssl = (...args) => execFileSync('openssl', args, {cwd: dir, stdio: ['ignore', 'ignore', 'pipe']});
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '1'];
  openssl('req', '-x509', ...key, '-subj', '/CN=ca', '-keyout', 'ca.key', '-out', 'ca.crt');
  writeFileSync(path.join(dir, 'san'), 'subjectAltName=DNS:localhost');
  openssl('req', ...key, '-subj', '/CN=localhost', '-keyout', 'redis.key', '-out', 'redis.csr');
  openssl('x509', '-req', '-in', 'redis.csr', '-CA', 'ca.crt', '-CAkey', 'ca.key', '-CAcreateserial',
    '-days', '1', '-extfile', 'san', '-out', 'redis.crt');
  return (name) => path.join(dir, name);
}

test('through TLS a Redis is trusted whose authority is given, and no other', async (t) => {
  const file = certificates(t);
  const port = await freePort();
  await inMemory(t, '--tls-port', port, '--tls-auth-clients', 'no',
    '--tls-cert-file', file('redis.crt'), '--tls-key-file', file('redis.key'), '--tls-ca-cert-file', file('ca.crt'));
  const settings = {WEBRTC_REDIS_URL: `rediss://localhost:${port}/0`};
  const node = await startNode(t, {...settings, WEBRTC_REDIS_CA: file('ca.crt')});
  assert.equal((await fetch(`${node.http}/readyz`)).status, 200);
  for (const [other, why] of [
    [{}, /certificate.*set WEBRTC_REDIS_CA$/],
    [{WEBRTC_REDIS_CA: file('ca.key')}, /^WEBRTC_REDIS_CA .*certificates \(PEM\)$/],
    [{WEBRTC_REDIS_CA: file('ca.crt'), WEBRTC_REDIS_URL: 'redis://localhost/'}, /^WEBRTC_REDIS_CA .*rediss:\/\//],
  ]) {
    const [status, line] = await startInVain({...settings, ...other});
    assert.equal(status, 2, line);
    assert.match(line, why);
  }
});

test('two databases of one Redis are two servers', async (t) => {
  const redis = await inMemory(t);
  const [{all: [one]}, {all: [other]}] = await Promise.all(
    [0, 1].map((database) => startNodes(t, `${redis.url}${database}`, 1, {WEBRTC_WAIT_MS: '0'})));
  const alice = await pollingPeer(one, 'alice');
  const bob = await pollingPeer(other, 'bob');
  assert.equal(alice.id, bob.id);
  const waiting = alice.wait();
  await fetch(`${other.http}/sign_out?peer_id=${bob.id}`);
  await alice.send(alice.id, 'hi');
  assert.equal((await waiting).text, 'hi');
});

test('the log warns of nodes with other settings', async (t) => {
  const redis = await inMemory(t);
  const settings = {WEBRTC_REDIS_URL: redis.url};
  const same = [await startNode(t, settings), await startNode(t, settings)];
  const other = await startNode(t, {...settings, WEBRTC_HEARTBEAT_MS: '20000'});
  const warnings = ({log}) => log.filter(({message}) => /other settings/.test(message));
  await until(() => warnings(other).length === 1);
  for (const node of same) assert.deepEqual(warnings(node), []);
});

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

/** What the script in Redis answers a node, its words one after the other. */
async function script(redis, node, verb, ...args) {
  const [name] = (await redis.cli('function', 'list')).match(/signal_[0-9a-f]+$/m);
  const answer = await redis.cli('fcall', name, '1', '{signal}:', verb, node, ...args);
  return answer.split('\n').filter((word) => word !== '');
}

/** The verbs of a wait, as a node has them carried out. */
function waits(redis, id) {
  return {
    wait: (node, number, {began = Date.now(), ack = ''} = {}) => script(
      redis, node, 'wait', String(began), `${node}.${number}`, id, '', '', ack, '0', '-1', '0'),
    take: (node, number, began, ack = '') => script(
      redis, node, 'take', String(began), id, `${node}.${number}`, ack, '0', '-1', '0'),
    done: (node, number, message) => script(
      redis, node, 'done', id, `${node}.${number}`, 'message', String(message), '1', '1'),
    end: (node, number) => script(redis, node, 'end_wait', id, `${node}.${number}`, '1', '-1', '0'),
  };
}

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

test('of waits that began almost at once the newest stays the newest', async (t) => {
  const redis = await inMemory(t);
  const {all: [node]} = await startNodes(t, redis.url, 1);
  const peer = await pollingPeer(node, 'a');
  const {wait, take} = waits(redis, peer.id);
  const now = Date.now() + 10;
  await wait('a', 1, {began: now});
  // The clock of its node lags behind a little.
  await wait('b', 1, {began: now - 60});
  assert.deepEqual(await take('b', 1, now - 60), ['none']);
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
    const [, id] = await verb('add_unlisted', soon(), `op${count}`, '', 'socketio', 'x', '0', 'channel');
    assert.equal(id, '1');
    sockets.push((await verb('open_socket', soon(), 'attempt', id, '0'))[1]);
    await pause(5);
    if (count === 0) await redis.cli('flushall');
  }
  const take = (lease, at) => verb('take', at, '1', lease, '', '0', '-1', '0');
  assert.deepEqual(await take(`s${sockets[0]}`, '0'), ['outdated']);
  assert.deepEqual(await take(`s${sockets[1]}`, '0'), ['none']);
  await redis.cli('hdel', '{signal}:p:1', 'socket');
  assert.deepEqual(await take('node.1', began), ['outdated']);
  // A socket that opened in the second that is lost.
  assert.deepEqual(await take(`s${Number(sockets[1]) + 1}`, '0'), ['none']);
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

test('a peer that is to be removed loses its alias', async (t) => {
  const redis = await inMemory(t);
  await startNodes(t, redis.url, 1, {WEBRTC_MAX_MESSAGE_BYTES: '1000', WEBRTC_MAX_PENDING_BYTES: '1256'});
  const verb = (...args) => script(redis, 'node', ...args);
  const soon = () => String(Date.now() + 5000);
  for (const secret of ['', 'key']) await verb('add_unlisted', soon(), `op${secret}`, secret, 'socketio', 'x', '0', 'channel');
  const claim = async (id) => (await verb('claim', id, 'scope', 'B'))[0];
  assert.equal(await claim('2'), 'ok');
  assert.equal((await verb('list_peer', 'ready', '2', 'B', '{}', 'hello', 'bye'))[0], 'ok');
  assert.deepEqual(await verb('send_to_alias', 'one', '1', 'scope', 'B', 'x'.repeat(1000)), ['ok']);
  assert.deepEqual(await verb('send_to_alias', 'two', '1', 'scope', 'B', 'x'), ['ok', '2']);
  const [, taken] = await verb('has_room', '2', '1');
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
  for (const op of ['a', 'b']) await verb('add_unlisted', soon(), op, '', 'socketio', 'x', '0', 'channel');
  const full = 'x'.repeat(1000);
  assert.deepEqual(await verb('publish', 'one', '1', '1', full, 'channel'), ['ok']);
  assert.deepEqual(await verb('publish', 'two', '1', '2', full, 'channel'), ['ok', '2']);
  // Its client says it again through another socket, which announces a name first.
  assert.deepEqual(await verb('announce', 'three', '1', 'room'), ['ok']);
  assert.deepEqual(await verb('publish', 'four', '1', '2', full, 'channel'), ['ok', '2']);
  const push = (op, number) => verb('push_owed', op, '1', number, '2', 'p', full);
  assert.deepEqual(await push('two', '2'), ['full']);
  await redis.cli('del', '{signal}:m:2');
  await redis.cli('hset', '{signal}:p:2', 'bytes', '0');
  for (const op of ['four', 'two']) assert.deepEqual(await push(op, '2'), ['ok']);
  assert.equal(await redis.cli('llen', '{signal}:m:2'), '1');
  assert.deepEqual(await verb('publish', 'five', '1', '2', full, 'channel'), ['ok']);
  assert.deepEqual(await verb('publish', 'six', '1', '1', full, 'channel'), ['ok']);
  // What a socket before says is late, and takes nothing from what is owed now.
  assert.deepEqual(await verb('publish', 'later', '1', '3', full, 'channel'), ['ok', '2']);
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

test('a peer that signed out while Redis was away does not stay because Redis hears late', async (t) => {
  const redis = await inMemory(t);
  await startNodes(t, redis.url, 1);
  const verb = (...args) => script(redis, 'node', ...args);
  const soon = () => String(Date.now() + 5000);
  await verb('add_unlisted', soon(), 'a', 'key', 'socketio', 'x', '0', 'channel');
  const [, session] = await verb('open_socket', soon(), 'attempt', '1', '0');
  assert.deepEqual(await verb('open_here', '0'), ['0', '1', `s${session}`]);
  assert.deepEqual(await verb('not_open', '1', `s${Number(session) + 1}`), ['ok']);
  assert.equal(await redis.cli('hget', '{signal}:p:1', 'socket'), '1');
  assert.deepEqual(await verb('not_open', '1', `s${session}`), ['ok']);
  assert.equal(await redis.cli('hget', '{signal}:p:1', 'socket'), '');
  assert.deepEqual((await verb('close_socket', '1', session, 'signed_out')).slice(0, 2), ['1', 'signed_out']);
  assert.equal(await redis.cli('exists', '{signal}:p:1'), '0');
});

test('the webhook is sent no event again because one was told of late', async (t) => {
  const redis = await inMemory(t);
  await startNodes(t, redis.url, 1);
  for (const number of ['12', '10']) await script(redis, 'node', 'webhook_sent', number);
  assert.equal(await redis.cli('get', '{signal}:webhook:sent'), '12');
});

test('somebody who can read Redis cannot act as a peer', async (t) => {
  const redis = await inMemory(t, '--dir', directory(t, 'redis'), '--rdbcompression', 'no');
  const {all: [node]} = await startNodes(t, redis.url, 1);
  const key = 'k'.repeat(32);
  const {socket} = await socketIoClient(t, node.http, {auth: {session: key}});
  await socket.emitWithAck('keep-in-server', 'room');
  const token = (await fetch(`${node.http}/sign_in?peer_name=a`)).headers.get('x-peer-token');
  // All that it would write to a disk.
  await redis.cli('save');
  const [, dir] = (await redis.cli('config', 'get', 'dir')).split('\n');
  const all = readFileSync(path.join(dir, 'dump.rdb'), 'latin1');
  assert.ok(all.includes('socketio'));
  for (const secret of [key, token]) assert.ok(!all.includes(secret), secret);
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

test('a wait that Redis has lost goes on, and one that is over does not', async (t) => {
  const redis = await inMemory(t);
  const {all: [node]} = await startNodes(t, redis.url, 1);
  const peer = await pollingPeer(node, 'a');
  const {wait, take, end} = waits(redis, peer.id);
  const now = Date.now();
  await wait('a', 1, {began: now});
  await end('a', 1);
  assert.deepEqual(await take('a', 1, now), ['outdated']);
  assert.deepEqual(await take('b', 1, now + 1), ['none']);
  assert.equal(await redis.cli('hget', `{signal}:p:${peer.id}`, 'wait'), 'b.1');
});

test('to acknowledge never holds Redis up, whatever became of the mailbox', async (t) => {
  const redis = await inMemory(t);
  await startNodes(t, redis.url, 1, {WEBRTC_MAX_MESSAGE_BYTES: '1000', WEBRTC_MAX_PENDING_BYTES: '3000'});
  const verb = (...args) => script(redis, 'node', ...args);
  const soon = () => String(Date.now() + 5000);
  for (const secret of ['', 'key']) await verb('add_unlisted', soon(), `op${secret}`, secret, 'socketio', 'x', '0', 'channel');
  const [, session] = await verb('open_socket', soon(), 'attempt', '2', '1');
  const lease = `s${session}`;
  for (const op of ['one', 'two']) await verb('publish', op, '1', '', 'x'.repeat(1000), 'channel');
  assert.equal((await verb('take', '0', '2', lease, '', '0', '-1', '0'))[1], '1');
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
  assert.equal((await script(redis, name, 'live', '0'))[0], '1');
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
  await primary.cli('wait', '1', '0');
  primary.process.kill('SIGSTOP');
  await replica.cli('replicaof', 'no', 'one');
  // The name is the other's now. Nobody closes a connection to the first.
  wire.toPort(replica.port);
  const other = await pollingPeer(node, 'b');
  assert.equal(await other.send(peer.id, 'after'), 200);
  assert.equal((await waiting).text, 'after');
  primary.process.kill('SIGCONT');
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
  const add = (op, key) => verb('add_unlisted', soon(), op, key, 'socketio', 'token', '0');
  const signIn = (op) => verb('add_peer', soon(), op, 'a', 'http', 'l', 'token', '0', '-1', '0');
  assert.deepEqual(await add('first', 'key'), ['ok', '1', '0']);
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
    ['open_socket', 'attempt', peer.id, '0'], ['resume_peer', 'op', peer.id, 'x', '', 'http', 'l', '-1', '0'],
    ['resume_unlisted', 'op', peer.id, 'x'], ['add_unlisted', 'op', '', 'socketio', 'x', '0'],
    ['add_peer', 'op', 'b', 'http', 'l', 'x', '0', '-1', '0'],
    ['send', 'op', peer.id, '', peer.id, '', '0', '', '0', 'hi'],
  ]) assert.equal((await script(redis, 'node', verb, late, ...args))[0], 'late', verb);
});

test('a socket whose opening got no answer is closed', async (t) => {
  const redis = await inMemory(t);
  const {all: [node]} = await startNodes(t, redis.url, 1);
  const peer = await pollingPeer(node, 'a');
  const soon = String(Date.now() + 5000);
  await script(redis, 'node', 'open_socket', soon, 'attempt', peer.id, '0');
  await script(redis, 'node', 'drop_socket', peer.id, 'another');
  assert.equal((await node.peers()).length, 1);
  await script(redis, 'node', 'drop_socket', peer.id, 'attempt');
  assert.deepEqual(await node.peers(), []);
});

test('a node whose password was wrong for a while goes on', async (t) => {
  const redis = await persistentRedis(t);
  await redis.cli('config', 'set', 'requirepass', 'right');
  const url = redis.url.replace('://', '://default:right@');
  const {all: [node]} = await startNodes(t, url, 1);
  const peer = await pollingPeer(node, 'a');
  // Without the password that was set, it takes none.
  await redis.kill('SIGTERM');
  await redis.restart();
  await redis.cli('config', 'set', 'requirepass', 'wrong');
  await redis.cli('-a', 'wrong', '--no-auth-warning', 'client', 'kill', 'type', 'normal');
  await until(() => node.log.some(({why}) => /is wrong/.test(why)));
  await redis.cli('-a', 'wrong', '--no-auth-warning', 'config', 'set', 'requirepass', 'right');
  await until(async () => (await fetch(`${node.http}/readyz`)).status === 200);
  assert.equal(await peer.send(peer.id, 'hi'), 200);
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
  t.after(() => clearInterval(sending));
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

test('a call that is repeated because its answer was lost is carried out once, with the same answer', async (t) => {
  const redis = await inMemory(t);
  await startNodes(t, redis.url, 1, {WEBRTC_MAX_MESSAGE_BYTES: '1000', WEBRTC_MAX_PENDING_BYTES: '1256'});
  const verb = (...args) => script(redis, 'node', ...args);
  const soon = () => String(Date.now() + 5000);
  for (const id of ['1', '2', '3', '3']) {
    const added = await verb('add_unlisted', soon(), `op${id}`, '', 'socketio', 'token', '0', 'channel');
    assert.deepEqual(added, ['ok', id, '0', 'channel']);
  }
  const waiting = async (id) => Number(await redis.cli('llen', `{signal}:m:${id}`));
  const full = 'x'.repeat(1000);
  assert.deepEqual(await verb('publish', 'first', '1', '', full, 'channel'), ['ok']);
  assert.deepEqual(await verb('publish', 'second', '1', '', full, 'channel'), ['ok', '2', '3']);
  assert.deepEqual(await verb('publish', 'second', '1', '', full, 'channel'), ['ok', '2', '3']);
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
  const [, peer] = await verb('add_peer', soon(), 'sixth', 'a', 'http', 'l', 'token', '0', '-1', '0');
  const before = await redis.cli('get', '{signal}:event');
  for (let count = 0; count < 2; count += 1) {
    const back = await verb('resume_peer', soon(), 'seventh', peer, 'token', '', 'http', 'l', '-1', '0');
    assert.deepEqual(back.slice(0, 2), ['ok', peer]);
  }
  assert.equal(BigInt(await redis.cli('get', '{signal}:event')) - BigInt(before), 1n);
  for (let count = 0; count < 2; count += 1) {
    assert.equal((await verb('remove_peer', 'eighth', peer, 'kicked'))[0], 'ok');
  }
  assert.deepEqual(await verb('remove_peer', 'ninth', peer, 'kicked'), ['gone']);
});
