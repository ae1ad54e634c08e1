// The ICE servers that peers are told of, with a real TURN server and a real browser.

import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import net from 'node:net';
import {test} from 'node:test';

import {directory, inAnotherTime} from './nodes.js';
import {
  clients, freePort, killAtEnd, nodeOf, ownClient, socketIoClient, startBrowser, startServer, until, webSocketPeer,
} from './support.js';

const SECRET = 'secret-of-the-test';

/** A coturn of its own for a test, on loopback: its URL. */
async function startTurn(t) {
  const port = await freePort();
  const files = directory(t, 'turn');
  const turn = spawn('turnserver', [
    '-n', '--listening-ip=127.0.0.1', '--relay-ip=127.0.0.1', `--listening-port=${port}`,
    '--use-auth-secret', `--static-auth-secret=${SECRET}`, '--realm=test.invalid', '--no-tls', '--no-dtls', '--no-cli',
    '--allow-loopback-peers', '--no-multicast-peers', `--userdb=${files}/turndb`, `--pidfile=${files}/pid`,
    '--log-file=stdout', '--simple-log',
  ], {stdio: 'ignore'});
  killAtEnd(t, turn);
  await until(() => new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1', () => { socket.destroy(); resolve(true); });
    socket.on('error', () => resolve(false));
  }));
  return `turn:127.0.0.1:${port}?transport=udp`;
}

const settings = (url) => ({WEBRTC_ICE_SERVERS: `stun:127.0.0.1:9,${url}`, WEBRTC_TURN_SECRET: SECRET});

/** Signs in over HTTP: `{id, token}`. */
async function signIn(server, path = '') {
  const answer = await fetch(`${server.http}${path}/sign_in?peer_name=x`);
  return {id: answer.headers.get('pragma'), token: answer.headers.get('x-peer-token')};
}

const ask = (server, query, headers = {}) => fetch(`${server.http}/ice-servers${query}`, {headers});

test('STUN servers are told everybody', async (t) => {
  const server = await startServer(t, {WEBRTC_ICE_SERVERS: 'stun:stun.example.org:3478'});
  const answer = await ask(server, '', {Origin: 'https://example.org'});
  assert.deepEqual(await answer.json(), {iceServers: [{urls: ['stun:stun.example.org:3478']}], ttl: 14400});
  assert.equal(answer.headers.get('content-type'), 'application/json');
  assert.equal(answer.headers.get('cache-control'), 'no-store');
  assert.equal(answer.headers.get('access-control-allow-origin'), '*');
});

test('a server without ICE servers says that there are none', async (t) => {
  const server = await startServer(t);
  assert.deepEqual(await (await ask(server, '')).json(), {iceServers: [], ttl: 14400});
  assert.equal((await fetch(`${server.http}/ice-servers`, {method: 'POST'})).status, 405);
});

test('TURN servers are told a signed-in peer that shows its token, and nobody else', async (t) => {
  const server = await startServer(t, settings('turn:t.example.org'));
  const {id, token} = await signIn(server);
  const other = await signIn(server);
  const status = async (...question) => (await ask(server, ...question)).status;
  assert.equal(await status(''), 403);
  assert.equal(await status(`?peer_id=${id}`), 403);
  assert.equal(await status(`?peer_id=${id}&peer_token=${other.token}`), 403);
  assert.equal(await status(`?peer_id=999&peer_token=${token}`), 404);
  const answer = await ask(server, `?peer_id=${id}`, {'X-Peer-Token': token});
  const {iceServers: [stun, turn], ttl} = await answer.json();
  assert.deepEqual(stun, {urls: ['stun:127.0.0.1:9']});
  assert.deepEqual(turn.urls, ['turn:t.example.org']);
  const [expiry, name] = turn.username.split(':');
  assert.equal(name, id);
  assert.ok(Math.abs(Number(expiry) - Date.now() / 1000 - ttl) < 60);
  const room = await signIn(server, '/rooms/blue');
  const inRoom = await fetch(`${server.http}/rooms/blue/ice-servers?peer_id=${room.id}&peer_token=${room.token}`);
  assert.match((await inRoom.json()).iceServers[1].username, new RegExp(`:blue/${room.id}$`));
});

test('with access control STUN servers too are told only peers', async (t) => {
  const server = await startServer(t, {WEBRTC_ICE_SERVERS: 'stun:a', WEBRTC_ACCESS_TOKEN: 'x'});
  assert.equal((await ask(server, '?access_token=x')).status, 403);
  const SignalingClient = await ownClient(server);
  const client = new SignalingClient(server.http, {name: 'a', accessToken: 'x'});
  await assert.rejects(client.iceServers(), {status: 403});
  await client.connect();
  assert.deepEqual(await client.iceServers(), [{urls: ['stun:a']}]);
  await client.close();
});

test('client.js asks again for a peer that was removed and has signed in again', async (t) => {
  const server = await startServer(t, {...settings('turn:t.example.org'), WEBRTC_ADMIN_LISTEN: '127.0.0.1:0'});
  const SignalingClient = await ownClient(server);
  const client = new SignalingClient(server.http, {name: 'a'});
  await client.connect();
  const before = await client.iceServers();
  // What it was told is its own.
  before.length = 0;
  assert.equal((await client.iceServers()).length, 2);
  const {id} = client;
  await fetch(`${server.operator}/peers/${id}`, {method: 'DELETE'});
  const again = new SignalingClient(server.http, {name: 'b'});
  await again.connect();
  const removed = again.id;
  await fetch(`${server.operator}/peers/${removed}`, {method: 'DELETE'});
  // It does not know yet.
  const [, turn] = await again.iceServers();
  assert.notEqual(again.id, removed);
  assert.equal(turn.username.split(':')[1], String(again.id));
  await Promise.all([client.close(), again.close()]);
});

test('WebSocket clients are told in the id frame, if they want events', async (t) => {
  const server = await startServer(t, settings('turn:t.example.org'));
  const plain = await webSocketPeer(t, server, '?peer_name=plain');
  assert.equal(plain.hello.iceServers, undefined);
  const {hello} = await webSocketPeer(t, server, '?peer_name=a&events=true');
  assert.equal(hello.iceServers[1].username.split(':')[1], hello.peerId);
  assert.equal(hello.ttl, 14400);
});

for (const version of Object.keys(clients)) {
  test(`Socket.IO clients of version ${version} ask with an event`, async (t) => {
    const server = await startServer(t, settings('turn:t.example.org'));
    const {socket} = await socketIoClient(t, server.http, {version: Number(version)});
    const answer = await new Promise((resolve) => socket.emit('iceServers', resolve));
    assert.equal(answer.ttl, 14400);
    assert.match(answer.iceServers[1].username, /^\d+:\d+$/);
  });
}

/** Runs in a page: whether a relayed candidate is found, or the TURN server says no. */
const allocates = (iceServers) => new Promise((resolve) => {
  const connection = new RTCPeerConnection({iceServers, iceTransportPolicy: 'relay'});
  connection.onicecandidate = ({candidate}) => {
    if (candidate?.candidate) resolve(candidate.type);
    else if (candidate === null) resolve('nothing');
  };
  connection.onicecandidateerror = ({errorCode}) => { if (errorCode === 401) resolve('refused'); };
  connection.createDataChannel('x');
  connection.createOffer().then((offer) => connection.setLocalDescription(offer));
});

test('a TURN server takes the credentials until they have ended', async (t) => {
  const [url, browser] = await Promise.all([startTurn(t), startBrowser(t, '--allow-loopback-in-peer-connection')]);
  const told = async (time) => {
    const server = await startServer(t, {...settings(url), ...time});
    const {id, token} = await signIn(server);
    return [server, (await (await ask(server, `?peer_id=${id}&peer_token=${token}`)).json()).iceServers];
  };
  const [server, now] = await told({});
  const [, before] = await told(inAnotherTime('-5h'));
  const page = await browser.newPage();
  await page.goto(`${nodeOf(server.http)}/healthz`);
  assert.equal(await page.evaluate(allocates, now), 'relay');
  assert.equal(await page.evaluate(allocates, before), 'refused');
});

test('two pages that only use relays are connected', async (t) => {
  const [url, browser] = await Promise.all([startTurn(t), startBrowser(t, '--allow-loopback-in-peer-connection')]);
  const server = await startServer(t, settings(url));
  const open = async (name) => {
    const page = await browser.newPage();
    await page.goto(`${nodeOf(server.http)}/healthz`);
    await page.evaluate(joinWithRelays, server.http, name);
    return page;
  };
  const callee = await open('callee');
  const caller = await open('caller');
  assert.equal(await caller.evaluate(() => call()), 'hello');
  assert.equal(await callee.evaluate(() => usedType()), 'relay');
});

/** Runs in a page: signs in, answers calls, and defines `call` and `usedType`. */
async function joinWithRelays(url, name) {
  const {SignalingClient} = await import(`${url}/client.js`);
  const signaling = new SignalingClient(url, {name});
  let connection;
  const connect = async (to) => {
    connection = new RTCPeerConnection({iceServers: await signaling.iceServers(), iceTransportPolicy: 'relay'});
    connection.onicecandidate = ({candidate}) => signaling.send(to, {candidate});
    connection.ondatachannel = ({channel}) => { channel.onmessage = ({data}) => channel.send(data); };
  };
  let handled = Promise.resolve();
  signaling.addEventListener('message', ({detail: {from, data}}) => {
    handled = handled.then(async () => {
      if (!connection) await connect(from);
      if (data.description) {
        await connection.setRemoteDescription(data.description);
        if (data.description.type === 'answer') return;
        await connection.setLocalDescription();
        await signaling.send(from, {description: connection.localDescription});
      } else {
        await connection.addIceCandidate(data.candidate ?? undefined);
      }
    });
  });
  await signaling.connect();
  globalThis.call = async () => {
    const [{id}] = signaling.peers;
    await connect(id);
    const channel = connection.createDataChannel('x');
    const echo = new Promise((resolve) => { channel.onmessage = ({data}) => resolve(data); });
    channel.onopen = () => channel.send('hello');
    await connection.setLocalDescription();
    await signaling.send(id, {description: connection.localDescription});
    return echo;
  };
  globalThis.usedType = async () => {
    const stats = [...(await connection.getStats()).values()];
    const pair = stats.find(({type, nominated, state}) => type === 'candidate-pair' && nominated && state === 'succeeded');
    return stats.find(({id}) => id === pair.localCandidateId).candidateType;
  };
}
