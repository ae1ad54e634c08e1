// The page at `/`, as a person uses it in a real browser.

import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {readFile} from 'node:fs/promises';
import {createInterface} from 'node:readline';
import {test} from 'node:test';
import {fileURLToPath} from 'node:url';

import {BINARY, atEnd, cuttableWire, freePort, killAtEnd, pollingPeer, signIn, startBrowser, startFirefox, startNode, until} from './support.js';

const AXE = fileURLToPath(import.meta.resolve('axe-core/axe.min.js'));

const OPERATED = {WEBRTC_ADMIN_LISTEN: '127.0.0.1:0'};

const browserFor = (t) => startBrowser(
  t, '--allow-loopback-in-peer-connection', '--use-fake-device-for-media-stream',
  '--host-resolver-rules=MAP rebound.test 127.0.0.1',
);

/** Opens the page in a browser context of its own. It must not complain, nor ask another origin. */
async function open(t, browser, url, {permissions = []} = {}) {
  const context = await browser.createBrowserContext();
  if (permissions.length > 0) await context.overridePermissions(new URL(url).origin, permissions);
  const page = await context.newPage();
  page.complaints = [];
  page.on('pageerror', (error) => page.complaints.push(String(error)));
  page.on('console', (message) => {
    // A server that is away is told to the person.
    const isOfNetwork = /Failed to load resource|^WebSocket connection to/.test(message.text());
    if (message.type() === 'error' && !isOfNetwork) page.complaints.push(message.text());
  });
  page.on('request', (request) => {
    if (new URL(request.url()).protocol !== 'data:' && new URL(request.url()).host !== new URL(url).host) {
      page.complaints.push(request.url());
    }
  });
  atEnd(t, () => assert.deepEqual(page.complaints, []));
  await page.evaluateOnNewDocument(() => {
    window.connections = [];
    window.RTCPeerConnection = class extends RTCPeerConnection {
      constructor(...values) {
        super(...values);
        window.connections.push(this);
      }
    };
  });
  await page.goto(url);
  return page;
}

async function join(page, name) {
  await page.locator('[name=name]').fill(name);
  await page.locator('#join button').click();
  await shows(page, '#self', new RegExp(`^You are ${name}$`));
  return page;
}

const joined = async (t, browser, url, name, options) => join(await open(t, browser, url, options), name);

async function call(page, name) {
  await page.locator(`button[aria-label="Talk to ${name}"]`).click();
  await isConnected(page);
}

const shows = (page, selector, pattern) => page.waitForFunction(
  (selector, pattern) => new RegExp(pattern).test(document.querySelector(selector).textContent),
  // Tabs in the background have no animation frames.
  {polling: 50}, selector, pattern.source);

const isConnected = (page) => shows(page, '#state', /connected directly/);

async function say(page, text) {
  await page.locator('#text').fill(text);
  await page.keyboard.press('Enter');
}

async function talk(a, b, word) {
  await say(a, `${word} from a`);
  await shows(b, '#log', new RegExp(`${word} from a`));
  await say(b, `${word} from b`);
  await shows(a, '#log', new RegExp(`${word} from b`));
}

/** Two people with these browsers. */
const PAIRS = {
  'in Chromium': async (t) => {
    const browser = await browserFor(t);
    return [browser, browser];
  },
  'in Firefox': async (t) => {
    const browser = await startFirefox(t);
    return [browser, browser];
  },
  'in Firefox and in Chromium': (t) => Promise.all([startFirefox(t), browserFor(t)]),
};

for (const [where, startBrowsers] of Object.entries(PAIRS)) {
  test(`two people see each other, and talk through a direct connection, ${where}`, async (t) => {
    const [server, [first, second]] = await Promise.all([startNode(t), startBrowsers(t)]);
    const a = await joined(t, first, `${server.http}/`, 'alice');
    const b = await joined(t, second, `${server.http}/`, 'bob');
    await call(a, 'bob');
    await isConnected(b);
    await talk(a, b, 'hello');
    await a.bringToFront();
    await a.locator('#hang-up').click();
    // For both.
    for (const page of [a, b]) await page.waitForFunction(() => document.getElementById('talk').hidden, {polling: 50});
    await b.bringToFront();
    await b.locator('#leave').click();
    await a.waitForFunction(() => document.getElementById('peers').children.length === 0, {polling: 50});
  });

  test(`after a reload of either page they talk again, ${where}`, async (t) => {
    const [server, [first, second]] = await Promise.all([startNode(t), startBrowsers(t)]);
    const a = await joined(t, first, `${server.http}/`, 'alice');
    const b = await joined(t, second, `${server.http}/`, 'bob');
    await call(a, 'bob');
    await talk(a, b, 'first');
    for (const page of [a, b]) {
      await page.reload();
      await Promise.all([isConnected(a), isConnected(b)]);
      await talk(a, b, 'again');
      // Nothing of the round before is taken for this one.
      for (const each of [a, b]) await each.evaluate(() => document.getElementById('log').replaceChildren());
    }
  });
}

test('a tab that talks, or calls, is not called away', async (t) => {
  const [server, browser] = await Promise.all([startNode(t), browserFor(t)]);
  const [a, b, c] = [await joined(t, browser, `${server.http}/`, 'alice'), await joined(t, browser, `${server.http}/`, 'bob'), await joined(t, browser, `${server.http}/`, 'carol')];
  await call(a, 'bob');
  await isConnected(b);
  await c.locator('button[aria-label="Talk to alice"]').click();
  await shows(c, '#notice', /alice is talking to somebody else/);
  await talk(a, b, 'undisturbed');
  // It is free again when it has hung up.
  await b.locator('#hang-up').click();
  await a.waitForFunction(() => document.getElementById('talk').hidden);
  await call(c, 'alice');
  await talk(a, c, 'now');
});

test('a tab that the server does not let in any more asks for a token', async (t) => {
  const [port, browser] = await Promise.all([freePort(), browserFor(t)]);
  const settings = {PORT: String(port)};
  const first = await startNode(t, settings);
  const page = await joined(t, browser, `${first.http}/`, 'alice');
  first.process.kill('SIGKILL');
  await shows(page, '#notice', /cannot be reached/);
  await startNode(t, {...settings, WEBRTC_ACCESS_TOKEN: 'secret'});
  await shows(page, '#notice', /requires an access token/);
  await page.locator('[name=token]').fill('secret');
  await join(page, 'alice');
});

test('a lost network and a restarted server do not end a conversation', async (t) => {
  const [port, browser] = await Promise.all([freePort(), browserFor(t)]);
  const start = async () => {
    const env = {HOST: '127.0.0.1', PORT: String(port)};
    const child = spawn(BINARY, {env, stdio: ['ignore', 'pipe', 'inherit']});
    killAtEnd(t, child);
    const lines = createInterface({input: child.stdout});
    for (;;) if ((await once(lines, 'line'))[0].includes('"ready"')) return child;
  };
  let server = await start();
  const wire = await cuttableWire(t, {port});
  const url = `${wire.http}/`;
  const a = await joined(t, browser, url, 'alice');
  const b = await joined(t, browser, url, 'bob');
  await call(a, 'bob');
  await a.setOfflineMode(true);
  // Which the browser does not do to a WebSocket.
  wire.cut();
  await shows(a, '#notice', /cannot be reached/);
  await talk(a, b, 'offline');
  await a.setOfflineMode(false);
  await a.waitForFunction(() => document.getElementById('notice').hidden);

  server.kill('SIGKILL');
  await Promise.all([a, b].map((page) => shows(page, '#notice', /cannot be reached/)));
  await talk(a, b, 'no server');
  server = await start();
  await Promise.all([a, b].map((page) => page.waitForFunction(() => document.getElementById('notice').hidden)));
  await talk(a, b, 'new server');
  // Their connection is lost, too.
  await a.evaluate(() => connections.at(-1).close());
  await shows(b, '#state', /waiting/);
  await Promise.all([isConnected(a), isConnected(b)]);
  await talk(a, b, 'new connection');
  // Both have other ids now, and can still reach each other when one begins again.
  await b.reload();
  await Promise.all([isConnected(a), isConnected(b)]);
  await talk(a, b, 'new page');
});

test('after a restart nothing goes to a stranger who has the id of the partner', async (t) => {
  const [server, other, browser] = await Promise.all([startNode(t), startNode(t), browserFor(t)]);
  const wire = await cuttableWire(t, server);
  const permissions = ['camera', 'microphone'];
  const a = await joined(t, browser, `${wire.http}/`, 'alice', {permissions});
  const b = await joined(t, browser, `${wire.http}/`, 'bob');
  await call(a, 'bob');
  await a.locator('#camera').click();
  await b.waitForFunction(() => document.getElementById('theirs').videoWidth > 0);
  // As a server that was restarted, where others were faster: these have the ids of both.
  await joined(t, browser, `${other.http}/`, 'mallory');
  const stranger = await joined(t, browser, `${other.http}/`, 'mallory');
  wire.toPort(other.port);
  wire.cut();
  const sees = (page, name) => page.waitForSelector(`button[aria-label="Talk to ${name}"]`);
  await sees(stranger, 'alice');
  await sees(stranger, 'bob');
  await stranger.locator('button[aria-label="Talk to alice"]').click();
  await shows(stranger, '#notice', /alice is talking to somebody else/);
  await talk(a, b, 'undisturbed');
  await a.locator('#camera').click();
  await a.locator('#camera').click();
  await shows(a, '#camera-notice', /Hang up and call again/);
  await b.close();
  // Until then it is called.
  await a.waitForFunction(() => !document.querySelector('[aria-label^="Talk to bob"]'), {polling: 50});
  await shows(a, '#state', /waiting/);
  assert.equal(await a.$eval('#camera', ({disabled}) => disabled), true);
  // Somebody else who joins lets the page look for its partner again.
  await joined(t, browser, `${other.http}/`, 'carol');
  await sees(a, 'carol');
  assert.equal(await stranger.$eval('#talk', ({hidden}) => hidden), true);
  // But it can be called.
  await call(stranger, 'alice');
  await talk(a, stranger, 'now');
  assert.equal(await a.$eval('#mine', ({srcObject}) => srcObject), null);
});

test('camera and microphone go to the other side, and a camera that fails is told', async (t) => {
  const [server, browser] = await Promise.all([startNode(t), browserFor(t)]);
  const permissions = ['camera', 'microphone'];
  const a = await joined(t, browser, `${server.http}/`, 'alice', {permissions});
  const b = await joined(t, browser, `${server.http}/`, 'bob');
  await call(a, 'bob');
  await b.locator('#camera').click();
  await shows(b, '#camera-notice', /camera .* cannot be used/);
  await a.locator('#camera').click();
  await b.waitForFunction(() => document.getElementById('theirs').videoWidth > 0);
  await a.locator('#camera').click();
  await a.waitForFunction(() => document.getElementById('videos').hidden);
  await talk(a, b, 'still here');
});

test('a peer that takes the name of another neither takes its place nor gets its video', async (t) => {
  const [server, browser] = await Promise.all([startNode(t), browserFor(t)]);
  const permissions = ['camera', 'microphone'];
  const a = await joined(t, browser, `${server.http}/`, 'alice', {permissions});
  const b = await joined(t, browser, `${server.http}/`, 'bob');
  await call(b, 'alice');
  await a.locator('#camera').click();
  await b.waitForFunction(() => document.getElementById('theirs').videoWidth > 0);
  const impostor = await joined(t, browser, `${server.http}/`, 'bob');
  await impostor.locator('button[aria-label="Talk to alice"]').click();
  await shows(impostor, '#notice', /alice is talking to somebody else/);
  await talk(a, b, 'undisturbed');
  // Nor when the other one has left.
  await b.close();
  await shows(a, '#state', /waiting/);
  await call(impostor, 'alice');
  await talk(a, impostor, 'hello');
  assert.equal(await a.$eval('#mine', ({srcObject}) => srcObject), null);
});

test('a room has a page of its own', async (t) => {
  const [server, browser] = await Promise.all([startNode(t), browserFor(t)]);
  const inRoom = await joined(t, browser, `${server.http}/rooms/blue`, 'alice');
  assert.equal(new URL(inRoom.url()).pathname, '/rooms/blue/');
  assert.equal(await inRoom.$eval('#second', (link) => link.href), `${server.http}/rooms/blue/`);
  await joined(t, browser, `${server.http}/`, 'outside');
  const other = await open(t, browser, `${server.http}/`);
  await other.locator('[name=room]').fill('blue');
  await join(other, 'bob');
  await call(other, 'alice');
  assert.equal(await other.$$eval('#peers li', (items) => items.length), 1);
});

test('the page requires an access token where the server wants one', async (t) => {
  const [server, browser] = await Promise.all([startNode(t, {WEBRTC_ACCESS_TOKEN: 'secret'}), browserFor(t)]);
  const page = await open(t, browser, `${server.http}/`);
  await page.locator('#join button').click();
  await shows(page, '#notice', /requires an access token/);
  await page.locator('[name=token]').fill('wrong');
  await page.locator('#join button').click();
  await shows(page, '#notice', /did not accept/);
  await page.locator('[name=token]').fill('secret');
  await join(page, 'alice');
});

test('names are shown as text, and five hundred peers fit', async (t) => {
  const [server, browser] = await Promise.all([startNode(t, {WEBRTC_HEARTBEAT_MS: '600000'}), browserFor(t)]);
  const name = '<img src=x onerror=alert(1)> & "quotes"';
  await fetch(`${server.http}/sign_in?peer_name=${encodeURIComponent(name)}`);
  for (let number = 0; number < 499; number += 1) await signIn(server, `peer-${number}`);
  const page = await joined(t, browser, `${server.http}/`, 'alice');
  await page.waitForFunction(() => document.getElementById('peers').children.length === 500);
  const names = await page.$$eval('#peers button', (buttons) => buttons.map((button) => button.textContent));
  assert.ok(names.includes(name));
  assert.equal(await page.$('#peers img'), null);
  await page.setViewport({width: 320, height: 600});
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= 320), 'nothing is cut off at the side');
});

/** Fails if axe finds something to mend in a page: light and dark, wide and narrow. */
async function isAccessible(page) {
  const axe = await readFile(AXE, 'utf8');
  for (const scheme of ['light', 'dark']) {
    for (const width of [320, 768, 1280]) {
      await page.emulateMediaFeatures([{name: 'prefers-color-scheme', value: scheme}]);
      await page.setViewport({width, height: 800});
      // The page's policy allows no script of the test: it is evaluated beside it.
      await page.evaluate(axe);
      const {violations} = await page.evaluate(() => axe.run());
      const found = violations.map(({id, nodes}) => `${id}: ${nodes[0].html}`);
      assert.deepEqual(found, [], `${scheme} ${width}`);
    }
  }
}

test('axe finds nothing to mend, light and dark, wide and narrow', async (t) => {
  const [server, browser] = await Promise.all([startNode(t), browserFor(t)]);
  const a = await joined(t, browser, `${server.http}/`, 'alice');
  const b = await joined(t, browser, `${server.http}/`, 'bob');
  await call(a, 'bob');
  await talk(a, b, 'hello');
  await isAccessible(await open(t, browser, `${server.http}/`));
  await isAccessible(a);
});

/** The rows of the operator's page. */
const rowsOf = (page) => page.$$eval('#peers tbody tr', (rows) => rows.map(({cells}) => [...cells].slice(0, 4).map(({textContent}) => textContent)));

test('the operator sees who is signed in, live, and removes a peer', async (t) => {
  const [server, browser] = await Promise.all([startNode(t, {...OPERATED, WEBRTC_ADMIN_TOKEN: 'a token of its own'}), browserFor(t)]);
  await signIn(server, 'first');
  const page = await open(t, browser, `${server.operator}/`);
  const enter = async (token) => {
    await page.locator('#token input').fill(token);
    await page.keyboard.press('Enter');
  };
  await enter('wrong');
  await shows(page, '#notice', /did not accept this token/);
  await isAccessible(page);
  await enter('a token of its own');
  await shows(page, '#peers', /first/);
  const second = await signIn(server, encodeURIComponent('<img src=x>'));
  await signIn({http: `${server.http}/rooms/blue`}, 'third');
  await shows(page, '#peers', /third/);
  assert.deepEqual(await rowsOf(page), [['third', '1', 'blue', 'http'], ['<img src=x>', '2', '', 'http'], ['first', '1', '', 'http']]);
  await page.waitForFunction(() => /^3 *$/.test(document.querySelector('#numbers dd').textContent));
  await isAccessible(page);

  page.on('dialog', (dialog) => dialog.accept());
  await page.locator('button[aria-label="Remove third"]').click();
  await page.waitForFunction(() => document.querySelectorAll('#peers tbody tr').length === 2);
  await fetch(`${server.http}/sign_out?peer_id=${second.id}`);
  await page.waitForFunction(() => document.querySelectorAll('#peers tbody tr').length === 1);

  // It does not ask again in this tab.
  await page.reload();
  await shows(page, '#peers', /first/);
  await page.locator('#filter').fill('nobody');
  await shows(page, '#none', /No peer matches the filter/);
});

test('the operator is told that the server is away, and sees it when it is back', async (t) => {
  const [server, browser] = await Promise.all([startNode(t, OPERATED), browserFor(t)]);
  const wire = await cuttableWire(t, {port: new URL(server.operator).port});
  const page = await open(t, browser, `${wire.http}/`);
  await shows(page, '#none', /Nobody is signed in/);
  const away = wire.away(3000);
  await shows(page, '#notice', /cannot be reached/);
  await away;
  await signIn(server, 'alice');
  await shows(page, '#peers', /alice/);
  await page.waitForFunction(() => document.getElementById('notice').hidden);
});

test('many peers fit into the page of the operator, and the filter finds the others', async (t) => {
  const [server, browser] = await Promise.all([startNode(t, OPERATED), browserFor(t)]);
  for (let number = 0; number < 12; number += 1) {
    await Promise.all(Array.from({length: 50}, (_, index) => signIn(server, `peer-${number}-${index}`)));
  }
  const page = await open(t, browser, `${server.operator}/`);
  await shows(page, '#more', /And 100 more/);
  await page.setViewport({width: 320, height: 600});
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= 320), 'nothing is cut off at the side');
  await page.locator('#filter').fill('peer-0-0');
  await page.waitForFunction(() => document.querySelectorAll('#peers tbody tr').length === 1);
});

test('only the page of the operator may use the API of the operator', async (t) => {
  const [server, browser] = await Promise.all([startNode(t, OPERATED), browserFor(t)]);
  await signIn(server, 'alice');
  // A page of another port of the same host, and one whose name leads to this address.
  const status = (page, url) => page.evaluate((url) => fetch(url, {method: 'DELETE'}).then(({status}) => status, () => 'refused'), url);
  const other = await browser.newPage();
  await other.goto(`${server.http}/`);
  assert.equal(await status(other, `${server.operator}/peers/1`), 'refused');
  const {port} = new URL(server.operator);
  const rebound = await (await browser.createBrowserContext()).newPage();
  await rebound.goto(`http://rebound.test:${port}/`);
  assert.equal(await status(rebound, `http://rebound.test:${port}/peers/1`), 403);
  assert.equal((await (await fetch(`${server.operator}/peers`)).json()).length, 1);
});

test('everything can be done with the keyboard', async (t) => {
  const [server, browser] = await Promise.all([startNode(t), browserFor(t)]);
  await joined(t, browser, `${server.http}/`, 'bob');
  const page = await open(t, browser, `${server.http}/`);
  const press = async (...keys) => { for (const key of keys) await page.keyboard.press(key); };
  await press('Tab', 'Tab', 'Enter');
  await page.waitForSelector('#peers button');
  const focused = () => page.evaluate(() => document.activeElement.textContent || document.activeElement.id);
  await until(async () => { await press('Tab'); return (await focused()) === 'bob'; });
  await press('Enter');
  await isConnected(page);
  assert.equal(await focused(), 'text');
  await page.keyboard.type('typed');
  await press('Enter');
  await shows(page, '#log', /typed/);
});

test('only browsers are shown the page, unless it is turned off', async (t) => {
  const server = await startNode(t);
  const html = {Accept: 'text/html,application/xhtml+xml'};
  const page = await fetch(`${server.http}/`, {headers: html});
  assert.equal(page.status, 200);
  assert.equal(page.headers.get('content-type'), 'text/html; charset=utf-8');
  const policy = page.headers.get('content-security-policy');
  assert.match(policy, /default-src 'none'/);
  assert.doesNotMatch(policy, /unsafe|https?:|\*/);
  for (const [path, init] of [['/', {}], ['/nothing', {headers: html}], ['/', {method: 'POST', headers: html}], ['/ws', {headers: html}]]) {
    const answer = await fetch(`${server.http}${path}`, init);
    assert.match(answer.headers.get('content-type'), /^text\/plain/, path);
    assert.ok([404, 405].includes(answer.status), path);
  }
  for (const file of ['', 'page.css', 'page.js', 'client.js', 'rtc.js']) {
    // As a browser asks.
    const {headers} = await fetch(`${server.http}/${file}`, {headers: {...html, 'Accept-Encoding': 'gzip, br'}});
    assert.equal(headers.get('content-encoding'), 'gzip', file);
  }

  for (const settings of [{WEBRTC_PAGE: 'false'}, {WEBRTC_DOORS: 'websocket'}]) {
    const other = await startNode(t, settings);
    assert.equal((await fetch(`${other.http}/`, {headers: html})).status, 404);
    assert.equal((await fetch(`${other.http}/page.js`)).status, 404);
  }
  const onlyPolls = await startNode(t, {WEBRTC_DOORS: 'http'});
  assert.equal((await fetch(`${onlyPolls.http}/`, {headers: html})).status, 200);
  assert.equal((await fetch(`${onlyPolls.http}/rooms/blue/`, {headers: html})).status, 200);
});
