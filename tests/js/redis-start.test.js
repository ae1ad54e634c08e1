// How a node starts with its Redis: one that cannot be used, that others use, or that
// somebody can read.

import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {once} from 'node:events';
import {readFileSync, writeFileSync} from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import {test} from 'node:test';

import {directory, persistentRedis, startInVain, startNodes} from './nodes.js';
import {atEnd, freePort, pollingPeer, socketIoClient, startNode, until} from './support.js';
import {inMemory} from './redis.js';

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
  assert.match(line, /^Redis at 127\.0\.0\.1:1 cannot be reached: .*WEBRTC_REDIS_URL/);
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

test('several shards need a Redis, and a cluster needs several', async (t) => {
  const refused = [
    [{WEBRTC_REDIS_SHARDS: '4'}, /^WEBRTC_REDIS_SHARDS .*set WEBRTC_REDIS_URL too$/],
    [{WEBRTC_REDIS_URL: 'redis+cluster://127.0.0.1'}, /set WEBRTC_REDIS_SHARDS to several times/],
  ];
  for (const [settings, why] of refused) {
    const [status, line] = await startInVain(settings);
    assert.equal(status, 2, line);
    assert.match(line, why);
  }
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
    atEnd(t, () => server.close());
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

test('a Redis in protected mode ends the start with the way out, also if its word is lost', async (t) => {
  const denied = '-DENIED Redis is running in protected mode because protected mode is enabled.\r\n';
  for (const close of [(client) => client.end(denied), (client) => client.resetAndDestroy()]) {
    const server = net.createServer((client) => {
      client.on('error', () => {});
      close(client);
    }).listen(0, '127.0.0.1');
    atEnd(t, () => server.close());
    await once(server, 'listening');
    const [, line] = await startInVain({WEBRTC_REDIS_URL: `redis://127.0.0.1:${server.address().port}`});
    assert.match(line, /it is in protected mode, give it a password \(requirepass\), and put that into WEBRTC_REDIS_URL/);
  }
});

test('of a Redis that is not there nothing else is said', async () => {
  const [status, line] = await startInVain({WEBRTC_REDIS_URL: `redis://127.0.0.1:${await freePort()}`});
  assert.equal(status, 1);
  assert.match(line, /cannot be reached: Connection refused \(os error 111\); check that it runs/);
});

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
    [{WEBRTC_REDIS_CA: file('ca.key')}, /^WEBRTC_REDIS_CA .*certificates \(PEM\)/],
    [{WEBRTC_REDIS_CA: file('ca.crt'), WEBRTC_REDIS_URL: 'redis://localhost/'}, /^WEBRTC_REDIS_CA .*rediss:\/\//],
  ]) {
    const [status, line] = await startInVain({...settings, ...other});
    assert.equal(status, 2, line);
    assert.match(line, why);
  }
});

test('a Redis that asks for a certificate is shown the one that is given', async (t) => {
  const file = certificates(t);
  const port = await freePort();
  await inMemory(t, '--tls-port', port, '--tls-auth-clients', 'yes',
    '--tls-cert-file', file('redis.crt'), '--tls-key-file', file('redis.key'), '--tls-ca-cert-file', file('ca.crt'));
  const settings = {WEBRTC_REDIS_URL: `rediss://localhost:${port}/0`, WEBRTC_REDIS_CA: file('ca.crt')};
  const identity = {WEBRTC_REDIS_CERT: file('redis.crt'), WEBRTC_REDIS_KEY: file('redis.key')};
  const node = await startNode(t, {...settings, ...identity});
  assert.equal((await fetch(`${node.http}/readyz`)).status, 200);
  for (const [other, why] of [
    [{WEBRTC_REDIS_CERT: file('redis.crt')}, /^WEBRTC_REDIS_CERT .* needs WEBRTC_REDIS_KEY .*: set that too, or unset this/],
    [{...identity, WEBRTC_REDIS_KEY: file('redis.crt')}, /^WEBRTC_REDIS_KEY .*private key \(PEM\)/],
    [{...identity, WEBRTC_REDIS_CA: '', WEBRTC_REDIS_URL: 'redis://localhost/'}, /^WEBRTC_REDIS_CERT .*rediss:\/\//],
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
  const warnings = ({log}) => log.filter(({message}) => /other nodes have another/.test(message));
  await until(() => warnings(other).length === 1);
  for (const node of same) assert.deepEqual(warnings(node), []);
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
