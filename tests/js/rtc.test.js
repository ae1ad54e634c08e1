// rtc.js: data channels between pages of real browsers.

import assert from 'node:assert/strict';
import {test} from 'node:test';

import {cuttableWire, nodeOf, pollingPeer, startBrowser, startNode, startServer} from './support.js';

/** A page of the server's own origin, signed in, which answers on each channel that it is given. */
async function rtcPage(browser, url, name) {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  await page.goto(`${url}/healthz`);
  await begin(page, name);
  return page;
}

/** Signs a page in; it keeps what it hears in `heard`. */
async function begin(page, name) {
  await page.evaluate(async (name) => {
    const {SignalingClient} = await import('/client.js');
    const {PeerConnections} = await import('/rtc.js');
    Object.assign(window, {heard: [], ended: [], failures: [], begun: [], kept: []});
    window.signaling = new SignalingClient(location.origin, {name});
    window.connections = new PeerConnections(signaling);
    window.listen = (channel) => channel.addEventListener('message', ({data}) => heard.push(data));
    connections.addEventListener('connection', ({detail: {peer, connection}}) => {
      begun.push(peer);
      kept.push(connection);
      connection.addEventListener('datachannel', ({channel}) => {
        window.channel = channel;
        listen(channel);
      });
    });
    connections.addEventListener('disconnection', ({detail: {peer}}) => ended.push(peer));
    connections.addEventListener('failure', ({detail: {error}}) => failures.push(String(error)));
    await signaling.connect();
  }, name);
}

const idOf = (page) => page.evaluate(() => signaling.id);

/** Opens a channel from this page to another one, and says something in it. */
async function say(page, to, text) {
  await page.evaluate(async (to, text) => {
    const connection = await connections.connectTo(to);
    const channel = connection.createDataChannel('chat');
    listen(channel);
    window.own = channel;
    if (channel.readyState !== 'open') await new Promise((resolve) => { channel.onopen = resolve; });
    channel.send(text);
  }, await idOf(to), text);
}

const hears = (page, ...texts) =>
  page.waitForFunction((texts) => JSON.stringify([...heard].sort()) === texts, {}, JSON.stringify(texts.sort()));

async function twoPages(t) {
  const server = await startServer(t);
  const browser = await startBrowser(t, '--allow-loopback-in-peer-connection');
  const url = nodeOf(server.http);
  return Promise.all(['a', 'b'].map((name) => rtcPage(browser, url, name)));
}

test('two pages open a data channel, and talk both ways', async (t) => {
  const [a, b] = await twoPages(t);
  await say(a, b, 'hello');
  await hears(b, 'hello');
  await b.evaluate(() => channel.send('and you'));
  await hears(a, 'and you');
  assert.deepEqual(await b.evaluate(() => begun), [await idOf(a)]);
  assert.deepEqual(await a.evaluate(() => begun), [await idOf(b)]);
});

test('two pages that connect to each other at once have one connection', async (t) => {
  const [a, b] = await twoPages(t);
  for (let round = 0; round < 5; round += 1) {
    await Promise.all([say(a, b, `from a ${round}`), say(b, a, `from b ${round}`)]);
  }
  const rounds = [0, 1, 2, 3, 4];
  await hears(a, ...rounds.map((round) => `from b ${round}`));
  await hears(b, ...rounds.map((round) => `from a ${round}`));
  for (const page of [a, b]) {
    assert.deepEqual(await page.evaluate(() => [failures, ended, begun.length]), [[], [], 1]);
  }
});

test('offers that meet at once lead to one connection', async (t) => {
  const [page] = await twoPages(t);
  const opened = await page.evaluate(async () => {
    const {PeerConnections} = await import('/rtc.js');
    /** Signaling to the other one, which hears it before the browser does anything else. */
    class Signaling extends EventTarget {
      constructor(id, other) {
        super();
        Object.assign(this, {id, peers: [{id: other}]});
      }

      async iceServers() {
        return [];
      }

      async send(to, data) {
        this.other.dispatchEvent(new CustomEvent('message', {detail: {from: this.id, data: JSON.parse(JSON.stringify(data))}}));
      }
    }
    const pair = async () => {
      const both = [new Signaling(1, 2), new Signaling(2, 1)];
      [both[0].other, both[1].other] = [both[1], both[0]];
      const channels = await Promise.all(both.map(async (signaling, index) => {
        const connection = await new PeerConnections(signaling).connectTo(2 - index);
        return connection.createDataChannel('chat');
      }));
      return Promise.all(channels.map((channel) => new Promise((resolve) => { channel.onopen = resolve; })));
    };
    return (await Promise.all(Array.from({length: 10}, pair))).length;
  });
  assert.equal(opened, 10);
});

test('a page that was reloaded connects again, and the other side lets the old connection go', async (t) => {
  const [a, b] = await twoPages(t);
  await say(a, b, 'before');
  await hears(b, 'before');
  const old = await idOf(b);
  await b.reload();
  await begin(b, 'b');
  await say(b, a, 'after');
  await hears(a, 'after');
  await a.waitForFunction((old) => ended.includes(old), {}, old);
  await a.evaluate(() => channel.send('welcome back'));
  await hears(b, 'welcome back');
});

test('a page that disconnects tells the other one at once', async (t) => {
  const [a, b] = await twoPages(t);
  await say(a, b, 'hello');
  await hears(b, 'hello');
  const [idOfA, idOfB] = [await idOf(a), await idOf(b)];
  await a.evaluate((id) => connections.disconnect(id), idOfB);
  await b.waitForFunction((id) => ended.includes(id), {}, idOfA);
  // And can connect again.
  await say(b, a, 'again');
  await hears(a, 'again');
});

test('a peer that leaves before it has answered is given up', async (t) => {
  const server = await startServer(t);
  const browser = await startBrowser(t);
  const a = await rtcPage(browser, nodeOf(server.http), 'a');
  const silent = await pollingPeer(server, 'silent');
  await a.waitForFunction(() => signaling.peers.length === 1);
  await a.evaluate(async (id) => (await connections.connectTo(id)).createDataChannel('chat'), Number(silent.id));
  await fetch(`${server.http}/sign_out?peer_id=${silent.id}`);
  await a.waitForFunction((id) => ended.includes(id), {}, Number(silent.id));
});

test('a connection that is closed before it exists is not opened any more', async (t) => {
  const [a, b] = await twoPages(t);
  const refused = await a.evaluate((id) => {
    const connecting = connections.connectTo(id);
    connections.disconnect(id);
    return connecting.catch(({message}) => message);
  }, await idOf(b));
  assert.equal(refused, 'the connection was closed');
  assert.deepEqual(await a.evaluate(() => begun), []);
  await say(a, b, 'hello');
  await hears(b, 'hello');
});

test('with a peer that has left nothing more is negotiated, also not with one that has its id', async (t) => {
  const [server, other] = await Promise.all([startNode(t), startNode(t)]);
  const wire = await cuttableWire(t, server);
  const browser = await startBrowser(t, '--allow-loopback-in-peer-connection');
  const [a, b] = [await rtcPage(browser, wire.http, 'a'), await rtcPage(browser, wire.http, 'b')];
  await say(a, b, 'hello');
  await hears(b, 'hello');
  const idOfB = await idOf(b);
  let stranger;
  do {
    stranger = await pollingPeer(other, 'stranger');
  } while (Number(stranger.id) < idOfB);
  wire.toPort(other.port);
  wire.cut();
  await a.waitForFunction(() => signaling.peers.some(({name}) => name === 'stranger') && signaling.peers.some(({name}) => name === 'b'));
  await a.evaluate(() => own.send('still'));
  await hears(b, 'hello', 'still');
  const state = await a.evaluate(async (id) => {
    const [connection] = kept;
    connection.addTransceiver('audio');
    while (failures.length === 0) await new Promise((resolve) => { setTimeout(resolve, 20); });
    await signaling.send(id, 'the first that you hear');
    return connection.signalingState;
  }, idOfB);
  assert.equal(state, 'stable');
  assert.match((await a.evaluate(() => failures))[0], /the peer has left/);
  assert.equal((await stranger.message()).text, 'the first that you hear');
  // Which closes that connection, and no other.
  await a.evaluate(() => connections.disconnect(kept[0]));
  await a.waitForFunction((id) => ended.includes(id), {}, idOfB);
});

test('a connection outlives the server, over which it was negotiated', async (t) => {
  const [a, b] = await twoPages(t);
  await say(a, b, 'hello');
  await hears(b, 'hello');
  await Promise.all([a, b].map((page) => page.setOfflineMode(true)));
  await a.evaluate(() => own.send('without a server'));
  await hears(b, 'hello', 'without a server');
});
