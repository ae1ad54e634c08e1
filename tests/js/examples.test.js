// The examples, as they stand in examples/.

import assert from 'node:assert/strict';
import {execFile, spawn} from 'node:child_process';
import {once} from 'node:events';
import {mkdtemp, readFile, rm} from 'node:fs/promises';
import http from 'node:http';
import {tmpdir} from 'node:os';
import path from 'node:path';
import {createInterface} from 'node:readline';
import {test} from 'node:test';
import {fileURLToPath} from 'node:url';
import {promisify} from 'node:util';

import {
  atEnd, cuttableWire, Inbox, killAtEnd, nodeOf, pollingPeer, startBrowser, startServer, talksToPages, until,
} from './support.js';

const fileOf = (name) => fileURLToPath(new URL(`../../${name}`, import.meta.url));

/** Serves examples/ from an origin of its own, as an application would be. */
async function startApplication(t) {
  const server = http.createServer(async (request, response) => {
    const file = new URL(`../../examples${new URL(request.url, 'http://x').pathname}`, import.meta.url);
    response.setHeader('Content-Type', 'text/html');
    response.end(await readFile(file).catch(() => ''));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  atEnd(t, () => { server.closeAllConnections(); server.close(); });
  return `http://127.0.0.1:${server.address().port}`;
}

test('two tabs talk, see each other, and talk again after a reload and a lost network', async (t) => {
  const [server, application, browser] = await Promise.all([
    startServer(t), startApplication(t),
    startBrowser(t, '--allow-loopback-in-peer-connection', '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream'),
  ]);
  const wire = await cuttableWire(t, server);
  const open = async (url) => {
    const page = await (await browser.createBrowserContext()).newPage();
    page.errors = [];
    page.on('pageerror', (error) => page.errors.push(String(error)));
    await page.goto(`${application}/two-tabs.html?server=${url}`);
    return page;
  };
  const connected = (page) => page.waitForFunction(() => document.getElementById('state').textContent === 'connected');
  const say = async (from, to, text) => {
    await from.type('#text', text);
    await from.keyboard.press('Enter');
    await to.waitForFunction((text) => document.getElementById('messages').textContent.includes(`they: ${text}`), {}, text);
  };
  const [a, b] = [await open(nodeOf(wire.http)), await open(nodeOf(server.http))];
  await Promise.all([connected(a), connected(b)]);
  await say(a, b, 'hello');
  await say(b, a, 'and you');
  await a.click('#camera');
  await b.waitForFunction(() => document.getElementById('theirs').videoWidth > 0);
  await b.reload();
  await connected(b);
  await say(b, a, 'I am back');
  await say(a, b, 'welcome');
  await a.setOfflineMode(true);
  // Which the browser does not do to a WebSocket.
  wire.cut();
  await say(a, b, 'offline');
  await a.setOfflineMode(false);
  await b.reload();
  await Promise.all([connected(a), connected(b)]);
  await say(b, a, 'back again');
  assert.deepEqual([...a.errors, ...b.errors], []);
});

test('the example for Python talks to pages', async (t) => {
  const [server, browser] = await Promise.all([startServer(t), startBrowser(t, '--allow-loopback-in-peer-connection')]);
  const child = spawn(fileOf('.venv/bin/python'), [fileOf('examples/aiortc_peer.py'), nodeOf(server.http), 'echo'], {stdio: ['ignore', 'pipe', 'inherit']});
  await talksToPages(t, server, child, browser);
});

/** Starts a program on the client in C#, with a peer for each name; and the lines that it prints. */
async function startCSharp(t, url, ...names) {
  const folder = await mkdtemp(path.join(tmpdir(), 'mono-'));
  atEnd(t, () => rm(folder, {recursive: true, force: true}));
  const program = path.join(folder, 'echo.exe');
  const sources = ['tests/js/EchoProgram.cs', 'examples/Signaling.cs'].map(fileOf);
  await promisify(execFile)('mcs', ['-nologo', '-warnaserror', '-r:System.Net.Http.dll', `-out:${program}`, ...sources]);
  const child = spawn('mono', [program, url, ...names], {stdio: ['pipe', 'pipe', 'inherit']});
  killAtEnd(t, child);
  const lines = new Inbox();
  createInterface({input: child.stdout}).on('line', (line) => lines.put(line)).on('close', () => lines.put(null));
  const untilLine = async (pattern) => {
    for (;;) {
      const line = await lines.next();
      assert.notEqual(line, null, 'the program has ended');
      if (pattern.test(line)) return pattern.exec(line);
    }
  };
  return {child, lines, untilLine};
}

const isListed = async (server, name) => (await server.peers()).some((peer) => peer.name === name);

test('the client in C# loses no message, whatever is cut, and signs out', async (t) => {
  const server = await startServer(t);
  const wire = await cuttableWire(t, server);
  const {child, lines, untilLine} = await startCSharp(t, wire.http, 'unity');
  const [, id] = /^unity signed in (\d+)$/.exec(await lines.next());
  assert.equal(await lines.next(), 'unity peers ');
  const bob = await pollingPeer(server, 'bob, the second');
  assert.equal(await lines.next(), 'unity peers bob_ the second');
  const numbers = [...Array(40).keys()];
  const heard = (async () => {
    const texts = [];
    while (texts.length < numbers.length) texts.push((await bob.message()).text);
    return texts;
  })();
  for (const number of numbers) {
    await bob.send(id, `Nr. ${number} é🦀`);
    if (number % 10 === 5) wire.cut();
  }
  // Each came, in order, and was answered once.
  assert.deepEqual(await heard, numbers.map((number) => `echo Nr. ${number} é🦀`));
  child.stdin.end();
  await untilLine(/signed out/);
  assert.equal(await isListed(server, 'unity'), false);
});

test('of several clients in one C# program each answers, and one whose handler fails signs out', async (t) => {
  const server = await startServer(t);
  const names = ['one', 'two', 'three', 'four'];
  const {untilLine} = await startCSharp(t, server.http, ...names);
  await until(async () => (await server.peers()).length === names.length);
  const bob = await pollingPeer(server, 'bob');
  const idOf = new Map((await server.peers()).map(({name, peerId}) => [name, peerId]));
  for (const name of names) {
    await bob.send(idOf.get(name), name);
    assert.equal((await bob.message()).text, `echo ${name}`);
  }
  await bob.send(idOf.get('two'), 'fail');
  await untilLine(/^two failed as asked$/);
  assert.equal(await isListed(server, 'two'), false);
  await bob.send(idOf.get('three'), 'still here?');
  assert.equal((await bob.message()).text, 'echo still here?');
});
