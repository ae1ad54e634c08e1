// The operator's API and event streams, and tokens at each door.

import assert from 'node:assert/strict';
import {once} from 'node:events';
import http from 'node:http';
import net from 'node:net';
import {test} from 'node:test';

import {
  atEnd, Inbox, eventStream, ofOneProcess, pause, pollingPeer, readyClient, socketIoClient, startServer, until,
  webSocketPeer,
  signIn, told,
} from './support.js';

const OPERATED = {WEBRTC_ADMIN_LISTEN: '127.0.0.1:0'};

test('an event stream tells which peers come, come back and leave, through each door', ofOneProcess, async (t) => {
  const server = await startServer(t, OPERATED);
  const events = await eventStream(t, server);
  const next = async () => told(await events.next());
  const alice = await signIn(server, 'alice');
  const first = await events.next();
  assert.equal(first.event, 'connect');
  assert.equal(Number(first.id), first.data.sequence);
  const {since, lastSeen, ...peer} = first.data.peer;
  const shown = {id: 1, room: null, name: 'alice', door: 'http', connected: true, heartbeat: false, address: '127.0.0.1'};
  assert.deepEqual(peer, shown);
  for (const time of [since, lastSeen]) {
    assert.match(time, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
    assert.ok(Math.abs(Date.parse(time) - Date.now()) < 60_000);
  }
  await signIn(server, 'alice', `&peer_id=1&peer_token=${alice.token}`);
  assert.deepEqual(await next(), ['reconnect', 1]);
  // It has shown its token, and nobody signs it out without.
  assert.equal((await fetch(`${server.http}/sign_out?peer_id=1`)).status, 403);
  await fetch(`${server.http}/sign_out?peer_id=1&peer_token=${alice.token}`);
  assert.deepEqual(await next(), ['disconnect', 1, 'signed_out']);

  const socket = await webSocketPeer(t, server, '?peer_name=bob');
  const connected = await events.next();
  assert.deepEqual([told(connected), connected.data.peer.door], [['connect', 2], 'websocket']);
  socket.socket.close();
  assert.deepEqual(await next(), ['disconnect', 2, 'closed']);

  const carol = await readyClient(t, server, 'carol');
  const ready = await events.next();
  assert.deepEqual([told(ready), ready.data.peer.door], [['connect', 3], 'socketio']);
  assert.equal((await fetch(`${server.operator}/peers/3`, {method: 'DELETE'})).status, 200);
  assert.deepEqual(await next(), ['disconnect', 3, 'kicked']);
  await carol.disconnect.next();

  await signIn(server, 'dave');
  await webSocketPeer(t, server, '?peer_name=erin');
  await readyClient(t, server, 'frank');
  for (const id of [4, 5, 6]) assert.deepEqual(await next(), ['connect', id]);
  server.process.kill('SIGTERM');
  const last = await events.take(3);
  const stopped = [4, 5, 6].map((id) => ['disconnect', id, 'shutdown']);
  assert.deepEqual(last.map(told).sort(), stopped);
  assert.deepEqual(await next(), ['end']);
});

test('a subscriber that comes back hears what it missed, or of the gap', async (t) => {
  // With several shards an id is more than a number.
  const server = await startServer(t, {...OPERATED, WEBRTC_REDIS_SHARDS: '1'});
  const come = await eventStream(t, server);
  const comeAndGo = async (times) => {
    for (let number = 0; number < times; number += 1) {
      const {id} = await signIn(server, 'x');
      await fetch(`${server.http}/sign_out?peer_id=${id}`);
    }
  };
  await comeAndGo(600);
  const all = (await come.take(1200)).map(({id}) => Number(id));
  all.forEach((id, index) => assert.equal(id, all[0] + index));
  const late = await eventStream(t, server, all[1194]);
  assert.deepEqual((await late.take(5)).map(({id}) => Number(id)), all.slice(1195));
  const future = all[0] + 999_999;
  for (const [last, after] of [[all[5], all[5]], [future, future], [0, 0], ['', 0], ['x', 0], ['-1', 0]]) {
    const events = await eventStream(t, server, last);
    const [gap, next] = await events.take(2);
    assert.deepEqual([gap.event, gap.data], ['gap', {event: 'gap', after}]);
    assert.equal(Number(next.id), all[200]);
  }
  // What another server has told is none of this one's, however many it told.
  const other = await startServer(t, OPERATED);
  await signIn(other, 'x');
  const anew = await eventStream(t, other, all[0]);
  assert.equal((await anew.next()).event, 'gap');
});

test('a subscriber that reads misses nothing when many are removed at once', async (t) => {
  const server = await startServer(t, {...OPERATED, WEBRTC_HEARTBEAT_MS: '1', WEBRTC_HEARTBEAT_GC_MS: '2000000'});
  const events = await eventStream(t, server);
  const count = 2500;
  await Promise.all(Array.from({length: 10}, async () => {
    for (let number = 0; number < count / 10; number += 1) await signIn(server, 'x');
  }));
  await until(async () => {
    await fetch(`${server.operator}/purge`, {method: 'POST'});
    return (await (await fetch(`${server.operator}/peers`)).json()).length === 0;
  });
  const kinds = (await events.take(2 * count)).map(({event}) => event);
  assert.equal(kinds.filter((kind) => kind === 'disconnect').length, count);
});

test('the operator asks for peers, one peer, and removes', async (t) => {
  const server = await startServer(t, {...OPERATED, WEBRTC_HEARTBEAT_MS: '300', WEBRTC_HEARTBEAT_GC_MS: '2000000'});
  const ask = async (path, method = 'GET') => {
    const answer = await fetch(`${server.operator}${path}`, {method});
    const text = await answer.text();
    return [answer.status, answer.status === 200 ? JSON.parse(text) : text];
  };
  assert.deepEqual(await ask('/peers'), [200, []]);
  for (const name of ['a', 'b', 'a']) await signIn(server, name);
  const ids = async (query) => (await ask(`/peers${query}`))[1].map(({id}) => id);
  assert.deepEqual(await ids(''), [1, 2, 3]);
  assert.deepEqual(await ids('?name=a'), [1, 3]);
  assert.deepEqual(await ids('?limit=2'), [1, 2]);
  assert.deepEqual(await ids('?limit=2&after=1&name=a'), [3]);
  assert.equal((await ask('/peers/2'))[1].name, 'b');
  assert.deepEqual(await ask('/peers/2', 'DELETE'), [200, {removed: [2]}]);
  for (const [path, method, status] of [
    ['/peers/2', 'GET', 404], ['/peers/2', 'DELETE', 404], ['/peers/x', 'GET', 400],
    ['/peers/0', 'GET', 400], ['/peers?limit=x', 'GET', 400], ['/peers', 'POST', 405],
    ['/purge', 'GET', 405], ['/events', 'POST', 405], ['/', 'POST', 405], ['/sign_in?peer_name=x', 'GET', 404],
  ]) {
    const [found, line] = await ask(path, method);
    assert.equal(found, status, path);
    assert.match(line, /^[^\n]{5,}\n$/);
  }
  const {id} = await signIn(server, 'beats');
  const still = setInterval(() => fetch(`${server.http}/heartbeat?peer_id=${id}`).catch(() => {}), 50);
  atEnd(t, () => clearInterval(still));
  const removed = [];
  await until(async () => {
    removed.push(...(await ask('/purge', 'POST'))[1].removed);
    return removed.length === 2;
  });
  assert.deepEqual(removed.sort(), [1, 3]);
  assert.deepEqual(await ids(''), [id]);
});

test('with a token the API refuses requests without it, and always those of other pages', async (t) => {
  const server = await startServer(t, {...OPERATED, WEBRTC_ADMIN_TOKEN: 'secret word'});
  const ask = async (headers, path = '/peers', method = 'GET') => {
    const answer = await fetch(`${server.operator}${path}`, {headers, method});
    await answer.body?.cancel();
    return answer.status;
  };
  const right = {Authorization: 'Bearer secret word'};
  for (const [path, method] of [
    ['/peers', 'GET'], ['/peers/1', 'GET'], ['/peers/1', 'DELETE'], ['/purge', 'POST'], ['/events', 'GET'], ['/x', 'GET'],
  ]) {
    for (const value of [undefined, 'Bearer', 'Bearer ', 'Bearer secret', 'Bearer secret wordy', 'Basic secret word', 'secret word']) {
      assert.equal(await ask(value ? {Authorization: value} : {}, path, method), 401, `${path} ${value}`);
    }
    assert.notEqual(await ask(right, path, method), 401);
  }
  assert.equal(await ask({Authorization: 'bearer secret word'}), 200);
  assert.equal(await ask({...right, Origin: server.operator}), 200);
  assert.equal(await ask({...right, Origin: server.http}), 403);
  assert.equal(await askAs(server, 'Host: example.org', 'Authorization: Bearer secret word'), 200);
});

/** The status that `/peers` answers to a request with just these headers. */
async function askAs(server, ...headers) {
  const {port, hostname} = new URL(server.operator);
  const socket = net.connect({port, host: hostname});
  socket.write(`${['GET /peers HTTP/1.1', 'Connection: close', ...headers].join('\r\n')}\r\n\r\n`);
  let text = '';
  for await (const chunk of socket) text += chunk;
  return Number(/^HTTP\/1\.1 (\d+)/.exec(text)[1]);
}

test('without a token no other page can ask, whatever name it gives the loopback', async (t) => {
  const server = await startServer(t, OPERATED);
  for (const host of ['localhost', 'LOCALHOST:3001', '127.0.0.1:3001', '127.1.2.3', '[::1]:3001']) {
    assert.equal(await askAs(server, `Host: ${host}`), 200, host);
  }
  for (const host of ['evil.example:3001', 'localhost.evil.example', '127.0.0.1.evil.example', '10.0.0.1']) {
    assert.equal(await askAs(server, `Host: ${host}`), 403, host);
  }
  // That is no host.
  assert.equal(await askAs(server, 'Host: x@y'), 400);
  for (const [site, status] of [['none', 200], ['same-origin', 200], ['same-site', 403], ['cross-site', 403]]) {
    assert.equal(await askAs(server, 'Host: localhost', `Sec-Fetch-Site: ${site}`), status, site);
  }
  for (const [origin, status] of [['http://localhost:3001', 200], ['http://localhost:3000', 403], ['null', 403], ['https://example.org', 403]]) {
    assert.equal(await askAs(server, 'Host: localhost:3001', `Origin: ${origin}`), status, origin);
  }
  assert.equal(await askAs(server, 'Host: localhost:3001', 'Origin: http://localhost:3001', 'Sec-Fetch-Site: cross-site'), 403);
});

test('a subscriber that never reads costs no memory', ofOneProcess, async (t) => {
  const server = await startServer(t, OPERATED);
  const {port, hostname} = new URL(server.operator);
  const deaf = net.connect({port, host: hostname, onread: {buffer: Buffer.alloc(1), callback: () => false}});
  atEnd(t, () => deaf.destroy());
  deaf.write('GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n');
  const before = server.resident();
  const cycle = async () => {
    for (let number = 0; number < 1000; number += 1) {
      const {id} = await signIn(server, 'x'.repeat(400));
      await fetch(`${server.http}/sign_out?peer_id=${id}`);
    }
  };
  await Promise.all([cycle(), cycle(), cycle(), cycle()]);
  assert.ok(server.resident() - before < 32 * 1024, `${server.resident() - before} KiB`);
  assert.equal((await fetch(`${server.http}/healthz`)).status, 200);
});

for (const mode of ['optional', 'required']) {
  test(`where tokens are ${mode}, no request passes with a wrong one`, async (t) => {
    const server = await startServer(t, {WEBRTC_PEER_TOKENS: mode});
    const alice = await signIn(server, 'alice');
    const mallory = await signIn(server, 'mallory');
    assert.match(alice.token, /^[0-9a-f]{32}$/);
    assert.notEqual(alice.token, mallory.token);
    const requests = [
      ['GET', `/sign_in?peer_name=alice&peer_id=${alice.id}`],
      ['GET', `/wait?peer_id=${alice.id}`],
      ['POST', `/message?peer_id=${alice.id}&to=${mallory.id}`],
      ['GET', `/heartbeat?peer_id=${alice.id}`],
      ['POST', `/sign_out?peer_id=${alice.id}&grace=1`],
      ['POST', `/sign_out?peer_id=${alice.id}`],
    ];
    const malformed = ['POST', `/message?peer_id=${alice.id}&to=${mallory.id}&seq=0`];
    const ask = async ([method, path], query, headers = {}) => {
      const answer = await fetch(`${server.http}${path}${query}`, {method, headers});
      return {status: answer.status, text: await answer.text(), id: answer.headers.get('pragma')};
    };
    for (const wrong of [mallory.token, alice.token.slice(1), `${alice.token}0`, `+${alice.token.slice(1)}`, 'x', '']) {
      for (const request of [...requests, malformed]) {
        for (const asked of [
          ask(request, `&peer_token=${encodeURIComponent(wrong)}`), ask(request, '', {'X-Peer-Token': wrong}),
        ]) {
          const {status, text} = await asked;
          assert.equal(status, 403, `${request} with ${wrong}`);
          assert.match(text, /^the token does not belong to the peer[^\n]*\n$/);
        }
      }
    }
    for (const request of requests) {
      // All that it shows has to be right.
      const both = await ask(request, `&peer_token=${mallory.token}`, {'X-Peer-Token': alice.token});
      const twice = await ask(request, '', [['X-Peer-Token', alice.token], ['X-Peer-Token', mallory.token]]);
      const inQuery = await ask(request, `&peer_token=${alice.token}&peer_token=${mallory.token}`);
      assert.deepEqual([both, twice, inQuery].map(({status}) => status), [403, 403, 403], request);
    }
    // Nothing of that changed anything.
    const again = await ask(requests[0], `&peer_token=${alice.token}`);
    assert.deepEqual([again.id, again.text], [String(alice.id), 'alice,1,1\nmallory,2,1\n']);
    if (mode === 'required') {
      for (const request of requests) {
        const {status, text} = await ask(request, '');
        assert.deepEqual([status, /token is missing/.test(text)], [403, true], request);
      }
    } else {
      // One has shown its token, and the other has not.
      assert.equal((await ask(requests[3], '')).status, 403);
      assert.equal((await ask(['GET', `/heartbeat?peer_id=${mallory.id}`], '')).status, 200);
    }
    for (const request of requests.slice(2)) {
      assert.equal((await ask(request, '', {'X-Peer-Token': alice.token})).status, 200, request);
    }
    assert.ok(!JSON.stringify(server.log).includes(alice.token));
  });
}

test('a server that stood still takes no peer for dead', async (t) => {
  const server = await startServer(t, {...OPERATED, WEBRTC_HEARTBEAT_MS: '1000', WEBRTC_HEARTBEAT_GC_MS: '50'});
  const processes = (server.nodes ?? [server]).map((node) => node.process);
  const socket = await webSocketPeer(t, server);
  const signal = await readyClient(t, server, 'sio', {transports: ['websocket']});
  const {id} = await pollingPeer(server, 'beats');
  const beat = async () => (await fetch(`${server.http}/heartbeat?peer_id=${id}`)).status;
  assert.equal(await beat(), 200);
  processes.forEach((process) => process.kill('SIGSTOP'));
  await pause(3000);
  processes.forEach((process) => process.kill('SIGCONT'));
  // Those that were still there are, and have time to show it.
  for (let time = 0; time < 10; time += 1) {
    assert.equal(await beat(), 200);
    await pause(50);
  }
  socket.send({receiverId: socket.id, still: 'here'});
  assert.equal(JSON.parse(await socket.frames.next()).still, 'here');
  assert.ok(signal.socket.connected);
  assert.equal((await server.peers()).length, 3);
});

test('a WebSocket comes back under its id, takes over, and is closed when it is replaced', async (t) => {
  const server = await startServer(t, {...OPERATED, WEBRTC_HEARTBEAT_MS: '60000'});
  const bob = await webSocketPeer(t, server);
  const socket = await hello(t, server, '?peer_name=alice&resume=true');
  const {peerId, peerToken} = socket.first;
  assert.match(peerToken, /^[0-9a-f]{32}$/);
  socket.socket.terminate();
  const peer = async () => (await fetch(`${server.operator}/peers/${peerId}`)).json();
  await until(async () => !(await peer()).connected);
  bob.send({receiverId: peerId, senderId: bob.id, n: 1});
  const back = await hello(t, server, `?resume=true&peer_id=${peerId}&peer_token=${peerToken}`);
  assert.deepEqual(back.first, {type: 'id', peerId, peerToken});
  assert.equal(JSON.parse(await back.frames.next()).n, 1);
  assert.equal((await peer()).name, 'alice');
  const taken = await hello(t, server, `?peer_id=${peerId}&peer_token=${peerToken}`);
  assert.equal(await back.closed, 4001);
  bob.send({receiverId: peerId, senderId: bob.id, n: 2});
  assert.equal(JSON.parse(await taken.frames.next()).n, 2);
  // A long poll takes it over as well.
  const signed = await signIn(server, 'alice', `&peer_id=${peerId}&peer_token=${peerToken}`);
  assert.equal(String(signed.id), peerId);
  assert.equal(await taken.closed, 4001);
  assert.equal((await peer()).door, 'http');
  // And is told what those are.
  const own = `peer_id=${peerId}&peer_token=${peerToken}`;
  const list = await (await fetch(`${server.http}/wait?${own}&limit=50`)).text();
  assert.match(list, /^alice,/m);

  for (const token of [peerToken.replace(/./g, '0'), 'x']) {
    await assert.rejects(hello(t, server, `?peer_id=${peerId}&peer_token=${token}`), /403/);
    await assert.rejects(hello(t, server, `?peer_id=${peerId}`, {'X-Peer-Token': token}), /403/);
  }
  await assert.rejects(hello(t, server, '?peer_token=x'), /403/);
  await assert.rejects(hello(t, server, `?peer_id=x&peer_token=${peerToken}`), /403/);
  const byHeader = await hello(t, server, `?peer_id=${peerId}`, {'X-Peer-Token': peerToken});
  assert.equal(byHeader.first.peerId, peerId);
  await fetch(`${server.http}/sign_out?${own}`);
  const anew = await hello(t, server, `?peer_id=${peerId}&peer_token=${peerToken}`);
  assert.notEqual(anew.first.peerId, peerId);
  assert.notEqual(anew.first.peerToken, peerToken);
});

/** A WebSocket with the whole of its first frame. */
async function hello(t, server, query, headers = {}) {
  const {default: WebSocket} = await import('ws');
  const socket = new WebSocket(`${server.ws}/${query}`, {headers});
  atEnd(t, () => socket.terminate());
  const frames = new Inbox();
  socket.on('message', (data) => frames.put(data.toString()));
  const closed = once(socket, 'close').then(([code]) => code);
  // One that is refused is told by `open`.
  closed.catch(() => {});
  await once(socket, 'open');
  return {socket, frames, closed, first: JSON.parse(await frames.next())};
}

test('a Socket.IO client that could come back, and does not, holds its name for seconds only', async (t) => {
  const server = await startServer(t, {WEBRTC_HEARTBEAT_MS: '60000'});
  const holder = await readyClient(t, server, 'alice', {query: {resume: 'true'}});
  holder.socket.close();
  await until(async () => {
    const {socket, message, uniquenessError} = await socketIoClient(t, server.http);
    socket.emit('ready', 'alice');
    const isIn = await Promise.race([message.next().then(() => true), uniquenessError.next().then(() => false)]);
    if (!isIn) await pause(200);
    return isIn;
  });
  assert.equal((await server.peers()).length, 1);
});

for (const version of [4, 2, 1]) {
  test(`a Socket.IO ${version} client comes back under its id and name`, async (t) => {
    const server = await startServer(t, {...OPERATED, WEBRTC_HEARTBEAT_MS: '60000'});
    const other = await readyClient(t, server, 'other', {version});
    const ready = async (query) => {
      const client = await socketIoClient(t, server.http, {version, query});
      const session = new Promise((resolve) => client.socket.on('session', resolve));
      client.socket.emit('ready', 'alice', 'tester');
      await client.message.next();
      return {...client, session: await session};
    };
    const alice = await ready({resume: 'true'});
    assert.match(alice.session.peerToken, /^[0-9a-f]{32}$/);
    await other.message.next();
    alice.socket.close();
    const peer = async () => (await fetch(`${server.operator}/peers/${alice.session.peerId}`)).json();
    await until(async () => !(await peer()).connected);
    other.socket.emit('messageOne', {target: 'alice', message: 'hi'});
    await other.settled();
    const claim = {peer_id: alice.session.peerId, peer_token: alice.session.peerToken};
    const again = await socketIoClient(t, server.http, {version, query: claim});
    const [message] = await again.message.next();
    assert.equal(message.message, 'hi');
    const session = new Promise((resolve) => again.socket.on('session', resolve));
    again.socket.emit('ready', 'alice', 'tester');
    assert.deepEqual(await session, alice.session);
    assert.equal(again.uniquenessError.length, 0);
    // The next one takes over.
    await socketIoClient(t, server.http, {version, query: claim});
    await again.disconnect.next();
    assert.equal((await peer()).name, 'alice');
    const wrong = {...claim, peer_token: '0'.repeat(32)};
    await assert.rejects(socketIoClient(t, server.http, {version, query: wrong}), Error);
  });
}
