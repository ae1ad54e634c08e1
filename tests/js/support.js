// What the tests share: servers, clients of each door, and a wire to cut.

import assert from 'node:assert/strict';
import {execFile as execFileWithCallback, spawn} from 'node:child_process';
import {once} from 'node:events';
import {existsSync, readFileSync} from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import path from 'node:path';
import {createInterface} from 'node:readline';
import {fileURLToPath} from 'node:url';
import {promisify} from 'node:util';

import puppeteer from 'puppeteer-core';
import {io as io4} from 'socket.io-client-4';
import io2 from 'socket.io-client-2';
import io1 from 'socket.io-client-1';
import WebSocket from 'ws';

const execFile = promisify(execFileWithCallback);

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const TARGET = path.resolve(ROOT, process.env.CARGO_TARGET_DIR || 'target');
export const BINARY = path.join(TARGET, 'debug', 'signal-http-heartbeat');

/** The Socket.IO clients, by the first digit of their version. */
export const clients = {4: io4, 2: io2, 1: io1};

const firstOf = (...paths) => paths.find((path) => existsSync(path));
const CHROMIUM = firstOf('/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome');
const FIREFOX = firstOf('/usr/bin/firefox-esr', '/usr/bin/firefox');

/** A browser of its own for a test. */
export async function startBrowser(t, ...args) {
  assert.ok(CHROMIUM, 'chromium is missing: make install');
  const browser = await puppeteer.launch({
    executablePath: CHROMIUM,
    headless: true,
    args: [
      '--no-sandbox', '--disable-gpu', '--disable-background-networking',
      '--disable-features=WebRtcHideLocalIpsWithMdns',
      ...args,
    ],
  });
  atEnd(t, () => browser.close());
  return browser;
}

/** A Firefox of its own for a test, whose pages connect to each other on this machine. */
export async function startFirefox(t) {
  assert.ok(FIREFOX, 'firefox is missing: make install');
  const browser = await puppeteer.launch({
    browser: 'firefox',
    executablePath: FIREFOX,
    headless: true,
    extraPrefsFirefox: {
      'media.peerconnection.ice.loopback': true,
      'media.peerconnection.ice.obfuscate_host_addresses': false,
      'media.navigator.streams.fake': true,
      'media.navigator.permission.disabled': true,
    },
  });
  atEnd(t, () => browser.close());
  return browser;
}

/** How many nodes a server has: with more than one, the list is in Redis. */
export const NODES = Number(process.env.NODES ?? 1);

/** For tests about one process. */
export const ofOneProcess = {skip: NODES > 1 && 'it is about one process'};

/** The nodes of a server, by its URL. */
const nodesOf = new Map();

const oneOf = (all) => all[Math.floor(Math.random() * all.length)];

/** One of a server's nodes: what Socket.IO asks by polling has to come to one. */
export const nodeOf = (url) => oneOf(nodesOf.get(url) ?? [url]);

/** A port that nobody listens on. */
export async function freePort() {
  const listener = net.createServer().listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const {port} = listener.address();
  listener.close();
  await once(listener, 'close');
  return port;
}

/** What ends a test: last begun, first ended, and all of it even if a part fails. */
const endings = new WeakMap();

/** Has this done at the end of a test, before whatever the test began earlier ends. */
export function atEnd(t, end) {
  if (!endings.has(t)) {
    endings.set(t, []);
    t.after(async () => {
      const ended = [];
      for (const end of endings.get(t).reverse()) ended.push(...await Promise.allSettled([end()]));
      const failed = ended.find(({status}) => status === 'rejected');
      if (failed) throw failed.reason;
    });
  }
  endings.get(t).push(async () => end());
}

/** Ends this process at the end of a test, and waits until it has ended. */
export function killAtEnd(t, child) {
  const exited = once(child, 'exit');
  exited.catch(() => {});
  atEnd(t, () => {
    child.kill('SIGKILL');
    return exited;
  });
}

/** Starts a Redis of its own for a test, which ends it. */
export async function startRedis(t, ...options) {
  let port;
  const start = async () => {
    const redis = spawn(process.env.REDIS_SERVER ?? 'redis-server', ['--bind', '127.0.0.1', '--port', port, ...options], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    killAtEnd(t, redis);
    for await (const line of createInterface(redis.stdout)) {
      if (!line.includes('Ready to accept connections')) continue;
      redis.stdout.resume();
      return redis;
    }
    throw new Error(`redis-server ended: is port ${port} taken, or the one of its cluster bus?`);
  };
  // A port that was free a moment ago may be another program's now; and the port of the cluster
  // bus, which is 10,000 higher, was never asked for.
  const started = async (tries) => {
    port = await freePort();
    return start().catch((error) => {
      if (tries === 1) throw error;
      return started(tries - 1);
    });
  };
  const running = await started(5);
  const redis = {url: `redis://127.0.0.1:${port}/`, port, process: running};
  redis.restart = async () => { redis.process = await start(); };
  redis.kill = async (signal = 'SIGKILL') => {
    const exited = once(redis.process, 'exit');
    redis.process.kill(signal);
    await exited;
  };
  redis.cli = async (...command) => {
    const {stdout} = await execFile('redis-cli', ['-p', port, ...command]);
    return stdout.trimEnd();
  };
  return redis;
}

/**
 * Starts a server of its own for a test, which ends it. Where it has many
 * nodes, each connection is to one of them, at random.
 */
export async function startServer(t, settings = {}) {
  if (NODES === 1) return startNode(t, settings);
  const redis = await startRedis(t, '--save', '', '--appendonly', 'no');
  const shared = {WEBRTC_REDIS_SHARDS: '3', ...settings, WEBRTC_REDIS_URL: redis.url};
  const nodes = await Promise.all(Array.from({length: NODES}, () => startNode(t, shared)));
  return balanced(t, nodes);
}

/** Nodes as one server, behind a load balancer that knows no sessions. */
export async function balanced(t, nodes) {
  const open = new Set();
  const balancer = net.createServer((client) => {
    const upstream = net.connect(oneOf(nodes).port, '127.0.0.1');
    for (const [from, to] of [[client, upstream], [upstream, client]]) {
      open.add(from);
      from.pipe(to);
      from.on('error', () => to.destroy()).on('close', () => { open.delete(from); to.destroy(); });
    }
  });
  balancer.listen(0, '127.0.0.1');
  await once(balancer, 'listening');
  atEnd(t, () => { balancer.close(); open.forEach((socket) => socket.destroy()); });
  const {port} = balancer.address();
  const address = `127.0.0.1:${port}`;
  nodesOf.set(`http://${address}`, nodes.map((node) => node.http));
  return {
    ...nodes[0],
    nodes,
    http: `http://${address}`,
    ws: `ws://${address}`,
    port,
    peers: async () => (await fetch(`http://${address}/connections`)).json(),
  };
}

/** The `SignalingClient` of the script that a server serves. */
export async function ownClient(server) {
  const script = await (await fetch(`${server.http}/client.js`)).text();
  const url = `data:text/javascript;base64,${Buffer.from(script).toString('base64')}`;
  return (await import(url)).SignalingClient;
}

/** Starts one node. */
export async function startNode(t, settings = {}) {
  const server = spawn(BINARY, {
    env: {HOST: '127.0.0.1', PORT: '0', ...settings},
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  killAtEnd(t, server);
  const lines = createInterface(server.stdout);
  // With a token there is a warning before the word that it is ready.
  const log = [];
  lines.on('line', (line) => log.push(JSON.parse(line)));
  const exited = once(server, 'exit').then(([status]) => { throw new Error(`it exited with ${status}`); });
  exited.catch(() => {});
  while (!log.some(({address, tls}) => address ?? tls)) await Promise.race([once(lines, 'line'), exited]);
  const {address} = log.find(({address}) => address) ?? {};
  const operator = log.find(({operator}) => operator)?.operator;
  return {
    operator: operator && `http://${operator}`,
    http: `http://${address}`,
    ws: `ws://${address}`,
    port: Number(address?.split(':').at(-1)),
    process: server,
    log,
    resident: () => Number(/VmRSS:\s*(\d+)/.exec(readFileSync(`/proc/${server.pid}/status`))[1]),
    peers: async () => {
      const response = await fetch(`http://${address}/connections`);
      return response.json();
    },
  };
}

/** What came, in order, for whoever asks for it, sooner or later. */
export class Inbox {
  #items = [];
  #waiting = [];

  put(item) {
    const next = this.#waiting.shift();
    if (next) next(item);
    else this.#items.push(item);
  }

  next() {
    if (this.#items.length > 0) return Promise.resolve(this.#items.shift());
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  async take(count) {
    const items = [];
    while (items.length < count) items.push(await this.next());
    return items;
  }

  get length() {
    return this.#items.length;
  }
}

/** Ready when an example that calls itself `echo` has talked to a page, and to that page when it was loaded again. */
export async function talksToPages(t, server, child, browser) {
  killAtEnd(t, child);
  const lines = new Inbox();
  createInterface({input: child.stdout}).on('line', (line) => lines.put(line));
  assert.match(await lines.next(), /^signed in as echo, peer \d+$/);
  const page = await browser.newPage();
  await page.goto(`${nodeOf(server.http)}/healthz`);
  for (let load = 0; load < 2; load += 1) {
    const heard = await page.evaluate(async () => {
      const {SignalingClient} = await import('/client.js');
      const {PeerConnections} = await import('/rtc.js');
      const signaling = new SignalingClient(location.origin, {name: 'alice'});
      const connections = new PeerConnections(signaling);
      await signaling.connect();
      const {id} = signaling.peers.find(({name}) => name === 'echo');
      const channel = (await connections.connectTo(id)).createDataChannel('chat');
      channel.onopen = () => channel.send('hello');
      return new Promise((resolve) => { channel.onmessage = ({data}) => resolve(data); });
    });
    assert.equal(heard, 'echo: hello');
    await page.reload();
  }
  assert.match(await lines.next(), /^peer \d+ connects$/);
}

/** A WebSocket as pages have it, which tells of no errors. */
export class PageWebSocket extends WebSocket {
  constructor(url) {
    super(url);
    this.on('error', () => {});
  }
}

/** A WebSocket peer: its id, and its frames as text. */
export async function webSocketPeer(t, server, query = '') {
  const socket = new WebSocket(`${server.ws}/${query}`);
  atEnd(t, () => socket.terminate());
  const frames = new Inbox();
  socket.on('message', (data) => frames.put(data.toString()));
  const hello = JSON.parse(await frames.next());
  const {peerId: id, peerToken: token} = hello;
  const closed = once(socket, 'close').then(([code]) => code);
  return {id, token, hello, socket, frames, closed, send: (value) => socket.send(
    typeof value === 'string' ? value : JSON.stringify(value))};
}

/** A Socket.IO client that is connected; its events by name. */
export async function socketIoClient(t, url, {version = 4, ...options} = {}) {
  const socket = clients[version](nodeOf(url), {forceNew: true, reconnection: false, ...options});
  atEnd(t, () => socket.close());
  const events = {};
  const on = (event) => {
    events[event] = new Inbox();
    socket.on(event, (...values) => events[event].put(values));
  };
  ['message', 'uniquenessError', 'disconnect'].forEach(on);
  await new Promise((resolve, reject) => {
    socket.on('connect', resolve);
    // Client 1 and 2 call it `error`.
    for (const event of ['connect_error', 'error']) {
      socket.on(event, (error) => reject(error instanceof Error ? error : new Error(error)));
    }
  });
  return {
    socket,
    ...events,
    // An answer to this event, which is handled after all before it.
    settled: () => new Promise((resolve) => socket.emit('keep-in-server', 'settled', resolve)),
  };
}

/** The same, ready under a name, and greeted. */
export async function readyClient(t, server, name, options) {
  const client = await socketIoClient(t, server.http, options);
  client.socket.emit('ready', name, 'tester');
  // Before it is ready it hears of others that are.
  let greeting;
  do [greeting] = await client.message.next(); while (greeting.target !== name);
  return {...client, name, greeting};
}

/** An event stream: `{event, id, data}` for each event. */
export async function eventStream(t, server, lastEventId, query = '') {
  const stopped = new AbortController();
  atEnd(t, () => stopped.abort());
  const headers = lastEventId === undefined ? {} : {'Last-Event-ID': String(lastEventId)};
  const answer = await fetch(`${server.operator}/events${query}`, {headers, signal: stopped.signal});
  assert.equal(answer.headers.get('content-type'), 'text/event-stream');
  const events = new Inbox();
  (async () => {
    let text = '';
    for await (const chunk of answer.body.pipeThrough(new TextDecoderStream())) {
      text += chunk;
      for (let end; (end = text.indexOf('\n\n')) >= 0; text = text.slice(end + 2)) {
        const fields = Object.fromEntries(text.slice(0, end).split('\n')
          .filter((line) => !line.startsWith(':')).map((line) => line.split(/: (.*)/s)));
        if (fields.event) events.put({...fields, data: JSON.parse(fields.data)});
      }
    }
    events.put({event: 'end'});
  })().catch(() => {});
  return events;
}

/** A webhook's receiver, which answers as it is told to. */
export async function receiver(t, answer) {
  const received = new Inbox();
  const server = http.createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks).toString();
    received.put({body, headers: request.headers, method: request.method});
    answer(response, JSON.parse(body));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  atEnd(t, () => { server.closeAllConnections(); server.close(); });
  return {url: `http://127.0.0.1:${server.address().port}/hook?key=hidden`, received};
}

/** A long-poll peer. */
export async function pollingPeer(server, name) {
  const get = async (path) => {
    const response = await fetch(`${server.http}${path}`);
    if (response.status !== 200) throw new Error(`${path}: ${response.status}`);
    return {from: response.headers.get('pragma'), text: await response.text()};
  };
  const {from: id, text: list} = await get(`/sign_in?peer_name=${name}`);
  const wait = () => get(`/wait?peer_id=${id}`);
  return {
    id,
    list,
    wait,
    // The next message, past what it is told of the list before.
    message: async () => {
      for (;;) {
        const news = await wait();
        if (news.from !== id) return news;
      }
    },
    send: async (to, text) => {
      const path = `/message?peer_id=${id}&to=${to}`;
      const response = await fetch(`${server.http}${path}`, {method: 'POST', body: text});
      return response.status;
    },
  };
}

/**
 * A wire to a server that can be cut: connections end without a word. It can be
 * away for a while, too.
 */
export async function cuttableWire(t, server) {
  const open = new Set();
  let isAway = false;
  const wire = net.createServer((client) => {
    if (isAway) {
      client.resetAndDestroy();
      return;
    }
    const upstream = net.connect(server.port, '127.0.0.1');
    const both = [client, upstream];
    open.add(both);
    for (const [from, to] of [[client, upstream], [upstream, client]]) {
      from.pipe(to);
      from.on('error', () => {});
      from.on('close', () => { to.destroy(); open.delete(both); });
    }
  });
  wire.listen(0, '127.0.0.1');
  await once(wire, 'listening');
  atEnd(t, () => wire.close());
  const all = () => [...open].flat().filter((socket) => !socket.destroyed);
  const cut = () => all().forEach((socket) => socket.resetAndDestroy());
  atEnd(t, () => all().forEach((socket) => socket.destroy()));
  const away = async (ms) => {
    isAway = true;
    cut();
    await pause(ms);
    isAway = false;
  };
  const {port} = wire.address();
  /** Leads new connections to another port. */
  const toPort = (other) => { server = {...server, port: other}; };
  return {http: `http://127.0.0.1:${port}`, port, cut, away, toPort};
}

/** Random numbers from 0 to 1 that a seed makes again. */
export function randomFrom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * A wire to a server that cuts each connection, with some probability, in the
 * middle of what the server says. `cuts` counts how often.
 */
export async function cuttingWire(t, server, random, probability) {
  const wire = {cuts: 0};
  const listener = net.createServer((client) => {
    const upstream = net.connect(server.port, '127.0.0.1');
    const end = () => {
      client.destroy();
      upstream.destroy();
    };
    client.pipe(upstream);
    upstream.on('data', (reply) => {
      if (random() >= probability) return client.write(reply);
      wire.cuts += 1;
      client.write(reply.subarray(0, Math.floor(random() * reply.length)), end);
    });
    for (const socket of [client, upstream]) socket.on('error', end).on('close', end);
  });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  atEnd(t, () => listener.close());
  wire.http = `http://127.0.0.1:${listener.address().port}`;
  return wire;
}

/** Waits until a condition holds; the limit of `make test` ends it. */
export async function until(condition) {
  while (!(await condition())) await pause(10);
}

/** For what cannot be observed: that something does not happen, or lasts. */
export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Signs in, and remembers the token. */
export async function signIn(server, name, query = '') {
  const answer = await fetch(`${server.http}/sign_in?peer_name=${name}${query}`);
  assert.equal(answer.status, 200);
  return {
    id: Number(answer.headers.get('pragma')),
    token: answer.headers.get('x-peer-token'),
    interval: Number(answer.headers.get('x-heartbeat-interval')),
    list: await answer.text(),
  };
}

/** What an event tells: its name, its peer and its reason. */
export const told = ({event, data}) => [event, data?.peer?.id, data?.reason].filter((part) => part !== undefined);
