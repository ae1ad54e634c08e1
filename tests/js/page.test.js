// The scripts for pages, in a real browser.

import assert from 'node:assert/strict';
import {once} from 'node:events';
import http from 'node:http';
import net from 'node:net';
import {test} from 'node:test';

import {
  atEnd, cuttableWire, cuttingWire, eventStream, nodeOf, pollingPeer, randomFrom, startBrowser, startNode, startServer, until, webSocketPeer,
} from './support.js';

/** An empty page of an origin of its own: what an application is. */
async function startApplication(t) {
  const server = http.createServer((request, response) => {
    response.setHeader('Content-Type', 'text/html');
    response.end('<!doctype html><title>application</title>');
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  atEnd(t, () => { server.closeAllConnections(); server.close(); });
  return `http://127.0.0.1:${server.address().port}/`;
}

/** Runs in a page: a client that is signed in, as `signaling`, and what it was told. */
async function signIn(page, url, name, options = {}) {
  return page.evaluate(async (url, name, options) => {
    const {SignalingClient} = await import(`${url}/client.js`);
    window.signaling = new SignalingClient(url, {name, ...options});
    window.messages = [];
    signaling.addEventListener('message', ({detail}) => messages.push(detail));
    await signaling.connect();
    return signaling.id;
  }, url, name, options);
}

/** How a client hears. */
const TRANSPORTS = ['poll', 'websocket'];

/** The next event that is not the return of a peer, which is told when its socket has opened. */
async function nextButReturns(events) {
  const next = await events.next();
  return next.event === 'reconnect' ? nextButReturns(events) : next;
}

async function operated(t, settings) {
  const server = await startServer(t, {WEBRTC_ADMIN_LISTEN: '127.0.0.1:0', ...settings});
  server.ids = async () => {
    const peers = await (await fetch(`${server.operator}/peers`)).json();
    return peers.map(({id}) => id);
  };
  return server;
}

test('a reloaded page is a new peer, and the one before is signed out at once', async (t) => {
  const [server, browser, url] = await Promise.all([operated(t), startBrowser(t), startApplication(t)]);
  const page = await browser.newPage();
  await page.goto(url);
  const id = await signIn(page, server.http, 'alice');
  const events = await eventStream(t, server);
  await page.reload();
  // Whatever its name is now.
  const next = await signIn(page, server.http, 'alice again');
  assert.notEqual(next, id);
  const seen = [];
  while (seen.length < 2) {
    const {event, data: {peer}} = await nextButReturns(events);
    seen.push([event, peer.id]);
  }
  assert.deepEqual(seen.sort(), [['connect', next], ['disconnect', id]]);
});

test('a tab that is duplicated while it is frozen leaves its peer alone', async (t) => {
  const [server, browser, url] = await Promise.all([operated(t), startBrowser(t), startApplication(t)]);
  const page = await browser.newPage();
  await page.goto(url);
  const id = await signIn(page, server.http, 'alice');
  const holdsLock = async () => (await navigator.locks.query()).held.length === 1;
  await until(() => page.evaluate(holdsLock));
  // As a page that is about to be frozen stores it.
  await page.evaluate(() => document.dispatchEvent(new Event('freeze')));
  const [popup] = await Promise.all([
    new Promise((resolve) => page.once('popup', resolve)),
    page.evaluate((url) => { window.open(url); }, url),
  ]);
  await popup.waitForFunction(() => document.title === 'application');
  const second = await signIn(popup, server.http, 'alice');
  assert.deepEqual((await server.ids()).sort(), [id, second].sort());
});

test('with keep, a reloaded page keeps its id and its messages', async (t) => {
  const [server, browser, url] = await Promise.all([operated(t), startBrowser(t), startApplication(t)]);
  const page = await browser.newPage();
  await page.goto(url);
  const keep = {keep: true};
  const id = await signIn(page, server.http, 'alice', keep);
  await page.evaluate((id) => signaling.send(id, 'one'), id);
  await page.waitForFunction(() => messages.length === 1);
  await page.reload();
  const other = await pollingPeer(server, 'other');
  assert.equal(await other.send(id, 'two'), 200);
  assert.equal(await signIn(page, server.http, 'alice', keep), id);
  await page.waitForFunction(() => messages.length === 1);
  assert.deepEqual(await page.evaluate(() => messages), [{from: Number(other.id), data: 'two'}]);
});

test('with keep, a client that follows at once on one that left is the same peer', async (t) => {
  const [server, browser, url] = await Promise.all([operated(t), startBrowser(t), startApplication(t)]);
  const page = await browser.newPage();
  await page.goto(url);
  const id = await signIn(page, server.http, 'alice', {keep: true});
  const ids = await page.evaluate(async (url) => {
    const {SignalingClient} = await import(`${url}/client.js`);
    const ids = new Set();
    const pause = (ms) => ms > 0 && new Promise((resolve) => { setTimeout(resolve, ms); });
    // Also before it has its lock, and before it has let go of it.
    for (let number = 0; number < 40; number += 1) {
      await pause([0, 0, 5, 20][number % 4]);
      signaling.leave();
      await pause([0, 1, 10][number % 3]);
      window.signaling = new SignalingClient(url, {name: 'alice', keep: true});
      await signaling.connect();
      ids.add(signaling.id);
    }
    return [...ids];
  }, server.http);
  assert.deepEqual(ids, [id]);
});

test('a peer that comes back is not seen as gone meanwhile, and one whose lock was tried has it again', async (t) => {
  const [server, browser, url] = await Promise.all([operated(t), startBrowser(t), startApplication(t)]);
  const page = await browser.newPage();
  await page.goto(url);
  const id = await signIn(page, server.http, 'alice', {keep: true});
  const held = () => page.evaluate(async () => (await navigator.locks.query()).held.map(({name}) => name));
  await until(async () => (await held()).length === 1);
  const [name] = await held();
  const probe = await browser.newPage();
  await probe.goto(url);
  await probe.evaluate((name) => {
    window.free = 0;
    const look = () => navigator.locks.request(name, {ifAvailable: true}, (lock) => { window.free += lock ? 1 : 0; });
    (async () => { for (;;) { await look(); await new Promise((resolve) => { setTimeout(resolve, 2); }); } })();
  }, name);
  // As when the browser lets a frozen page go on.
  await page.evaluate(async () => {
    for (let number = 0; number < 50; number += 1) {
      document.dispatchEvent(new Event('resume'));
      await new Promise((resolve) => { setTimeout(resolve, 5); });
    }
  });
  assert.equal(await probe.evaluate(() => window.free), 0);
  await probe.close();
  // Now another page has it at the moment at which it is asked for.
  await page.evaluate(async (name) => {
    signaling.leave();
    let release;
    const isHeld = new Promise((resolve) => {
      navigator.locks.request(name, () => { resolve(); return new Promise((done) => { release = done; }); });
    });
    await isHeld;
    setTimeout(() => release(), 300);
  }, name);
  await until(async () => !(await held()).includes(name));
  assert.equal(await signIn(page, server.http, 'alice', {keep: true}), id);
  await until(async () => (await held()).includes(name));
});

test('a tab that is duplicated is another peer', async (t) => {
  const [server, browser, url] = await Promise.all([operated(t), startBrowser(t), startApplication(t)]);
  const page = await browser.newPage();
  await page.goto(url);
  const id = await signIn(page, server.http, 'alice');
  // A window that a page opens gets a copy of its sessionStorage.
  const [popup] = await Promise.all([
    new Promise((resolve) => page.once('popup', resolve)),
    page.evaluate((url) => { window.open(url); }, url),
  ]);
  await popup.waitForFunction(() => document.title === 'application');
  assert.notEqual(await signIn(popup, server.http, 'alice'), id);
  assert.equal((await server.ids()).length, 2);
});

test('a tab that is closed signs out, a little later', async (t) => {
  const [server, browser, url] = await Promise.all([operated(t), startBrowser(t), startApplication(t)]);
  const page = await browser.newPage();
  await page.goto(url);
  const id = await signIn(page, server.http, 'alice');
  const events = await fetch(`${server.operator}/events`, {headers: {'Last-Event-ID': '0'}});
  await page.close();
  let text = '';
  for await (const chunk of events.body.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    if (text.includes('event: disconnect')) break;
  }
  const left = JSON.parse(/event: disconnect\ndata: (.*)\n/.exec(text)[1]);
  assert.deepEqual([left.peer.id, left.reason], [id, 'signed_out']);
});

for (const [storage, prepare] of [
  ['full', () => { Storage.prototype.setItem = () => { throw new DOMException('', 'QuotaExceededError'); }; }],
  ['forbidden', () => {
    const forbidden = {get() { throw new DOMException('', 'SecurityError'); }};
    Object.defineProperty(window, 'sessionStorage', forbidden);
    Object.defineProperty(window, 'BroadcastChannel', forbidden);
  }],
]) {
  test(`a tab whose storage is ${storage} signs out when it is closed`, async (t) => {
    const [server, browser, url] = await Promise.all([operated(t), startBrowser(t), startApplication(t)]);
    const page = await browser.newPage();
    await page.evaluateOnNewDocument(prepare);
    await page.goto(url);
    const id = await signIn(page, server.http, 'alice');
    assert.deepEqual(await server.ids(), [id]);
    const events = await eventStream(t, server);
    await page.close();
    const {event, data} = await nextButReturns(events);
    assert.deepEqual([event, data.reason], ['disconnect', 'signed_out']);
  });
}

/** A wire on which the request for a socket is overtaken by the farewell of its page. */
async function overtakingWire(t, server) {
  const wire = net.createServer((client) => {
    client.on('error', () => {});
    client.once('data', async (request) => {
      if (/^GET \/ws/.test(request)) {
        wire.emit('held');
        await farewell;
      }
      const upstream = net.connect(server.port, '127.0.0.1');
      upstream.on('error', () => {});
      upstream.write(request);
      client.pipe(upstream).pipe(client);
      // Gone already, if the page is.
      if (client.destroyed) upstream.end();
      upstream.on('data', () => { if (/^POST \/sign_out/.test(request)) wire.emit('farewell'); });
    });
  });
  const farewell = once(wire, 'farewell');
  wire.listen(0, '127.0.0.1');
  await once(wire, 'listening');
  atEnd(t, () => wire.close());
  return Object.assign(wire, {http: `http://127.0.0.1:${wire.address().port}`});
}

test('a tab that is closed while its socket opens signs out', async (t) => {
  const [server, browser, url] = await Promise.all([operated(t), startBrowser(t), startApplication(t)]);
  const wire = await overtakingWire(t, server);
  const held = once(wire, 'held');
  const page = await browser.newPage();
  await page.goto(url);
  await signIn(page, wire.http, 'alice');
  await held;
  const events = await eventStream(t, server);
  await page.close();
  const {event, data} = await nextButReturns(events);
  assert.deepEqual([event, data.reason], ['disconnect', 'signed_out']);
});

for (const transport of TRANSPORTS) {
  test(`of eight tabs each hears and says at once (${transport})`, async (t) => {
    const [server, browser, url] = await Promise.all([operated(t), startBrowser(t), startApplication(t)]);
    const pages = [];
    for (let number = 0; number < 8; number += 1) {
      const page = await browser.newPage();
      await page.goto(url);
      pages.push({page, id: await signIn(page, server.http, `tab${number}`, {transport})});
    }
    for (const [number, {page}] of pages.entries()) {
      const to = pages[(number + 1) % pages.length].id;
      await page.evaluate((to, number) => signaling.send(to, `from ${number}`), to, number);
    }
    for (const [number, {page}] of pages.entries()) {
      // Hidden tabs have no animation frames.
      await page.waitForFunction(() => messages.length === 1, {polling: 100});
      const [{data}] = await page.evaluate(() => messages);
      assert.equal(data, `from ${(number + 7) % 8}`);
    }
  });
}

for (const transport of TRANSPORTS) {
  test(`a page that comes back from the back/forward cache is the same peer, and goes on (${transport})`, async (t) => {
    const [server, url] = await Promise.all([operated(t), startApplication(t)]);
    const browser = await startBrowser(t, '--enable-features=BackForwardCache');
    const page = await browser.newPage();
    await page.goto(url);
    const id = await signIn(page, server.http, 'alice', {transport});
    await page.evaluate((id) => signaling.send(id, 'before'), id);
    await page.waitForFunction(() => messages.length === 1);
    await page.goto(`${url}elsewhere`);
    await page.goBack();
    // It was kept, and not loaded again.
    assert.equal(await page.evaluate(() => window.signaling?.id), id);
    const other = await pollingPeer(server, 'other');
    assert.equal(await other.send(id, 'after'), 200);
    await page.waitForFunction(() => messages.length === 2);
    assert.deepEqual(await server.ids(), [id, Number(other.id)]);
  });
}

test('a page on plain http has a peer, and another after a reload', async (t) => {
  const [server, url] = await Promise.all([operated(t), startApplication(t)]);
  const browser = await startBrowser(t, '--host-resolver-rules=MAP application.test 127.0.0.1');
  const page = await browser.newPage();
  const plain = url.replace('127.0.0.1', 'application.test');
  await page.goto(plain);
  assert.equal(await page.evaluate(() => isSecureContext), false);
  const id = await signIn(page, server.http, 'alice');
  await page.reload();
  const next = await signIn(page, server.http, 'alice');
  assert.notEqual(next, id);
  await until(async () => (await server.ids()).join() === String(next));
  // Another page of the application: the one before is signed out a little later.
  await page.goto(`${plain}elsewhere`);
  const last = await signIn(page, server.http, 'alice');
  await page.evaluate((id) => signaling.send(id, 'hi'), last);
  await page.waitForFunction(() => messages.length === 1);
});

test('a worker has a peer', async (t) => {
  const [server, browser, url] = await Promise.all([operated(t), startBrowser(t), startApplication(t)]);
  const page = await browser.newPage();
  await page.goto(url);
  const heard = await page.evaluate((url) => new Promise((resolve, reject) => {
    const script = `
      import {SignalingClient} from '${url}/client.js';
      const signaling = new SignalingClient('${url}', {name: 'worker'});
      signaling.addEventListener('message', ({detail}) => postMessage(detail.data));
      await signaling.connect();
      await signaling.send(signaling.id, {from: 'worker'});
    `;
    const worker = new Worker(URL.createObjectURL(new Blob([script], {type: 'text/javascript'})), {type: 'module'});
    worker.onmessage = ({data}) => resolve(data);
    worker.onerror = ({message}) => reject(new Error(message));
  }), server.http);
  assert.deepEqual(heard, {from: 'worker'});
});

test('a page that may not use the server is told so', async (t) => {
  const [server, browser, url] = await Promise.all([
    operated(t, {WEBRTC_CORS: 'https://example.org'}), startBrowser(t), startApplication(t)]);
  const page = await browser.newPage();
  await page.goto(url);
  const script = await (await fetch(`${server.http}/client.js`)).text();
  const cause = await page.evaluate(async (script, url) => {
    const {SignalingClient} = await import(URL.createObjectURL(new Blob([script], {type: 'text/javascript'})));
    const signaling = new SignalingClient(url, {name: 'alice'});
    const told = new Promise((resolve) => signaling.addEventListener('disconnected', resolve));
    signaling.connect().catch(() => {});
    const {detail} = await told;
    await signaling.close();
    return detail.cause.message;
  }, script, server.http);
  assert.match(cause, /^the server answers, but not to pages of http:\/\/127.0.0.1:\d+: .*WEBRTC_CORS/);
});

test('a page is told at once that a server cannot be reached', async (t) => {
  const [server, browser, url] = await Promise.all([operated(t), startBrowser(t), startApplication(t)]);
  const page = await browser.newPage();
  await page.goto(url);
  const cause = await page.evaluate(async (url) => {
    const {SignalingClient} = await import(`${url}/client.js`);
    // A port that nobody listens on, as browsers see it.
    const signaling = new SignalingClient('http://127.0.0.1:1/', {name: 'alice'});
    const told = new Promise((resolve) => signaling.addEventListener('disconnected', resolve));
    signaling.connect().catch(() => {});
    const {detail} = await told;
    await signaling.close();
    return detail.cause.message;
  }, server.http);
  assert.equal(cause, 'http://127.0.0.1:1 cannot be reached: is the server running there?');
});

for (const version of [1, 2, 4]) {
  test(`socket.io's client ${version} polls from a page of another origin, beyond ASCII too`, async (t) => {
    const [server, browser, url] = await Promise.all([operated(t), startBrowser(t), startApplication(t)]);
    const page = await browser.newPage();
    await page.goto(url);
    await page.addScriptTag({path: `node_modules/socket.io-client-${version}/dist/socket.io.js`});
    const other = await webSocketPeer(t, server);
    const greeting = await page.evaluate((url) => new Promise((resolve, reject) => {
      const options = {transports: ['polling'], withCredentials: true};
      window.socket = io(url, options);
      for (const event of ['connect_error', 'error']) socket.on(event, (error) => reject(new Error(String(error))));
      window.heard = [];
      socket.on('connect', () => socket.emit('ready', 'Zoë 🦀 漢'));
      socket.on('message', (message) => { heard.push(message); resolve(message); });
    }), nodeOf(server.http));
    assert.equal(greeting.target, 'Zoë 🦀 漢');
    await page.evaluate((id) => socket.emit('messageOne', {target: id, text: 'é🦀漢'}), other.id);
    assert.equal(JSON.parse(await other.frames.next()).text, 'é🦀漢');
    other.send({receiverId: 2, text: 'ü🦊'});
    await page.waitForFunction(() => heard.length === 2);
    assert.equal(await page.evaluate(() => heard[1].message.text), 'ü🦊');
  });
}

for (const transport of TRANSPORTS) {
  test(`a hidden tab whose timers stand still stays signed in (${transport})`, async (t) => {
    const timeout = 2000;
    const [server, browser, url] = await Promise.all([
      operated(t, {WEBRTC_HEARTBEAT_MS: String(timeout), WEBRTC_HEARTBEAT_GC_MS: '100', WEBRTC_WAIT_MS: '0'}),
      startBrowser(t), startApplication(t),
    ]);
    const page = await browser.newPage();
    await page.goto(url);
    const id = await signIn(page, server.http, 'alice', {transport});
    await page.evaluate((id) => signaling.send(id, 'hi'), id);
    // Hidden, and no timer of it fires at all: browsers leave it one a minute.
    await page.evaluate(() => {
      for (let timer = setTimeout(() => {}); timer > 0; timer -= 1) clearInterval(timer);
      window.setTimeout = window.setInterval = () => 0;
    });
    const other = await browser.newPage();
    await other.bringToFront();
    const peer = async () => (await fetch(`${server.operator}/peers/${id}`)).json();
    const {since} = await peer();
    await until(async () => {
      const {id: found, lastSeen} = await peer();
      assert.equal(found, id);
      return Date.parse(lastSeen) - Date.parse(since) > 3 * timeout;
    });
    if (transport === 'poll') assert.ok((await peer()).heartbeat);
  });
}

for (const transport of TRANSPORTS) {
  test(`a tab that was frozen comes back as the same peer (${transport})`, async (t) => {
    const [server, browser, url] = await Promise.all([operated(t), startBrowser(t), startApplication(t)]);
    const page = await browser.newPage();
    await page.goto(url);
    const id = await signIn(page, server.http, 'alice', {transport});
    const devtools = await page.createCDPSession();
    await devtools.send('Page.setWebLifecycleState', {state: 'frozen'});
    const other = await pollingPeer(server, 'other');
    assert.equal(await other.send(id, 'hi'), 200);
    await devtools.send('Page.setWebLifecycleState', {state: 'active'});
    await page.waitForFunction(() => messages.length === 1, {polling: 100});
    assert.deepEqual(await page.evaluate(() => [signaling.id, messages[0].data]), [id, 'hi']);
  });
}

for (const transport of TRANSPORTS) {
  test(`over connections that are cut, a page gets each message once and in order (${transport})`, async (t) => {
    const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32));
    t.diagnostic(`SEED=${seed}`);
    const [server, browser, url] = await Promise.all([operated(t), startBrowser(t), startApplication(t)]);
    const wire = await cuttingWire(t, server, randomFrom(seed), 0.01);
    const open = async (name) => {
      // A window of its own: what is hidden is slow.
      const page = await (await browser.createBrowserContext()).newPage();
      await page.goto(url);
      // The script itself, past the wire: what loads scripts does not try again.
      await page.evaluate((url) => import(`${url}/client.js`).then((module) => Object.assign(window, module)), server.http);
      const id = await page.evaluate(async (url, name, transport) => {
        window.signaling = new SignalingClient(url, {name, transport});
        window.messages = [];
        signaling.addEventListener('message', ({detail}) => messages.push(detail.data.number));
        await signaling.connect();
        return signaling.id;
      }, wire.http, name, transport);
      return {page, id};
    };
    const alice = await open('alice');
    const bob = await open('bob');
    const count = 1000;
    const exchange = async (from, to) => {
      await from.page.evaluate(async (to, count) => {
        const sends = Array.from({length: count}, (_, number) => signaling.send(to, {number}));
        await Promise.all(sends);
      }, to.id, count);
      await to.page.waitForFunction((count) => messages.length >= count, {timeout: 0, polling: 50}, count);
      const messages = await to.page.evaluate(() => messages);
      assert.deepEqual(messages, Array.from({length: count}, (_, number) => number), `seed ${seed}`);
    };
    await Promise.all([exchange(alice, bob), exchange(bob, alice)]);
    assert.ok(wire.cuts > 10, `only ${wire.cuts} cuts`);
  });
}

test('two browsers open a data channel with the script alone', async (t) => {
  const [server, browser, url] = await Promise.all([operated(t), startBrowser(t), startApplication(t)]);
  const open = async (name) => {
    const context = await browser.createBrowserContext();
    const page = await context.newPage();
    await page.goto(url);
    const id = await signIn(page, server.http, name);
    await page.evaluate(() => {
      window.connect = (to, offers) => new Promise((resolve) => {
        const connection = new RTCPeerConnection();
        const send = (message) => signaling.send(to, message);
        connection.onicecandidate = ({candidate}) => candidate && send({candidate});
        const opened = (channel) => { channel.onmessage = ({data}) => resolve({data, channel}); };
        const describe = async () => {
          await connection.setLocalDescription();
          await send({description: connection.localDescription});
        };
        signaling.addEventListener('message', async ({detail: {data}}) => {
          if (data.candidate) return connection.addIceCandidate(data.candidate);
          await connection.setRemoteDescription(data.description);
          if (data.description.type === 'offer') await describe();
        });
        if (offers) {
          const channel = connection.createDataChannel('channel');
          opened(channel);
          channel.onopen = () => channel.send('hello');
          describe();
        } else {
          connection.ondatachannel = ({channel}) => {
            opened(channel);
            channel.onopen = () => channel.send('welcome');
          };
        }
      }).then(({data}) => data);
    });
    return {page, id};
  };
  const [alice, bob] = await Promise.all([open('alice'), open('bob')]);
  const answer = bob.page.evaluate((to) => connect(to, false), alice.id);
  const offer = alice.page.evaluate((to) => connect(to, true), bob.id);
  assert.deepEqual(await Promise.all([offer, answer]), ['welcome', 'hello']);
});

/** A page whose tabs share one peer. `prepare`: what is done before it is loaded. */
async function startShared(browser, server, prepare = async () => {}) {
  const page = await browser.newPage();
  await prepare(page);
  // Of the server's own origin: any page that it serves.
  await page.goto(`${server.http}/healthz`);
  await page.evaluate(async () => {
    window.heartbeat = await import('/heartbeat.js');
    await heartbeat.heartbeatStart({name: 'alice', shared: true});
    await heartbeat.heartbeatStart({name: 'alice', shared: true});
  });
  return page;
}

test('tabs that share a peer are one, until the last is stopped', async (t) => {
  const [server, browser] = await Promise.all([operated(t), startBrowser(t)]);
  const start = () => startShared(browser, server);
  const first = await start();
  const ids = await server.ids();
  assert.equal(ids.length, 1);
  const second = await start();
  const third = await start();
  assert.deepEqual(await server.ids(), ids);
  await first.evaluate(() => heartbeat.heartbeatStop());
  await second.close();
  assert.deepEqual(await server.ids(), ids);
  await until(() => third.evaluate(async () => {
    const {held, pending} = await navigator.locks.query();
    // The third is signed in, and nobody else is there.
    return held.length === 2 && pending.length === 0;
  }));
  assert.deepEqual(await server.ids(), ids);
  await third.evaluate(() => heartbeat.heartbeatStop());
  assert.deepEqual(await server.ids(), []);
  await third.evaluate(() => heartbeat.heartbeatStop());
});

test('tabs that share a peer and are stopped together sign out', async (t) => {
  const [server, browser] = await Promise.all([operated(t), startBrowser(t)]);
  for (let time = 0; time < 5; time += 1) {
    const pages = [];
    for (let tab = 0; tab < 3; tab += 1) pages.push(await startShared(browser, server));
    assert.equal((await server.ids()).length, 1);
    await Promise.all(pages.map((page) => page.evaluate(() => heartbeat.heartbeatStop())));
    assert.deepEqual(await server.ids(), []);
    await Promise.all(pages.map((page) => page.close()));
  }
});

test('a tab that is to share a peer and may not store anything is a peer of its own', async (t) => {
  const [server, browser] = await Promise.all([operated(t), startBrowser(t)]);
  const page = await startShared(browser, server, (page) => page.evaluateOnNewDocument(() => {
    Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('', 'SecurityError'); }});
  }));
  assert.equal((await server.ids()).length, 1);
  await page.evaluate(() => heartbeat.heartbeatStop());
  assert.deepEqual(await server.ids(), []);
});

/** Refuses the first so many sign-ins of a page. */
async function refuseSignIns(page, count) {
  let left = count;
  await page.setRequestInterception(true);
  page.on('request', (request) => {
    if (!request.url().includes('/sign_in') || left === 0) return request.continue();
    left -= 1;
    return request.respond({status: 404, body: 'not yet'});
  });
}

for (const shared of [false, true]) {
  test(`a heartbeat that is refused later can be started again${shared ? ', also by tabs that share a peer' : ''}`, async (t) => {
    const [server, other, browser] = await Promise.all([
      startNode(t), startNode(t, {WEBRTC_ACCESS_TOKEN: 'secret'}), startBrowser(t),
    ]);
    const wire = await cuttableWire(t, server);
    const page = await browser.newPage();
    await page.goto(`${wire.http}/healthz`);
    const start = (accessToken) => page.evaluate(async (shared, accessToken) => {
      window.heartbeat ??= await import('/heartbeat.js');
      await heartbeat.heartbeatStart({name: 'alice', shared, accessToken});
    }, shared, accessToken);
    await start('wrong');
    wire.toPort(other.port);
    wire.cut();
    // It is stopped, and holds no lock.
    await until(() => page.evaluate(async () => (await navigator.locks.query()).held.length === 0));
    await assert.rejects(start('wrong'), /access token/);
    await start('secret');
    const answer = await fetch(`${other.http}/sign_in?peer_name=x&access_token=secret`);
    assert.match(await answer.text(), /^alice,/m);
  });
}

test('a tab that could not sign in keeps no lock from the others', async (t) => {
  const [server, browser] = await Promise.all([operated(t), startBrowser(t)]);
  const refused = startShared(browser, server, async (page) => {
    await refuseSignIns(page, 1);
  });
  await assert.rejects(refused, /not yet/);
  const other = await startShared(browser, server);
  assert.equal((await server.ids()).length, 1);
  await other.evaluate(() => heartbeat.heartbeatStop());
  assert.deepEqual(await server.ids(), []);
});

test('a tab that takes over from another and is refused tries again', async (t) => {
  const [server, browser] = await Promise.all([operated(t), startBrowser(t)]);
  const first = await startShared(browser, server);
  await startShared(browser, server, async (page) => {
    await refuseSignIns(page, 1);
    await page.evaluateOnNewDocument(() => {
      const {setTimeout} = window;
      window.setTimeout = (work, ms) => setTimeout(work, ms === 10_000 ? 0 : ms);
    });
  });
  const events = await eventStream(t, server);
  await first.close();
  assert.equal((await events.next()).event, 'reconnect');
  assert.equal((await server.ids()).length, 1);
});

test('a page that goes on after another was its peer sends no number twice', async (t) => {
  const [server, browser, url] = await Promise.all([operated(t), startBrowser(t), startApplication(t)]);
  const other = await pollingPeer(server, 'other');
  const page = await browser.newPage();
  await page.goto(url);
  await signIn(page, server.http, 'alice');
  const send = (text) => page.evaluate((to, text) => signaling.send(to, text), Number(other.id), text);
  await send('1');
  await page.evaluate(async (to, url) => {
    // As the browser does with a page that it keeps while another is there.
    window.dispatchEvent(new PageTransitionEvent('pagehide', {persisted: true}));
    const [[key, text]] = Object.entries(sessionStorage);
    const session = {...JSON.parse(text), seq: 2};
    const query = new URLSearchParams({to, seq: session.seq, peer_id: session.id, peer_token: session.token});
    await fetch(`${url}/message?${query}`, {method: 'POST', body: '2'});
    sessionStorage.setItem(key, JSON.stringify(session));
    window.dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}));
  }, Number(other.id), server.http);
  await send('3');
  for (const text of ['1', '2', '3']) assert.equal((await other.message()).text, text);
});
