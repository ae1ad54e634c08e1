// The scripts that the README and docs/ show do what they say.

import assert from 'node:assert/strict';
import {spawn, spawnSync} from 'node:child_process';
import {once} from 'node:events';
import {readFileSync} from 'node:fs';
import http from 'node:http';
import {createInterface} from 'node:readline';
import {test} from 'node:test';

import {JSDOM} from 'jsdom';
import {io} from 'socket.io-client-4';
import WebSocket from 'ws';

import {
  atEnd, BINARY, cuttableWire, freePort, Inbox, killAtEnd, ofOneProcess, PageWebSocket, pollingPeer, readyClient, startBrowser, startServer,
  until, webSocketPeer,
} from './support.js';

/** The blocks of a page in a language. */
function blocks(page, language) {
  const text = readFileSync(new URL(`../../${page}`, import.meta.url), 'utf8');
  const fenced = new RegExp(`^\`\`\`${language}\n(.*?)^\`\`\``, 'gms');
  return [...text.matchAll(fenced)].map(([, block]) => block);
}

/** Runs a block, and returns what it logs, and what it names `result`. */
function run(block, server, globals, result = 'undefined') {
  const logged = new Inbox();
  const all = {console: {log: (...line) => logged.put(line)}, WebSocket, io, ...globals};
  const [names, values] = [Object.keys(all), Object.values(all)];
  const script = block.replaceAll('localhost:3000', server.http.replace('http://', ''));
  const asynchronous = Object.getPrototypeOf(async () => {}).constructor;
  const made = script.includes('await')
    ? new asynchronous(...names, script)(...values)
    : new Function(...names, `${script}; return ${result};`)(...values);
  return {logged, made};
}

const [poll, socket, acknowledgingSocket, socketIo, peerJs] = blocks('docs/protocols.md', 'js');
const [acknowledging] = blocks('docs/clients.md', 'js');

test('the script that makes a JSON Web Token', async (t) => {
  const secret = 'a secret of at least thirty-two bytes';
  const server = await startServer(t, {WEBRTC_JWT_SECRET: secret, WEBRTC_ADMIN_LISTEN: '127.0.0.1:0'});
  const [block] = blocks('docs/access.md', 'js');
  const {status, stdout} = spawnSync(process.execPath, ['--input-type=module', '-e', block], {env: {WEBRTC_JWT_SECRET: secret}, encoding: 'utf8'});
  assert.equal(status, 0);
  const signIn = (room) => fetch(`${server.http}${room}/sign_in?peer_name=alice`, {headers: {Authorization: `Bearer ${stdout.trim()}`}});
  assert.equal((await signIn('')).status, 403);
  assert.equal((await signIn('/rooms/lobby')).status, 200);
  const [{user}] = await (await fetch(`${server.operator}/rooms/lobby/peers`)).json();
  assert.equal(user, 'user-7');
});

test('several nodes', async (t) => {
  let [script] = blocks('docs/cluster.md', 'sh');
  assert.match(script, /^cargo build --release\n/);
  script = script.replace(/^.*\n/, '').replaceAll('target/release/signal-http-heartbeat', BINARY);
  for (const port of ['6380', '3000', '3002']) script = script.replaceAll(port, String(await freePort()));
  const shell = spawn('bash', ['-c', script], {stdio: ['ignore', 'pipe', 'ignore']});
  killAtEnd(t, shell);
  shell.stdout.setEncoding('utf8');
  let told = '';
  for await (const text of shell.stdout) told += text;
  // Whether alice is connected at the moment at which bob comes depends on how fast all this is.
  assert.equal(told.replaceAll('alice,1,0', 'alice,1,1'), 'alice,1,1\nbob,2,1\nalice,1,1\nbob,2,1\nalice,1,1\nhello');
});

test('the page that connects to another with rtc.js', async (t) => {
  const [server, browser] = await Promise.all([
    startServer(t, {WEBRTC_ADMIN_LISTEN: '127.0.0.1:0'}), startBrowser(t, '--allow-loopback-in-peer-connection')]);
  const [block] = blocks('docs/clients.md', 'html');
  const pages = http.createServer((request, response) => {
    response.setHeader('Content-Type', 'text/html');
    response.end(`<!doctype html>${block.replaceAll('localhost:3000', server.http.replace('http://', ''))}`);
  });
  pages.listen(0, '127.0.0.1');
  await once(pages, 'listening');
  atEnd(t, () => { pages.closeAllConnections(); pages.close(); });
  const open = async () => {
    const page = await (await browser.createBrowserContext()).newPage();
    await page.goto(`http://127.0.0.1:${pages.address().port}/`);
    return page;
  };
  const first = await open();
  await until(async () => (await (await fetch(`${server.operator}/peers`)).json()).some(({connected}) => connected));
  const second = await open();
  for (const page of [first, second]) {
    await page.waitForFunction(() => document.body.textContent.includes('hello'), {polling: 50});
  }
});

test('the long poll', async (t) => {
  const server = await startServer(t);
  // It goes on for ever; the end of the server ends it.
  const {logged, made} = run(poll, server, {});
  made.catch(() => {});
  assert.deepEqual(await logged.next(), ['the list:', 'alice,1,1\n']);
  const bob = await pollingPeer(server, 'bob');
  assert.deepEqual(await logged.next(), ['the list:', 'bob,2,1\nalice,1,1\n']);
  await bob.send('1', 'hello');
  assert.deepEqual(await logged.next(), ['a message:', 'hello']);
});

test('the long poll that acknowledges', async (t) => {
  const server = await startServer(t, {WEBRTC_ADMIN_LISTEN: '127.0.0.1:0'});
  const wire = await cuttableWire(t, server);
  // It goes on for ever; the end of the test ends it.
  let isOver = false;
  atEnd(t, () => { isOver = true; });
  const fetchUntilThen = (...values) => (isOver ? new Promise(() => {}) : fetch(...values));
  const {logged, made} = run(acknowledging, wire, {fetch: fetchUntilThen});
  await until(async () => (await server.peers()).length === 1);
  const bob = await pollingPeer(server, 'bob');
  const numbers = [...Array(100).keys()];
  const received = (async () => {
    const got = [];
    while (got.length < 100) got.push(Number((await logged.next())[1]));
    return got;
  })();
  for (const number of numbers) {
    await bob.send('1', String(number));
    if (number % 25 === 10) wire.cut();
  }
  assert.deepEqual(await received, numbers);
  // It has shown its token: only the operator removes it without.
  await fetch(`${server.operator}/peers/1`, {method: 'DELETE'});
  await assert.rejects(made, /not signed in/);
});

test('the WebSocket', async (t) => {
  const server = await startServer(t);
  const alice = await webSocketPeer(t, server);
  const {logged, made} = run(socket, server, {}, '{socket, send}');
  atEnd(t, () => made.socket.terminate());
  await once(made.socket, 'message');
  made.send(alice.id, {hello: 1});
  assert.equal(await alice.frames.next(), '{"hello":1,"receiverId":"1","senderId":"2"}');
  alice.send('{"receiverId":"2","senderId":"1"}');
  assert.deepEqual(await logged.next(), ['from', '1', {receiverId: '2', senderId: '1'}]);
});

test('the WebSocket that acknowledges', async (t) => {
  const server = await startServer(t);
  const wire = await cuttableWire(t, server);
  let isOver = false;
  atEnd(t, () => { isOver = true; });
  class Socket extends PageWebSocket {
    constructor(url) {
      super(url);
      atEnd(t, () => this.terminate());
    }
  }
  const {logged} = run(acknowledgingSocket, wire, {
    WebSocket: Socket,
    setTimeout: (again) => setTimeout(() => isOver || again(), 0),
  });
  const bob = await pollingPeer(server, 'bob');
  await until(async () => (await (await fetch(`${server.http}/connections`)).text()).includes('dora'));
  const [{peerId}] = (await (await fetch(`${server.http}/connections`)).json()).filter(({name}) => name === 'dora');
  for (let number = 0; number < 40; number += 1) {
    await bob.send(peerId, String(number));
    if (number % 10 === 3) wire.cut();
  }
  for (let number = 0; number < 40; number += 1) {
    assert.deepEqual(await logged.next(), ['a message:', String(number), number + 1]);
  }
});

test('Socket.IO', async (t) => {
  const server = await startServer(t);
  const dave = await readyClient(t, server, 'dave');
  const {made} = run(socketIo, server, {}, 'socket');
  atEnd(t, () => made.close());
  const texts = [];
  while (texts.length < 2) {
    const [{text}] = await dave.message.next();
    if (text) texts.push(text);
  }
  assert.deepEqual(texts, ['to all', 'to one']);
});

test('the client for pages', async (t) => {
  const server = await startServer(t);
  const [block] = blocks('README.md', 'html');
  const page = await (await startBrowser(t)).newPage();
  const lines = new Inbox();
  page.on('console', (message) => message.type() === 'log' && lines.put(message.text()));
  await page.goto(`${server.http}/healthz`);
  await page.setContent(block.replaceAll('http://localhost:3000', server.http));
  assert.deepEqual(await lines.take(2), ['peers: []', 'signed in as 1']);
  const bob = await pollingPeer(server, 'bob');
  assert.equal(await lines.next(), 'peers: [{"id":2,"name":"bob","connected":true}]');
  await bob.send('1', '{"sdp":".."}');
  assert.equal(await lines.next(), 'from 2 {"sdp":".."}');
});

test('the webhook', ofOneProcess, async (t) => {
  const [block] = blocks('docs/operating.md', 'mjs');
  const receiver = spawn('node', ['--input-type=module'], {stdio: ['pipe', 'pipe', 'inherit']});
  killAtEnd(t, receiver);
  receiver.stdin.end(block.replace("listen(8080, '127.0.0.1')",
    "listen(0, '127.0.0.1', function () { console.log(this.address().port); })"));
  const lines = createInterface(receiver.stdout)[Symbol.asyncIterator]();
  const next = async () => (await lines.next()).value;
  const server = await startServer(t, {
    WEBRTC_WEBHOOK_URL: `http://127.0.0.1:${await next()}/`, WEBRTC_WEBHOOK_SECRET: 'a secret',
  });
  await pollingPeer(server, 'alice');
  assert.equal(await next(), 'connect 1 alice ');
  await fetch(`${server.http}/sign_out?peer_id=1`);
  assert.equal(await next(), 'disconnect 1 alice signed_out');
});

test('the stream of events', ofOneProcess, async (t) => {
  const server = await startServer(t, {WEBRTC_ADMIN_LISTEN: '127.0.0.1:0'});
  const [command] = blocks('docs/operating.md', 'sh').filter((block) => block.startsWith('curl -N'));
  const curl = spawn('sh', ['-c', command.replace('localhost:3001', server.operator)]);
  killAtEnd(t, curl);
  const lines = createInterface(curl.stdout)[Symbol.asyncIterator]();
  const shown = async () => {
    for (;;) {
      const {value} = await lines.next();
      if (value !== '' && !value.startsWith(':')) return plain(value);
    }
  };
  const plain = (line) => line.replace(/\d{4}-[^"]*Z/g, 'TIME').replace(/\d{16}/g, 'NUMBER');
  const [example] = blocks('docs/operating.md', 'text');
  const [greeting, ...event] = example.trim().split('\n').filter((line) => line !== '');
  assert.equal((await lines.next()).value, greeting);
  await pollingPeer(server, 'alice');
  for (const line of event) {
    assert.equal(await shown(), plain(line));
  }
});

test('PeerJS', async (t) => {
  const [server, browser] = await Promise.all([
    startServer(t, {WEBRTC_DOORS: 'http,peerjs'}), startBrowser(t, '--allow-loopback-in-peer-connection')]);
  const script = readFileSync(new URL('node_modules/peerjs/dist/peerjs.min.js', import.meta.url), 'utf8');
  const page = async (content) => {
    const page = await browser.newPage();
    await page.goto(`${server.http}/healthz`);
    await page.addScriptTag({content: script});
    await page.addScriptTag({content: content.replace('3000', server.port)});
    return page;
  };
  const logged = new Inbox();
  (await page(peerJs.replace('localhost', '127.0.0.1'))).on('console', (message) => logged.put(message.text()));
  await page(`
    const other = new Peer({host: '127.0.0.1', port: 3000, path: '/peerjs-server'});
    other.on('open', () => {
      const connection = other.connect('erin');
      connection.on('open', () => connection.send('hello'));
    });
  `);
  assert.equal(await logged.next(), 'hello');
});

test('Reliable-Signaler', async (t) => {
  const server = await startServer(t);
  const [block] = blocks('docs/protocols.md', 'html');
  const html = block.replaceAll('http://localhost:3000', server.http);
  const lines = new Inbox();
  const dom = new JSDOM(html, {
    url: server.http, runScripts: 'dangerously', resources: 'usable',
    beforeParse: (window) => {
      window.RTCMultiConnection = class {};
      window.console.log = (line) => lines.put(line);
    },
  });
  atEnd(t, () => dom.window.close());
  assert.deepEqual((await lines.take(2)).sort(), ['others can find it now', 'room exists']);
});
