// The npm package, from the tarball that would be published.

import assert from 'node:assert/strict';
import {execFile, spawn} from 'node:child_process';
import {once} from 'node:events';
import {cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import path from 'node:path';
import {after, before, test} from 'node:test';
import {fileURLToPath} from 'node:url';
import {promisify} from 'node:util';

import {build} from 'esbuild';

import {atEnd, Inbox, startBrowser, startServer, talksToPages, until} from './support.js';

const run = promisify(execFile);
const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const MODULES = fileURLToPath(new URL('node_modules/', import.meta.url));

let tarball;

before(async () => {
  const folder = await mkdtemp(path.join(tmpdir(), 'package-'));
  const {stdout} = await run('npm', ['pack', '--json', '--pack-destination', folder], {cwd: path.join(ROOT, 'packages/client')});
  const [{filename, files}] = JSON.parse(stdout);
  tarball = {folder, file: path.join(folder, filename), names: files.map(({path: name}) => name)};
});

after(() => rm(tarball.folder, {recursive: true, force: true}));

/** A folder of an application that has installed the package. */
async function application(t) {
  const folder = await mkdtemp(path.join(tmpdir(), 'application-'));
  atEnd(t, () => rm(folder, {recursive: true, force: true}));
  await writeFile(path.join(folder, 'package.json'), '{"private": true, "type": "module"}');
  await run('npm', ['install', '--offline', '--no-audit', '--no-fund', tarball.file], {cwd: folder});
  return folder;
}

test('the package has the version of the server, and all that it needs', async () => {
  const cargo = await readFile(path.join(ROOT, 'Cargo.toml'), 'utf8');
  const {version, dependencies} = JSON.parse(await readFile(path.join(ROOT, 'packages/client/package.json'), 'utf8'));
  assert.equal(version, /^version = "(.*)"/m.exec(cargo)[1]);
  assert.equal(dependencies, undefined);
  const modules = ['client', 'heartbeat', 'index', 'rtc'];
  const expected = [...modules.flatMap((name) => [`${name}.d.ts`, `${name}.js`]), 'LICENSE', 'README.md', 'package.json'];
  assert.deepEqual(tarball.names.sort(), expected.sort());
});

test('an application in Node uses the package', async (t) => {
  const [server, folder] = await Promise.all([startServer(t), application(t)]);
  await writeFile(path.join(folder, 'main.js'), `
    import {SignalingClient} from 'signal-http-heartbeat-client';
    import {heartbeatStart} from 'signal-http-heartbeat-client/heartbeat.js';
    const signaling = new SignalingClient('${server.http}', {name: 'alice'});
    const heard = new Promise((resolve) => signaling.addEventListener('message', ({detail}) => resolve(detail.data)));
    await signaling.connect();
    await signaling.send(signaling.id, {hello: typeof heartbeatStart});
    console.log(JSON.stringify(await heard));
    await signaling.close();
  `);
  const {stdout} = await run(process.execPath, ['main.js'], {cwd: folder});
  assert.equal(stdout, '{"hello":"function"}\n');
});

test('what the README of the package shows is a page that talks', async (t) => {
  const [server, folder, browser] = await Promise.all([
    startServer(t), application(t), startBrowser(t, '--allow-loopback-in-peer-connection')]);
  const [, block] = /```js\n([^]*?)```/.exec(await readFile(path.join(ROOT, 'packages/client/README.md'), 'utf8'));
  assert.match(block, /http:\/\/localhost:3000/);
  await writeFile(path.join(folder, 'main.js'), block.replace('http://localhost:3000', server.http));
  const {outputFiles: [{text}]} = await build({
    entryPoints: [path.join(folder, 'main.js')], bundle: true, format: 'esm', write: false,
  });
  const heard = new Inbox();
  for (let pages = 0; pages < 2; pages += 1) {
    const page = await browser.newPage();
    page.on('console', (message) => heard.put(message.text()));
    await page.goto(`${server.http}/healthz`);
    await page.addScriptTag({content: text, type: 'module'});
    await until(async () => (await server.peers()).length === pages + 1);
  }
  let line;
  // A browser also logs that there is no icon.
  do { line = await heard.next(); } while (line !== 'heard hello');
});

test('an application in TypeScript that is bundled runs in a browser', async (t) => {
  const [server, folder, browser] = await Promise.all([startServer(t), application(t), startBrowser(t)]);
  await writeFile(path.join(folder, 'main.ts'), `
    import {PeerConnections, SignalingClient, type Peer} from 'signal-http-heartbeat-client';
    const signaling = new SignalingClient('${server.http}', {name: 'alice', transport: 'auto', keep: false});
    const connections = new PeerConnections(signaling, {iceTransportPolicy: 'all'});
    signaling.addEventListener('peers', ({detail: {peers, joined, left}}) => {
      const all: Peer[] = [...peers, ...joined, ...left];
      document.title = all.map(({name}) => name).join();
    });
    connections.addEventListener('connection', ({detail: {connection}}) => connection.restartIce());
    await signaling.connect();
    await signaling.send(signaling.id ?? 0, {hello: 1});
  `);
  const options = ['--noEmit', '--strict', '--target', 'es2022', '--module', 'esnext', '--moduleResolution', 'bundler', '--lib', 'es2022,dom'];
  await run(process.execPath, [path.join(MODULES, 'typescript/bin/tsc'), ...options, 'main.ts'], {cwd: folder});
  const {outputFiles: [{text}]} = await build({
    entryPoints: [path.join(folder, 'main.ts')], bundle: true, format: 'esm', write: false, minify: true,
  });
  // Nothing that is not used.
  assert.doesNotMatch(text, /heartbeatStop/);
  const page = await browser.newPage();
  await page.goto(`${server.http}/healthz`);
  await page.addScriptTag({content: text, type: 'module'});
  await fetch(`${server.http}/sign_in?peer_name=bob`);
  await page.waitForFunction(() => document.title.includes('bob'));
});

test('the example for Node talks to a page', async (t) => {
  const [server, folder, browser] = await Promise.all([
    startServer(t), application(t), startBrowser(t, '--allow-loopback-in-peer-connection')]);
  await mkdir(path.join(folder, 'node_modules/@roamhq'), {recursive: true});
  for (const name of ['wrtc', 'wrtc-linux-x64']) {
    await symlink(path.join(MODULES, '@roamhq', name), path.join(folder, 'node_modules/@roamhq', name)).catch(() => {});
  }
  await cp(path.join(ROOT, 'examples/node.mjs'), path.join(folder, 'node.mjs'));
  const child = spawn(process.execPath, ['node.mjs', server.http, 'echo'], {cwd: folder, stdio: ['ignore', 'pipe', 'inherit']});
  await talksToPages(t, server, child, browser);
  child.kill('SIGTERM');
  await once(child, 'exit');
  await until(async () => !(await (await fetch(`${server.http}/connections`)).text()).includes('echo'));
});
