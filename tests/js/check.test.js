// `check`: the settings are tried, and nothing is served.

import assert from 'node:assert/strict';
import {execFile} from 'node:child_process';
import {once} from 'node:events';
import http from 'node:http';
import {test} from 'node:test';

import {BINARY, atEnd, freePort, startRedis} from './support.js';

/** Runs `check`: its exit status, and what it says. */
async function check(settings, ...flags) {
  const child = execFile(BINARY, ['check', ...flags], {env: {HOST: '127.0.0.1', ...settings}});
  const texts = {stdout: '', stderr: ''};
  for (const name of Object.keys(texts)) child[name].on('data', (data) => { texts[name] += data; });
  const [status] = await once(child, 'close');
  return {status, ...texts};
}

/** A server that answers everything with this. */
async function answering(t, text) {
  const server = http.createServer((request, response) => response.end(text)).listen(0, '127.0.0.1');
  await once(server, 'listening');
  atEnd(t, () => { server.closeAllConnections(); server.close(); });
  return `http://127.0.0.1:${server.address().port}/`;
}

test('check says what the server would do', async () => {
  const {status, stdout, stderr} = await check({WEBRTC_ICE_SERVERS: 'stun:a', WEBRTC_ADMIN_LISTEN: '127.0.0.1:3001'});
  assert.equal(stderr, '');
  assert.equal(status, 0);
  assert.equal(stdout, `listens: http on port 3000 of 127.0.0.1
doors: http, websocket, socketio
who may come in: everybody
peer list: in this process
ICE servers: ["stun:a"]
operator: API at 127.0.0.1:3001
`);
});

test('settings may stand before and behind check', async () => {
  const {status, stdout} = await check({}, '--ice-servers', 'stun:b', '--heartbeat-ms=20000');
  assert.equal(status, 0);
  assert.match(stdout, /stun:b/);
  const {status: failed, stderr} = await check({}, '--tls-cert', '/no/cert', '--tls-key', '/no/key');
  assert.equal(failed, 2);
  assert.match(stderr, /WEBRTC_TLS_CERT \(\/no\/cert\) cannot be read/);
});

test('no secret stands in what check says is wrong', async () => {
  for (const settings of [
    {WEBRTC_ICE_SERVERS: 'turn:user:hunter2@host', WEBRTC_TURN_SECRET: 'x'}, {WEBRTC_ACCESS_TOKEN: 'hunter2,'},
  ]) {
    const {status, stderr} = await check(settings);
    assert.equal(status, 2);
    assert.doesNotMatch(stderr, /hunter2/);
  }
});

test('check warns of a server that strangers reach and nothing guards', async () => {
  const warnings = async (settings) => {
    const {status, stdout} = await check(settings);
    assert.equal(status, 0);
    return stdout.split('\n').filter((line) => line.startsWith('warning: ')).map((line) => /WEBRTC_\w+/.exec(line)[0]);
  };
  const open = {HOST: '0.0.0.0'};
  assert.deepEqual(await warnings(open), ['WEBRTC_ACCESS_TOKEN', 'WEBRTC_MAX_CONNECTIONS_PER_IP']);
  const limits = {WEBRTC_MAX_CONNECTIONS_PER_IP: '100', WEBRTC_MAX_PEERS_PER_IP: '50', WEBRTC_SIGN_INS_PER_IP: '10/s'};
  assert.deepEqual(await warnings({...open, ...limits}), ['WEBRTC_ACCESS_TOKEN']);
  assert.deepEqual(await warnings({...open, ...limits, WEBRTC_ACCESS_TOKEN: 'x'}), []);
  assert.deepEqual(await warnings({HOST: '::1'}), []);
  assert.deepEqual(await warnings({...open, ...limits, TOKEN: 'x', WEBRTC_DOORS: 'socketio'}), []);
  const conda = await check({HOST: 'x86_64-conda-linux-gnu', ...limits, WEBRTC_ACCESS_TOKEN: 'x'});
  assert.match(conda.stdout, /^warning: HOST is "x86_64-conda-linux-gnu"/m);
  const {stdout} = await check({WEBRTC_HEARBEAT_MS: '1'});
  assert.match(stdout, /^warning: WEBRTC_HEARBEAT_MS is not a setting of this server: did you mean WEBRTC_HEARTBEAT_MS\?$/m);
});

test('check tries Redis, certificates and published keys', async (t) => {
  const redis = await startRedis(t);
  const {status, stdout} = await check({WEBRTC_REDIS_URL: redis.url});
  assert.equal(status, 0);
  assert.match(stdout, /^peer list: in Redis, which can be used$/m);
  // It leaves no node behind.
  assert.equal(await redis.cli('zcard', '{signal}:nodes'), '0');
  const set = await answering(t, '{"keys":[]}');
  const nobody = `http://127.0.0.1:${await freePort()}/`;
  for (const [settings, said] of [
    [{WEBRTC_REDIS_URL: nobody.replace('http', 'redis')}, /^signal-http-heartbeat: .*WEBRTC_REDIS_URL/],
    [{WEBRTC_JWKS_URL: nobody}, /WEBRTC_JWKS_URL \(--jwks-url\) cannot be used: it cannot be reached/],
    [{WEBRTC_JWKS_URL: set}, /WEBRTC_JWKS_URL \(--jwks-url\) cannot be used: it has no key/],
    [{WEBRTC_TLS_CERT: '/no/file', WEBRTC_TLS_KEY: '/no/file'}, /WEBRTC_TLS_CERT \(\/no\/file\) cannot be read/],
    [{PORT: 'http'}, /PORT \(--port\) is not valid/],
    [{PORT: '4000', WEBRTC_TLS_PORT: '4000', WEBRTC_TLS_CERT: '/no/file', WEBRTC_TLS_KEY: '/no/file'}, /are both 4000/],
  ]) {
    const {status, stdout, stderr} = await check(settings);
    assert.equal(stdout, '');
    assert.equal(status, 2);
    assert.match(stderr, said);
    assert.match(stderr, /^[^\n]+\n$/);
  }
});
