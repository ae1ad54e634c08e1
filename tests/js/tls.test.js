// TLS on the second listener, with real clients.

import assert from 'node:assert/strict';
import {execFile, execFileSync, spawnSync} from 'node:child_process';
import {once} from 'node:events';
import {copyFileSync, readFileSync, renameSync, writeFileSync} from 'node:fs';
import https from 'node:https';
import net from 'node:net';
import path from 'node:path';
import {test} from 'node:test';
import tls from 'node:tls';
import {promisify} from 'node:util';

import WebSocket from 'ws';

import {directory, startInVain} from './nodes.js';
import {BINARY, atEnd, clients, startBrowser, startNode, until} from './support.js';

const run = promisify(execFile);

/** A certificate for localhost, and its key, in a folder: `{cert, key}`, their files. */
function certificate(folder, {kind = 'ec', name = 'server'} = {}) {
  const [cert, key] = [`${name}.crt`, `${name}.key`].map((file) => path.join(folder, file));
  const kinds = {ec: ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256'], rsa: ['-newkey', 'rsa:2048']};
  execFileSync('openssl', [
    'req', '-x509', '-nodes', ...kinds[kind], '-days', '2', '-subj', '/CN=localhost',
    '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1', '-keyout', key, '-out', cert,
  ], {stdio: 'ignore'});
  return {cert, key};
}

/** A server that also speaks TLS: `{secure}` is its URL there. */
async function startSecure(t, {kind, ...settings} = {}) {
  const folder = directory(t, 'tls');
  const files = certificate(folder, {kind});
  const server = await startNode(t, {
    WEBRTC_TLS_CERT: files.cert, WEBRTC_TLS_KEY: files.key, WEBRTC_TLS_PORT: '0', ...settings,
  });
  const port = Number(server.log.find((line) => line.tls).tls.split(':').at(-1));
  return {...server, files, folder, tlsPort: port, secure: `https://localhost:${port}`};
}

/** A GET through TLS: `{status, text, fingerprint}`. */
function get(server, target, options = {}) {
  return new Promise((resolve, reject) => {
    const request = https.get(`${server.secure}${target}`, {rejectUnauthorized: false, agent: false, ...options}, async (answer) => {
      const chunks = [];
      const {fingerprint256: fingerprint} = answer.socket.getPeerCertificate();
      for await (const chunk of answer) chunks.push(chunk);
      resolve({status: answer.statusCode, headers: answer.headers, text: Buffer.concat(chunks).toString(), fingerprint});
    });
    request.on('error', reject);
  });
}

const fingerprint = (server) => get(server, '/healthz').then((answer) => answer.fingerprint);

for (const kind of ['ec', 'rsa']) {
  test(`curl, Python and openssl speak TLS with the server, with a key of the kind ${kind}`, async (t) => {
    const server = await startSecure(t, {kind});
    const {cert} = server.files;
    const {stdout: signedIn} = await run('curl', ['-sS', '--fail', '--cacert', cert, `${server.secure}/sign_in?peer_name=a`]);
    assert.equal(signedIn, 'a,1,1\n');
    const {stdout: asked} = await run('python3', ['-c', `
import ssl, urllib.request
context = ssl.create_default_context(cafile='${cert}')
print(urllib.request.urlopen('${server.secure}/healthz', context=context).read())`]);
    assert.match(asked, /b'ok'/);
    const shake = (...options) => spawnSync('openssl', [
      's_client', '-connect', `localhost:${server.tlsPort}`, '-CAfile', cert, '-verify_return_error', ...options,
    ], {input: '', encoding: 'utf8'});
    for (const version of ['-tls1_2', '-tls1_3']) {
      const {status, stdout} = shake(version, '-alpn', 'h2,http/1.1');
      assert.equal(status, 0);
      assert.match(stdout, /ALPN protocol: http\/1.1/);
    }
    // Versions and ciphers that are broken or weak, which this openssl would still take.
    for (const weak of [
      ['-tls1', '-cipher', 'ALL:@SECLEVEL=0'], ['-tls1_1', '-cipher', 'ALL:@SECLEVEL=0'],
      ['-tls1_2', '-cipher', 'AES128-SHA:AES256-SHA256:AES128-GCM-SHA256:@SECLEVEL=0'],
      ['-tls1_2', '-cipher', 'ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES256-SHA:DES-CBC3-SHA:@SECLEVEL=0'],
    ]) {
      assert.notEqual(shake(...weak).status, 0, weak.join(' '));
    }
  });
}

test('clients of every door come in through TLS, and meet those that came in without', async (t) => {
  const server = await startSecure(t);
  const socket = new WebSocket(`wss://localhost:${server.tlsPort}/?peer_name=ws&events=true`, {rejectUnauthorized: false});
  atEnd(t, () => socket.terminate());
  const [hello] = await once(socket, 'message');
  assert.equal(JSON.parse(hello).type, 'id');
  for (const [version, transport] of [[4, 'websocket'], [4, 'polling'], [2, 'polling'], [1, 'websocket']]) {
    const client = clients[version](server.secure, {
      forceNew: true, reconnection: false, transports: [transport], rejectUnauthorized: false,
      agent: version < 3 ? new https.Agent({rejectUnauthorized: false}) : undefined,
    });
    atEnd(t, () => client.close());
    await new Promise((resolve, reject) => {
      client.on('connect', resolve);
      client.on('connect_error', reject);
    });
  }
  const {headers: {pragma: id}, text} = await get(server, '/sign_in?peer_name=long');
  assert.match(text, /^ws,\d+,1$/m);
  const answer = fetch(`${server.http}/sign_in?peer_name=plain`);
  assert.match(await (await answer).text(), new RegExp(`^long,${id},`, 'm'));
});

test('a page that came by https talks to another one', async (t) => {
  const [server, browser] = await Promise.all([startSecure(t), startBrowser(t, '--ignore-certificate-errors')]);
  const [one, two] = [await browser.newPage(), await browser.newPage()];
  for (const [page, name] of [[one, 'one'], [two, 'two']]) {
    await page.goto(`${server.secure}/healthz`);
    await page.evaluate(async (name) => {
      const {SignalingClient} = await import('/client.js');
      globalThis.signaling = new SignalingClient(location.origin, {name});
      globalThis.heard = new Promise((resolve) => signaling.addEventListener('message', ({detail}) => resolve(detail.data)));
      await signaling.connect();
    }, name);
  }
  await two.evaluate(() => signaling.send(signaling.peers[0].id, 'hello'));
  assert.equal(await one.evaluate(() => heard), 'hello');
});

test('a new certificate is taken without a dropped connection, and a broken one is not', async (t) => {
  const server = await startSecure(t, {WEBRTC_WAIT_MS: '0'});
  const first = await fingerprint(server);
  const ids = [];
  for (let number = 0; number < 200; number += 1) {
    const {headers, text} = await get(server, `/sign_in?peer_name=${number}`);
    assert.ok(text);
    ids.push(headers.pragma);
  }
  /** Waits for a message, past what it is told of the list. */
  const message = async (id) => {
    for (;;) {
      const {status, headers, text} = await get(server, `/wait?peer_id=${id}`);
      assert.equal(status, 200);
      if (headers.pragma !== id) return text;
    }
  };
  const waits = ids.map(message);
  const peers = async () => (await get(server, '/sign_in?peer_name=looks')).text;
  await until(async () => (await peers()).split('\n').filter((line) => line.endsWith(',1')).length > 200);
  const reload = async (said) => {
    server.log.length = 0;
    server.process.kill('SIGHUP');
    await until(() => server.log.some(({message}) => message?.includes(said)));
  };
  const broken = path.join(server.folder, 'broken');
  writeFileSync(broken, 'broken');
  copyFileSync(server.files.key, path.join(server.folder, 'old.key'));
  renameSync(broken, server.files.key);
  await reload('the old certificate stays');
  assert.equal(await fingerprint(server), first);
  await reload('the same as before');
  certificate(server.folder);
  await reload('get the new certificate');
  const second = await fingerprint(server);
  assert.notEqual(second, first);
  const {headers: {pragma: sender}} = await get(server, '/sign_in?peer_name=sender');
  for (const id of ids) {
    const {status} = await fetch(`${server.http}/message?peer_id=${sender}&to=${id}`, {method: 'POST', body: `to ${id}`});
    assert.equal(status, 200);
  }
  assert.deepEqual(await Promise.all(waits), ids.map((id) => `to ${id}`));
});

test('a session is resumed with a ticket', async (t) => {
  const server = await startSecure(t);
  const connect = (session) => tls.connect({port: server.tlsPort, host: 'localhost', rejectUnauthorized: false, session});
  const socket = connect();
  const [ticket] = await once(socket, 'session');
  socket.destroy();
  const again = connect(ticket);
  await once(again, 'secureConnect');
  assert.equal(again.isSessionReused(), true);
  again.destroy();
});

test('what is not TLS is closed, and disturbs nobody', async (t) => {
  const server = await startSecure(t);
  for (const bytes of ['GET / HTTP/1.1\r\n\r\n', '\x16\x03\x01\xff\xff', '\x00'.repeat(2000)]) {
    const socket = net.connect(server.tlsPort, '127.0.0.1', () => socket.end(Buffer.from(bytes, 'latin1')));
    socket.on('error', () => {}).resume();
    await once(socket, 'close');
  }
  assert.equal((await get(server, '/healthz')).text, 'ok');
});

test('a client that hangs up without a farewell has hung up', async (t) => {
  const server = await startSecure(t);
  const {headers: {pragma: id}} = await get(server, '/sign_in?peer_name=a');
  const socket = tls.connect({port: server.tlsPort, host: 'localhost', rejectUnauthorized: false});
  await once(socket, 'secureConnect');
  socket.on('error', () => {}).on('end', () => {}).resume();
  socket.write(`GET /wait?peer_id=${id} HTTP/1.1\r\nHost: x\r\n\r\n`);
  const status = async () => new RegExp(`^a,${id},(.)$`, 'm').exec(await (await fetch(`${server.http}/sign_in?peer_name=looks`)).text())[1];
  await until(async () => await status() === '1');
  socket.destroy();
  await until(async () => await status() === '0');
});

test('with PORT=off the server listens only on the port of TLS, and its healthcheck asks there', async (t) => {
  const folder = directory(t, 'tls');
  const {cert, key} = certificate(folder);
  const settings = {WEBRTC_TLS_CERT: cert, WEBRTC_TLS_KEY: key, PORT: 'off'};
  const server = await startNode(t, {...settings, WEBRTC_TLS_PORT: '0'});
  const ready = server.log.find(({message}) => message === 'ready');
  assert.equal(ready.address, undefined);
  const port = ready.tls.split(':').at(-1);
  const {stdout} = await run('curl', ['-sS', '--cacert', cert, `https://localhost:${port}/healthz`]);
  assert.equal(stdout, 'ok');
  const env = {HOST: '127.0.0.1', ...settings, WEBRTC_TLS_PORT: port};
  await run(BINARY, ['healthcheck'], {env});
  const exited = once(server.process, 'exit');
  server.process.kill('SIGTERM');
  await exited;
  await assert.rejects(run(BINARY, ['healthcheck'], {env}), {code: 1});
});

test('settings of TLS that cannot be used end the start', async (t) => {
  const folder = directory(t, 'tls');
  const {cert, key} = certificate(folder);
  const other = certificate(folder, {name: 'other'});
  for (const [settings, said] of [
    [{PORT: 'off'}, /^PORT \(--port\) is off, and nothing would listen: set WEBRTC_TLS_CERT/],
    [{WEBRTC_TLS_CERT: cert}, /WEBRTC_TLS_CERT \(--tls-cert\) needs WEBRTC_TLS_KEY \(--tls-key\): set that too, or unset this/],
    [{WEBRTC_TLS_KEY: key}, /WEBRTC_TLS_KEY \(--tls-key\) needs WEBRTC_TLS_CERT \(--tls-cert\): set that too, or unset this/],
    [{WEBRTC_TLS_CERT: cert, WEBRTC_TLS_KEY: other.key}, /WEBRTC_TLS_KEY \(.*\) cannot be used together: the key is that of another certificate$/],
    [{WEBRTC_TLS_CERT: cert, WEBRTC_TLS_KEY: cert}, /WEBRTC_TLS_KEY \(.*\) cannot be read: it has no private key/],
    [{WEBRTC_TLS_CERT: `${cert}x`, WEBRTC_TLS_KEY: key}, /WEBRTC_TLS_CERT \(.*\) cannot be read: No such file/],
  ]) {
    const [status, line] = await startInVain({WEBRTC_TLS_PORT: '0', ...settings});
    assert.equal(status, 2);
    assert.match(line, said);
  }
});

const page = readFileSync(new URL('../../docs/tls.md', import.meta.url), 'utf8');
const blocks = (kind) => [...page.matchAll(new RegExp(`\`\`\`${kind}\n([^]*?)\`\`\``, 'g'))].map(([, text]) => text);

test('what docs/tls.md shows to try it works', async (t) => {
  const folder = directory(t, 'docs');
  const [, trial] = blocks('sh');
  const [make, ask] = [/^openssl[^]*?cert\.pem$/m, /^curl .*$/m].map((part) => part.exec(trial)[0]);
  await run('sh', ['-c', make], {cwd: folder});
  const files = {WEBRTC_TLS_CERT: path.join(folder, 'cert.pem'), WEBRTC_TLS_KEY: path.join(folder, 'key.pem')};
  const server = await startNode(t, {...files, WEBRTC_TLS_PORT: '0'});
  const port = server.log.find((line) => line.tls).tls.split(':').at(-1);
  const {stdout} = await run('sh', ['-c', ask.replace('3443', port)], {cwd: folder});
  assert.equal(stdout, 'ok');
});

test('Caddy and HAProxy take the settings of docs/tls.md', async (t) => {
  const folder = directory(t, 'docs');
  const env = {...process.env, PATH: `${process.env.PATH}:/usr/sbin`, HOME: folder};
  const caddyfile = path.join(folder, 'Caddyfile');
  writeFileSync(caddyfile, blocks('caddyfile')[0]);
  await run('caddy', ['adapt', '--config', caddyfile, '--adapter', 'caddyfile'], {env});
  const {cert, key} = certificate(folder);
  const both = path.join(folder, 'both.pem');
  writeFileSync(both, readFileSync(cert, 'utf8') + readFileSync(key, 'utf8'));
  const settings = path.join(folder, 'haproxy.cfg');
  writeFileSync(settings, blocks('haproxy')[0].replace('/etc/haproxy/example.org.pem', both));
  await run('haproxy', ['-c', '-f', settings], {env});
});
