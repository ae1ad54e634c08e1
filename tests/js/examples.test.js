// The examples, as they stand in examples/.

import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {readFile} from 'node:fs/promises';
import http from 'node:http';
import {test} from 'node:test';
import {fileURLToPath} from 'node:url';

import {atEnd, nodeOf, startBrowser, startServer, talksToPages} from './support.js';

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

test('two tabs talk, see each other, and talk again after a reload', async (t) => {
  const [server, application, browser] = await Promise.all([
    startServer(t), startApplication(t),
    startBrowser(t, '--allow-loopback-in-peer-connection', '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream'),
  ]);
  const open = async () => {
    const page = await (await browser.createBrowserContext()).newPage();
    page.errors = [];
    page.on('pageerror', (error) => page.errors.push(String(error)));
    await page.goto(`${application}/two-tabs.html?server=${nodeOf(server.http)}`);
    return page;
  };
  const connected = (page) => page.waitForFunction(() => document.getElementById('state').textContent === 'connected');
  const say = async (from, to, text) => {
    await from.type('#text', text);
    await from.keyboard.press('Enter');
    await to.waitForFunction((text) => document.getElementById('messages').textContent.includes(`they: ${text}`), {}, text);
  };
  const [a, b] = [await open(), await open()];
  await Promise.all([connected(a), connected(b)]);
  await say(a, b, 'hello');
  await say(b, a, 'and you');
  await a.click('#camera');
  await b.waitForFunction(() => document.getElementById('theirs').videoWidth > 0);
  await b.reload();
  await connected(b);
  await say(b, a, 'I am back');
  await say(a, b, 'welcome');
  assert.deepEqual([...a.errors, ...b.errors], []);
});

test('the example for Python talks to pages', async (t) => {
  const [server, browser] = await Promise.all([startServer(t), startBrowser(t, '--allow-loopback-in-peer-connection')]);
  const [python, example] = ['.venv/bin/python', 'examples/aiortc_peer.py'].map((file) => fileURLToPath(new URL(`../../${file}`, import.meta.url)));
  const child = spawn(python, [example, nodeOf(server.http), 'echo'], {stdio: ['ignore', 'pipe', 'inherit']});
  await talksToPages(t, server, child, browser);
});
