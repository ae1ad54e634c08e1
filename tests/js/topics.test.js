// The topics door: with its frames, and with npm `y-webrtc` in Chromium and in Node.

import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import {createInterface} from 'node:readline';
import {test} from 'node:test';
import {fileURLToPath} from 'node:url';

import {build} from 'esbuild';
import WebSocket from 'ws';

import {atEnd, cuttableWire, Inbox, killAtEnd, nodeOf, startBrowser, startServer} from './support.js';

const start = (t, settings = {}) => startServer(t, {WEBRTC_DOORS: 'http,websocket,socketio,topics', ...settings});

/** A client by its frames. */
async function client(t, server, path = '/topics') {
  const socket = new WebSocket(`${server.ws}${path}`);
  atEnd(t, () => socket.terminate());
  const frames = new Inbox();
  socket.on('message', (data) => frames.put(JSON.parse(data.toString())));
  const closed = new Promise((resolve) => { socket.on('close', resolve); });
  await new Promise((resolve, reject) => { socket.on('open', resolve); socket.on('error', reject); });
  const say = (frame) => socket.send(typeof frame === 'string' ? frame : JSON.stringify(frame));
  const next = () => frames.next();
  /** Ready when the server has carried out all that was said before. */
  const isDone = async () => {
    say({type: 'ping'});
    assert.deepEqual(await next(), {type: 'pong'});
  };
  return {say, next, isDone, closed, frames};
}

test('what is published reaches all who subscribed, also the sender, in the form of each', async (t) => {
  const server = await start(t);
  const [a, b, c, other] = [await client(t, server), await client(t, server), await client(t, server), await client(t, server)];
  for (let again = 0; again < 2; again += 1) a.say({type: 'subscribe', topics: ['one', 'two', 7, null]});
  b.say({type: 'subscribe', topics: ['one']});
  c.say({type: 'subscribe', topic: 'one'});
  for (const peer of [a, b, c]) await peer.isDone();
  const told = (data, clients, topic = 'one') => ({type: 'publish', topic, data, clients});
  a.say({type: 'publish', topic: 'one', data: {n: 1.5}});
  for (const peer of [a, b]) assert.deepEqual(await peer.next(), told({n: 1.5}, 2));
  assert.deepEqual(await c.next(), {topic: 'one', payload: {n: 1.5}});
  c.say({type: 'publish', topic: 'one', payload: 'base64=='});
  for (const peer of [a, b]) assert.deepEqual(await peer.next(), told('base64==', 2));
  assert.deepEqual(await c.next(), {topic: 'one', payload: 'base64=='});
  // Without a subscription, too.
  other.say({type: 'publish', topic: 'two', data: []});
  assert.deepEqual(await a.next(), told([], 1, 'two'));
  a.say({type: 'unsubscribe', topics: ['one', 'never']});
  await a.isDone();
  b.say({type: 'publish', topic: 'one', data: 'last'});
  assert.deepEqual(await b.next(), told('last', 1));
  for (const peer of [a, other]) { await peer.isDone(); assert.equal(peer.frames.length, 0); }
});

test('what is no frame is passed over', async (t) => {
  const server = await start(t);
  const a = await client(t, server);
  for (const frame of ['', '{', 'null', '[]', '7', '{}', '{"type":7}', '{"type":"subscribe"}', '{"type":"subscribe","topics":7}',
    '{"type":"subscribe","topics":{}}', '{"type":"publish"}', '{"type":"publish","topic":"x"}', '{"type":"publish","topic":{},"data":1}',
    '{"type":"constructor"}', `{"type":"publish","topic":"x","data":${'['.repeat(5000)}}`]) a.say(frame);
  await a.isDone();
});

test('topics of a room, and of many in a row, are kept apart, and names are bounded', async (t) => {
  const server = await start(t, {WEBRTC_MAX_PENDING_BYTES: '700000'});
  const [outside, inside] = [await client(t, server), await client(t, server, '/rooms/lobby/topics')];
  const topics = Array.from({length: 1000}, (_, number) => `topic ${number}`);
  outside.say({type: 'subscribe', topics});
  inside.say({type: 'subscribe', topics: ['topic 1']});
  for (const peer of [outside, inside]) await peer.isDone();
  inside.say({type: 'publish', topic: 'topic 1', data: 1});
  assert.equal((await inside.next()).clients, 1);
  for (const topic of topics) outside.say({type: 'publish', topic, data: topic});
  for (const topic of topics) assert.equal((await outside.next()).data, topic);
  outside.say({type: 'subscribe', topics: ['x'.repeat(300_000)]});
  await outside.isDone();
  outside.say({type: 'subscribe', topics: ['z'.repeat(300_000)]});
  assert.equal(await outside.closed, 1008);
});

// y-webrtc.

const PROGRAM = `
  import * as Y from 'yjs';
  import {WebrtcProvider} from 'y-webrtc';
  globalThis.join = (url, room, peerOpts = {}) => {
    const doc = new Y.Doc();
    const provider = new WebrtcProvider(room, doc, {signaling: [url], password: 'secret', filterBcConns: false, peerOpts});
    return {doc, provider, list: doc.getArray('list')};
  };
`;

/**
 * Ready when so many have subscribed to a topic. Clients of y-webrtc that come at the same time both
 * call each other, and now and then one of them fails then.
 */
async function areSubscribed(t, server, topic, count) {
  const watcher = await client(t, server);
  watcher.say({type: 'subscribe', topics: [topic]});
  for (let clients = 0; clients < count + 1;) {
    // For none of them.
    watcher.say({type: 'publish', topic, data: {from: 'watcher', to: 'watcher'}});
    let frame;
    do frame = await watcher.next(); while (frame.data.to !== 'watcher');
    clients = frame.clients;
  }
  watcher.say({type: 'unsubscribe', topics: [topic]});
  // It may hear of others until then.
  watcher.say({type: 'ping'});
  while ((await watcher.next()).type !== 'pong');
}

async function bundled(contents, platform, options = {}) {
  const resolveDir = fileURLToPath(new URL('.', import.meta.url));
  const {outputFiles: [{text}]} = await build({
    stdin: {contents, resolveDir}, bundle: true, format: 'iife', write: false, platform, define: {global: 'globalThis'}, ...options,
  });
  return text;
}

test('documents of y-webrtc in pages converge, also after the sockets were cut', async (t) => {
  const [server, browser, script] = await Promise.all([
    start(t), startBrowser(t, '--allow-loopback-in-peer-connection'), bundled(PROGRAM, 'browser')]);
  const wire = await cuttableWire(t, server);
  const open = async (url) => {
    const page = await (await browser.createBrowserContext()).newPage();
    await page.goto(`${nodeOf(server.http)}/healthz`);
    await page.addScriptTag({content: script});
    await page.evaluate((url) => { window.joined = join(url, 'a room'); }, url.replace('http', 'ws') + '/topics');
    return page;
  };
  const pages = [await open(wire.http)];
  await areSubscribed(t, server, 'a room', 1);
  pages.push(await open(server.http));
  const add = (page, item) => page.evaluate((item) => joined.list.push([item]), item);
  const have = (...items) => Promise.all(pages.map((page) => page.waitForFunction(
    (items) => items.every((item) => joined.list.toArray().includes(item)), {}, items)));
  await Promise.all([add(pages[0], 'a'), add(pages[1], 'b')]);
  await have('a', 'b');
  wire.cut();
  await areSubscribed(t, server, 'a room', 2);
  pages.push(await open(wire.http));
  await add(pages[2], 'c');
  await have('a', 'b', 'c');
});

test('a document of y-webrtc in Node converges with one in a page', async (t) => {
  const [server, browser, script] = await Promise.all([
    start(t), startBrowser(t, '--allow-loopback-in-peer-connection'), bundled(PROGRAM, 'browser')]);
  const url = `${nodeOf(server.http).replace('http', 'ws')}/topics`;
  const child = spawn(process.execPath, ['--input-type=module', '--eval', `
    import wrtc from '@roamhq/wrtc';
    import WebSocket from 'ws';
    globalThis.WebSocket = WebSocket;
    globalThis.crypto ??= (await import('node:crypto')).webcrypto;
    const Y = await import('yjs');
    const {WebrtcProvider} = await import('y-webrtc');
    const doc = new Y.Doc();
    new WebrtcProvider('a room', doc, {signaling: ['${url}'], password: 'secret', peerOpts: {wrtc}});
    const list = doc.getArray('list');
    list.push(['node']);
    list.observe(() => console.log(JSON.stringify(list.toArray())));
  `], {cwd: fileURLToPath(new URL('.', import.meta.url)), stdio: ['ignore', 'pipe', 'inherit']});
  killAtEnd(t, child);
  const lines = new Inbox();
  createInterface({input: child.stdout}).on('line', (line) => lines.put(JSON.parse(line)));
  await areSubscribed(t, server, 'a room', 1);
  const page = await browser.newPage();
  await page.goto(`${nodeOf(server.http)}/healthz`);
  await page.addScriptTag({content: script});
  await page.evaluate((url) => {
    window.joined = join(url, 'a room');
    joined.list.push(['page']);
  }, url);
  await page.waitForFunction(() => joined.list.toArray().includes('node'));
  while (!(await lines.next()).includes('page'));
});
