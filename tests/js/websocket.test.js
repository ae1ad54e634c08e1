// The WebSocket door, with the `ws` client and the frames of signal-fire.

import assert from 'node:assert/strict';
import {once} from 'node:events';
import net from 'node:net';
import {test} from 'node:test';

import WebSocket from 'ws';

import {atEnd, NODES, pause, pollingPeer, startServer, until, webSocketPeer, ofOneProcess} from './support.js';

test('a frame reaches its receiver byte for byte, and no other peer', async (t) => {
  const server = await startServer(t);
  const [a, b, c] = [
    await webSocketPeer(t, server),
    await webSocketPeer(t, server, 'ws?peer_name=Bob'),
    await webSocketPeer(t, server),
  ];
  assert.deepEqual([a.id, b.id, c.id], ['1', '2', '3']);
  // As signal-fire-client sends, and as signal-fire's README has it.
  const offer = `{"type":"offer", "sdp":"v=0\\r\\n", "receiverId":"${b.id}","senderId":"${a.id}"}`;
  a.send(offer);
  assert.equal(await b.frames.next(), offer);
  const documented = `{"peerId":${a.id},"data":1.50}`;
  b.send(documented);
  assert.equal(await a.frames.next(), documented);
  b.socket.send(Buffer.from('{"receiverId":"1","binary":true}'));
  assert.equal(await a.frames.next(), '{"receiverId":"1","binary":true}');
  assert.equal(c.frames.length, 0);
});

test('what goes nowhere is dropped in silence and the connection stays', async (t) => {
  const server = await startServer(t);
  const a = await webSocketPeer(t, server);
  const frames = ['', 'null', '[]', '{', '7', '"x"', '{"receiverId":"constructor"}',
    '{"receiverId":"__proto__"}', '{"receiverId":{}}', '{"receiverId":"99"}', '{"peerId":null}',
    `{"receiverId":"1"${',"x":{"y":['.repeat(500)}`];
  frames.forEach((frame) => a.send(frame));
  a.socket.send(Buffer.from([0xff, 0, 1, 2]));
  a.send({receiverId: a.id, last: true});
  assert.deepEqual(JSON.parse(await a.frames.next()), {receiverId: a.id, last: true});
});

test('where tokens are required, no peer can name another sender', async (t) => {
  const server = await startServer(t, {WEBRTC_PEER_TOKENS: 'required'});
  const [a, b] = [await webSocketPeer(t, server, '?events=true'), await webSocketPeer(t, server)];
  await a.frames.next();
  for (const senderId of [b.id, Number(b.id), 'x', {}]) {
    a.send({receiverId: b.id, senderId});
    let told = {type: 'peers'};
    while (told.type === 'peers') told = JSON.parse(await a.frames.next());
    assert.deepEqual(told, {type: 'error', error: 'bad_message'});
  }
  for (const frame of [{receiverId: b.id}, {receiverId: b.id, senderId: a.id}, {receiverId: b.id, senderId: Number(a.id)}]) {
    a.send(frame);
    assert.deepEqual(JSON.parse(await b.frames.next()), frame);
  }
  // Nor by another door.
  const signedIn = await fetch(`${server.http}/sign_in?peer_name=c`);
  const [id, token] = ['pragma', 'x-peer-token'].map((name) => signedIn.headers.get(name));
  const query = `peer_id=${id}&peer_token=${token}&to=${b.id}`;
  const data = JSON.stringify({receiverId: b.id, senderId: a.id});
  await fetch(`${server.http}/message?${query}`, {method: 'POST', body: data});
  assert.deepEqual(JSON.parse(await b.frames.next()), {senderId: id, receiverId: b.id, data});
});

test('with events=true a peer hears of the list and of frames that went nowhere', async (t) => {
  const server = await startServer(t);
  const a = await webSocketPeer(t, server, '?events=true&peer_name=Ann,%20B');
  const peer = (peerId, name) => ({peerId, name, connected: true});
  const next = async () => JSON.parse(await a.frames.next());
  assert.deepEqual(await next(), {type: 'peers', peers: [peer('1', 'Ann_ B')]});
  const b = await webSocketPeer(t, server);
  assert.deepEqual(await next(), {type: 'peers', peers: [peer('2', 'peer_2'), peer('1', 'Ann_ B')]});
  b.socket.close();
  assert.deepEqual(await next(), {type: 'peers', peers: [peer('1', 'Ann_ B')]});
  a.send({receiverId: 99});
  assert.deepEqual(await next(), {type: 'error', error: 'unknown_receiver', receiverId: '99'});
  a.send('nonsense');
  assert.deepEqual(await next(), {type: 'error', error: 'bad_message'});
});

/** A peer that speaks the numbered form; `next` returns its next frame that is not the list. */
async function numberedPeer(t, server, query = '') {
  const peer = await webSocketPeer(t, server, `?ack=true${query}`);
  const next = async () => {
    const frame = JSON.parse(await peer.frames.next());
    return frame.type === 'peers' ? next() : frame;
  };
  return {...peer, next};
}

test('with ack=true each message is answered, and comes again until it is acknowledged', async (t) => {
  const server = await startServer(t);
  const a = await numberedPeer(t, server);
  const b = await numberedPeer(t, server);
  assert.equal(b.hello.maxFrameBytes, 512 * 1024);
  const say = (seq, to, data) => a.send({type: 'message', seq, to, data});
  for (const [index, data] of ['{"sdp":"v=0"}', 'text', ''].entries()) say(index + 1, b.id, data);
  // As after a lost answer: accepted again, and not delivered again.
  say(3, Number(b.id), '');
  for (const seq of [1, 2, 3, 3]) assert.deepEqual(await a.next(), {type: 'sent', seq});
  const messages = ['{"sdp":"v=0"}', 'text', ''].map((data, index) => ({type: 'message', seq: index + 1, from: a.id, data}));
  // Without waiting for an acknowledgement in between.
  for (const message of messages) assert.deepEqual(await b.next(), message);
  b.send({type: 'ack', seq: 1});
  // The answer shows that the acknowledgement was heard.
  b.send({type: 'heartbeat'});
  assert.deepEqual(await b.next(), {type: 'heartbeat'});
  b.socket.terminate();
  const claim = `&peer_id=${b.id}&peer_token=${b.hello.peerToken}`;
  const back = await numberedPeer(t, server, claim);
  assert.equal(back.id, b.id);
  assert.deepEqual([await back.next(), await back.next()], messages.slice(1));
  // The query acknowledges too.
  const again = await webSocketPeer(t, server, `?ack=2${claim}`);
  await again.frames.next();
  assert.deepEqual(JSON.parse(await again.frames.next()), messages[2]);
  // Who is not signed in any more leaves no other peer behind.
  await fetch(`${server.http}/sign_out?peer_id=${b.id}&peer_token=${b.hello.peerToken}`);
  assert.equal(await again.closed, 1000);
  const [code] = await once(new WebSocket(`${server.ws}/?ack=3${claim}`), 'close');
  assert.equal(code, 4004);
  // Nor does one whose id is another's by now, as after a restart.
  const wrong = `&peer_id=${a.id}&peer_token=${b.hello.peerToken}`;
  assert.equal((await once(new WebSocket(`${server.ws}/?ack=3${wrong}`), 'close'))[0], 4004);
  a.send({type: 'heartbeat'});
  assert.deepEqual(await a.next(), {type: 'heartbeat'});
});

test('with ack=true a heartbeat brings the list again if a peer was lost or is back, which is no news', async (t) => {
  const server = await startServer(t);
  const a = await webSocketPeer(t, server, '?ack=true');
  const b = await webSocketPeer(t, server, '?ack=true');
  let connected;
  const beat = async () => {
    a.send({type: 'heartbeat'});
    for (;;) {
      const {type, peers} = JSON.parse(await a.frames.next());
      if (type === 'heartbeat') return;
      assert.equal(type, 'peers');
      connected = peers.find(({peerId}) => peerId === b.id)?.connected;
    }
  };
  const isSeen = (value) => until(async () => {
    await beat();
    return connected === value;
  });
  await isSeen(true);
  b.socket.terminate();
  await isSeen(false);
  await webSocketPeer(t, server, `?ack=0&peer_id=${b.id}&peer_token=${b.hello.peerToken}`);
  await isSeen(true);
  // A list that has not changed is not sent again.
  await beat();
  a.send({type: 'heartbeat'});
  a.send({type: 'heartbeat'});
  for (let beats = 0; beats < 2; beats += 1) assert.deepEqual(JSON.parse(await a.frames.next()), {type: 'heartbeat'});
});

test('with ack=true a frame that cannot be delivered is refused, and the next one is not', async (t) => {
  const server = await startServer(t);
  const a = await numberedPeer(t, server);
  const poller = await pollingPeer(server, 'poller');
  a.send('no frame');
  assert.deepEqual(await a.next(), {type: 'refused', error: 'bad_message'});
  const say = (seq, to, data = 'x') => a.send({type: 'message', seq, to, data});
  say(7, '99');
  assert.deepEqual(await a.next(), {type: 'refused', seq: 7, error: 'unknown_receiver'});
  say(8, poller.id);
  assert.deepEqual(await a.next(), {type: 'sent', seq: 8});
  say(7, poller.id);
  assert.deepEqual(await a.next(), {type: 'refused', seq: 7, error: 'out_of_order'});
  const large = 'x'.repeat(500_000);
  for (const seq of [9, 10, 11, 12, 13]) say(seq, poller.id, large);
  for (const seq of [9, 10, 11, 12]) assert.deepEqual(await a.next(), {type: 'sent', seq});
  assert.deepEqual(await a.next(), {type: 'refused', seq: 13, error: 'mailbox_full'});
  const [, {statusCode}] = await once(new WebSocket(`${server.ws}/?ack=-1`), 'unexpected-response');
  assert.equal(statusCode, 400);
});

test('a thousand frames back to back arrive in order', async (t) => {
  const server = await startServer(t);
  const [a, b] = [await webSocketPeer(t, server), await webSocketPeer(t, server)];
  for (let number = 0; number < 1000; number += 1) a.send({receiverId: b.id, number});
  const numbers = (await b.frames.take(1000)).map((frame) => JSON.parse(frame).number);
  assert.deepEqual(numbers, [...Array(1000).keys()]);
});

test('a frame over the limit closes the connection with 1009', async (t) => {
  const server = await startServer(t, {WEBRTC_MAX_MESSAGE_BYTES: '1000'});
  const [a, b] = [await webSocketPeer(t, server), await webSocketPeer(t, server)];
  const frame = (size) => JSON.stringify({receiverId: b.id, pad: ''}).replace('""', `"${'x'.repeat(size)}"`);
  const fits = frame(1000 - frame(0).length);
  a.send(fits);
  assert.equal(await b.frames.next(), fits);
  a.send(frame(1001 - frame(0).length));
  assert.equal(await a.closed, 1009);
  await until(async () => (await server.peers()).length === 1);
  b.send({receiverId: b.id});
  assert.equal(await b.frames.next(), '{"receiverId":"2"}');
});

test('a peer is gone as soon as its connection is', async (t) => {
  const server = await startServer(t);
  const watcher = await pollingPeer(server, 'watcher');
  const a = await webSocketPeer(t, server, '?peer_name=a');
  assert.equal((await watcher.wait()).text, 'a,2,1\nwatcher,1,1\n');
  const [b] = [await webSocketPeer(t, server, '?peer_name=b')];
  assert.equal((await watcher.wait()).text, 'b,3,1\na,2,1\nwatcher,1,1\n');
  for (let number = 0; number < 100; number += 1) a.send({receiverId: b.id, number});
  a.socket.terminate();
  assert.equal((await watcher.wait()).text, 'b,3,1\nwatcher,1,1\n');
});

test('a close is answered, and removes the peer', async (t) => {
  const server = await startServer(t);
  for (const query of ['', '?events=true']) {
    const a = await webSocketPeer(t, server, query);
    a.socket.close(1000);
    assert.equal(await a.closed, 1000);
    await until(async () => (await server.peers()).length === 0);
  }
});

test('a peer that gives no sign of life is removed after the timeout', async (t) => {
  const server = await startServer(t, {WEBRTC_HEARTBEAT_MS: '600'});
  const silent = new WebSocket(server.ws, {autoPong: false});
  const alive = await webSocketPeer(t, server);
  const pings = [];
  silent.on('ping', () => pings.push(Date.now()));
  await once(silent, 'close');
  assert.ok(pings.length >= 1);
  await until(async () => (await server.peers()).length === 1);
  // The other has answered its pings.
  assert.equal(alive.socket.readyState, WebSocket.OPEN);
});

test('a peer that does not read is removed and others do not notice', async (t) => {
  const server = await startServer(t, {WEBRTC_MAX_PENDING_BYTES: '600000'});
  const raw = net.connect(server.port, '127.0.0.1');
  atEnd(t, () => raw.destroy());
  raw.write('GET /?peer_name=deaf HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
    'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n');
  await until(async () => (await server.peers()).length === 1);
  raw.pause();
  const [a, b] = [await webSocketPeer(t, server), await webSocketPeer(t, server)];
  const pad = 'x'.repeat(100_000);
  // The kernel's buffers take some megabytes before the mailbox fills.
  for (let number = 0; number < 200; number += 1) {
    a.send({receiverId: '1', pad});
    a.send({receiverId: b.id, number});
  }
  const numbers = (await b.frames.take(200)).map((frame) => JSON.parse(frame).number);
  assert.deepEqual(numbers, [...Array(200).keys()]);
  await until(async () => (await server.peers()).length === 2);
  // What it finds when it reads at last ends with the reason.
  raw.resume();
  let end = Buffer.alloc(0);
  raw.on('data', (data) => { end = Buffer.concat([end, data]).subarray(-200); });
  await once(raw, 'end');
  assert.ok(end.toString().endsWith('too much waits for this peer'));
});

test('no burst removes a peer, however large', async (t) => {
  const server = await startServer(t);
  const [a, b] = [await webSocketPeer(t, server), await webSocketPeer(t, server)];
  for (const [count, pad] of [[20_000, 0], [1000, 4000]]) {
    for (let number = 0; number < count; number += 1) {
      a.send({receiverId: b.id, number, pad: 'x'.repeat(pad)});
    }
    const numbers = (await b.frames.take(count)).map((frame) => JSON.parse(frame).number);
    assert.deepEqual(numbers, [...Array(count).keys()]);
  }
});

test('bytes that are no UTF-8 are no frame, and reach a peer as text', async (t) => {
  const server = await startServer(t);
  const a = await webSocketPeer(t, server, '?events=true');
  await a.frames.next();
  a.socket.send(Buffer.from([...Buffer.from('{"receiverId":"1","x":"'), 0xff, 0x22, 0x7d]));
  assert.deepEqual(JSON.parse(await a.frames.next()), {type: 'error', error: 'bad_message'});
  const pol = await pollingPeer(server, 'Pol');
  await a.frames.next();
  assert.equal(await pol.send(a.id, Buffer.from([0x7b, 0x22, 0xff])), 200);
  assert.equal(JSON.parse(await a.frames.next()).data, '{"\u{fffd}');
});

test('only pages that may use the server open sockets', async (t) => {
  const server = await startServer(t, {WEBRTC_CORS: 'https://good.example'});
  const open = (origin, path = '/') => new WebSocket(server.ws + path, {origin});
  for (const path of ['/', '/ws', '/socket.io/?EIO=4&transport=websocket']) {
    const [error] = await once(open('https://evil.example', path), 'error');
    assert.match(error.message, /403/);
    for (const origin of ['https://good.example', server.http, undefined]) {
      const socket = open(origin, path);
      await once(socket, 'open');
      socket.terminate();
    }
  }
});

test('a request that is not an upgrade is answered, and adds no peer', async (t) => {
  const server = await startServer(t);
  assert.equal((await fetch(server.http)).status, 404);
  assert.equal((await fetch(`${server.http}/ws`)).status, 404);
  const raw = net.connect(server.port, '127.0.0.1');
  atEnd(t, () => raw.destroy());
  raw.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
  const [answer] = await once(raw, 'data');
  assert.match(answer.toString(), /^HTTP\/1\.1 400 /);
  assert.deepEqual(await server.peers(), []);
});

/** The answer to a handshake with these headers. */
async function handshake(t, server, headers, target = '/') {
  const raw = net.connect(server.port, '127.0.0.1');
  atEnd(t, () => raw.destroy());
  const lines = {
    'Host': 'x', 'Connection': 'keep-alive, Upgrade', 'Upgrade': 'WebSocket',
    'Sec-WebSocket-Version': '13', 'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==', ...headers,
  };
  const head = Object.entries(lines).map(([name, value]) => `${name}: ${value}\r\n`).join('');
  raw.write(`GET ${target} HTTP/1.1\r\n${head}\r\n`);
  const [answer] = await once(raw, 'data');
  return answer.toString();
}

for (const target of ['/', '/socket.io/?EIO=4&transport=websocket']) {
  test(`a handshake at ${target} is as RFC 6455 has it, or is refused`, async (t) => {
    const server = await startServer(t);
    const accepted = await handshake(t, server, {}, target);
    assert.match(accepted, /^HTTP\/1\.1 101 /);
    // The example of RFC 6455, 1.3.
    assert.match(accepted, /\r\nSec-Websocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK\+xOo=\r\n/);
    assert.doesNotMatch(accepted, /sec-websocket-protocol/i);
    const version = await handshake(t, server, {'Sec-WebSocket-Version': '8'}, target);
    assert.match(version, /^HTTP\/1\.1 426 /);
    assert.match(version, /\r\nSec-Websocket-Version: 13\r\n/);
    for (const key of ['', 'x', 'dGhlIHNhbXBsZSBub25jZQ', 'dGhlIHNhbXBsZSBub25jZT==', 'AAAA']) {
      assert.match(await handshake(t, server, {'Sec-WebSocket-Key': key}, target), /^HTTP\/1\.1 400 /, key);
    }
    // Browsers close the connection if they offered some and none is chosen.
    const protocol = await handshake(t, server, {'Sec-WebSocket-Protocol': 'json, other'}, target);
    assert.match(protocol, /\r\nSec-Websocket-Protocol: json\r\n/);
  });
}

test('a text that is not UTF-8 closes with 1007, and an invalid frame with 1002', async (t) => {
  const server = await startServer(t);
  for (const [bytes, code] of [[[0x81, 0x81, 0, 0, 0, 0, 0xff], 1007], [[0x81, 1, 0x78], 1002], [[0x83, 0x80, 0, 0, 0, 0], 1002]]) {
    const a = await webSocketPeer(t, server);
    a.socket._socket.write(Buffer.from(bytes));
    assert.equal(await a.closed, code);
  }
});

test('a peer that does not read is closed with 1013, which it sees when it reads on', async (t) => {
  const server = await startServer(t, {WEBRTC_MAX_PENDING_BYTES: '600000'});
  const [a, deaf] = [await webSocketPeer(t, server), await webSocketPeer(t, server)];
  deaf.socket.pause();
  const pad = 'x'.repeat(500_000);
  for (let number = 0; number < 30; number += 1) a.send({receiverId: deaf.id, pad});
  await until(async () => (await server.peers()).length === 1);
  await pause(1500);
  deaf.socket.resume();
  assert.equal(await deaf.closed, 1013);
});

test('a socket keeps no memory of a large message', ofOneProcess, async (t) => {
  const server = await startServer(t);
  const peers = [];
  for (let number = 0; number < 60; number += 1) peers.push(await webSocketPeer(t, server));
  const before = server.resident();
  const pad = 'x'.repeat(500_000);
  // To itself, so that each reads and is written such a message.
  for (const peer of peers) {
    peer.send({receiverId: peer.id, pad});
    await peer.frames.next();
  }
  const grown = server.resident() - before;
  assert.ok(grown < 16 * 1024, `${grown} KiB more`);
});

test('a full server refuses an upgrade', async (t) => {
  const server = await startServer(t, {WEBRTC_MAX_PEERS: '1'});
  await webSocketPeer(t, server);
  const refused = new WebSocket(server.ws);
  const outcome = await Promise.race([
    once(refused, 'unexpected-response').then(([, {statusCode}]) => statusCode),
    once(refused, 'close').then(([code]) => code),
  ]);
  // A node that has not heard of the first peer yet hears it from Redis, after the upgrade.
  assert.ok(outcome === 503 || NODES > 1 && outcome === 1013, String(outcome));
});

test('a stop closes the sockets at once', ofOneProcess, async (t) => {
  const server = await startServer(t);
  const a = await webSocketPeer(t, server);
  const exited = once(server.process, 'exit');
  server.process.kill('SIGTERM');
  assert.equal(await a.closed, 1001);
  const [status] = await exited;
  assert.equal(status, 0);
});

test('a door that is off answers 404', async (t) => {
  const server = await startServer(t, {WEBRTC_DOORS: 'http, socketio'});
  const [error] = await once(new WebSocket(server.ws), 'error');
  assert.match(error.message, /404/);
  assert.equal((await fetch(`${server.http}/sign_in?peer_name=a`)).status, 200);
  assert.equal((await fetch(`${server.http}/connections`)).status, 200);
  const other = await startServer(t, {WEBRTC_DOORS: 'websocket'});
  await webSocketPeer(t, other);
  for (const path of ['/sign_in?peer_name=a', '/connections', '/socket.io/?EIO=4&transport=polling',
    '/socket.io/socket.io.js', '/reliable-signaler/signaler.js']) {
    assert.equal((await fetch(other.http + path)).status, 404, path);
  }
});
