// The address of a client, directly and behind real proxies.

import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {readFileSync, writeFileSync} from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import {test} from 'node:test';

import {directory} from './nodes.js';
import {atEnd, eventStream, freePort, startNode, until} from './support.js';

/** Where clients of these tests are, so that they are not where the proxies are. */
const CLIENT = '127.0.0.3';

/** Signs in from there, with these headers. */
async function signIn(url, {headers = {}, from = CLIENT, name = 'a'} = {}) {
  const request = http.get(`${url}/sign_in?peer_name=${name}`, {headers, localAddress: from, agent: false});
  const [response] = await once(request, 'response');
  response.resume();
  await once(response, 'end');
  return response.statusCode;
}

/** A proxy that runs until the test ends. */
async function startProxy(t, program, settings, args) {
  const file = path.join(directory(t, 'proxy'), 'settings');
  writeFileSync(file, settings);
  const proxy = spawn(program, args(file), {
    env: {PATH: `${process.env.PATH}:/usr/sbin`, HOME: path.dirname(file)}, stdio: 'ignore',
  });
  const exited = once(proxy, 'exit');
  atEnd(t, async () => {
    proxy.kill('SIGKILL');
    await exited;
  });
}

/** The nginx of the docs, before a server on this port. */
function nginx(port, to) {
  const docs = readFileSync(new URL('../../docs/operating.md', import.meta.url), 'utf8');
  const [, settings] = /```nginx\n([^]*?)```/.exec(docs);
  return `pid pid; error_log stderr; events {} http { access_log off;
    ${settings.replace('listen 80', `listen 127.0.0.1:${port}`).replace('127.0.0.1:3000', `127.0.0.1:${to}`)} }`;
}

const haproxy = (port, to) => `
defaults
  mode http
  timeout client 60s
  timeout server 60s
  timeout connect 5s
frontend clients
  bind 127.0.0.1:${port}
  option forwardfor
  default_backend signaling
backend signaling
  server one 127.0.0.1:${to}
`;

const caddy = (port, to) => `
{
  admin off
  auto_https off
}
http://127.0.0.1:${port} {
  reverse_proxy 127.0.0.1:${to}
}
`;

const PROXIES = {
  nginx: [nginx, (file) => ['-c', file, '-p', path.dirname(file), '-e', 'stderr', '-g', 'daemon off;']],
  haproxy: [haproxy, (file) => ['-f', file]],
  caddy: [caddy, (file) => ['run', '--adapter', 'caddyfile', '--config', file]],
};

for (const [program, [settings, args]] of Object.entries(PROXIES)) {
  test(`behind ${program} the client's own address counts, whatever it says`, async (t) => {
    const server = await startNode(t, {WEBRTC_ADMIN_LISTEN: '127.0.0.1:0', WEBRTC_TRUSTED_PROXIES: '127.0.0.1'});
    const port = await freePort();
    await startProxy(t, program, settings(port, server.port), args);
    const url = `http://127.0.0.1:${port}`;
    await until(() => fetch(`${url}/healthz`).then(({status}) => status === 200, () => false));
    const events = await eventStream(t, server);
    for (const headers of [{}, {'X-Forwarded-For': '203.0.113.66'}, {'X-Forwarded-For': '127.0.0.1'}]) {
      assert.equal(await signIn(url, {headers}), 200);
      assert.equal((await events.next()).data.peer.address, CLIENT);
    }
  });
}

test('without a trusted proxy the header is not read, and an address of IPv4 is shown as such', async (t) => {
  const server = await startNode(t, {HOST: '::', WEBRTC_ADMIN_LISTEN: '127.0.0.1:0'});
  const url = `http://127.0.0.1:${server.port}`;
  const events = await eventStream(t, server);
  assert.equal(await signIn(url, {headers: {'X-Forwarded-For': '203.0.113.66'}}), 200);
  const {data} = await events.next();
  assert.equal(data.peer.address, CLIENT);
  const [peer] = await (await fetch(`${server.operator}/peers`)).json();
  assert.equal(peer.address, CLIENT);
});

test('only the header that is set is read, and all its lines', async (t) => {
  const server = await startNode(t, {
    WEBRTC_ADMIN_LISTEN: '127.0.0.1:0', WEBRTC_TRUSTED_PROXIES: '127.0.0.0/8, ::1', WEBRTC_CLIENT_ADDRESS_HEADER: 'X-Real-IP',
  });
  const events = await eventStream(t, server);
  const headers = {'X-Forwarded-For': '203.0.113.66', 'X-Real-IP': ['203.0.113.1', '203.0.113.2, 127.0.0.9']};
  assert.equal(await signIn(server.http, {headers}), 200);
  assert.equal((await events.next()).data.peer.address, '203.0.113.2');
});

test('addresses are shown nowhere if the operator does not want to see them', async (t) => {
  const server = await startNode(t, {
    WEBRTC_ADMIN_LISTEN: '127.0.0.1:0', WEBRTC_LOG_ADDRESSES: 'false', WEBRTC_LOG: 'trace', WEBRTC_ACCESS_TOKEN: 'letmein',
  });
  const events = await eventStream(t, server);
  assert.equal(await signIn(server.http), 401);
  assert.equal(await signIn(server.http, {headers: {Authorization: 'Bearer letmein'}}), 200);
  const {data} = await events.next();
  assert.equal(data.peer.address, undefined);
  assert.doesNotMatch(JSON.stringify(server.log), new RegExp(CLIENT.replaceAll('.', '\\.')));
});
