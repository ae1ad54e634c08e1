// Access control: who may come in, at every door.

import assert from 'node:assert/strict';
import {spawnSync} from 'node:child_process';
import {createHmac, generateKeyPairSync, sign as signWith} from 'node:crypto';
import {once} from 'node:events';
import {readFileSync, readdirSync, writeFileSync} from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import {test} from 'node:test';
import {fileURLToPath} from 'node:url';

import WebSocket from 'ws';

import {directory, startInVain} from './nodes.js';
import {BINARY, atEnd, clients, eventStream, nodeOf, ownClient, startServer, webSocketPeer} from './support.js';

const SECRET = 'a secret of at least thirty-two bytes';
const now = () => Math.floor(Date.now() / 1000);

const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');

/** A JSON Web Token. `sign` makes its signature. */
function token(claims, {header = {alg: 'HS256'}, sign = hmac(SECRET)} = {}) {
  const text = `${part({typ: 'JWT', ...header})}.${part({exp: now() + 600, ...claims})}`;
  return `${text}.${sign(text).toString('base64url')}`;
}

const hmac = (secret) => (text) => createHmac('sha256', secret).update(text).digest();

/** The kinds of keys, each with how it signs. */
const pairs = {
  RS256: generateKeyPairSync('rsa', {modulusLength: 2048}),
  ES256: generateKeyPairSync('ec', {namedCurve: 'P-256'}),
  EdDSA: generateKeyPairSync('ed25519'),
};

function signed(algorithm, {privateKey} = pairs[algorithm], header = {}) {
  const digest = algorithm === 'EdDSA' ? null : 'sha256';
  const sign = (text) => signWith(digest, Buffer.from(text), {key: privateKey, dsaEncoding: 'ieee-p1363'});
  return (claims = {}) => token(claims, {header: {alg: algorithm, ...header}, sign});
}

/** Signs in by long poll: the status, the text, and what a client needs. */
async function signIn(server, {shown, name = 'a', prefix = '', query = ''} = {}) {
  const headers = shown === undefined ? {} : {Authorization: `Bearer ${shown}`};
  const answer = await fetch(`${server.http}${prefix}/sign_in?peer_name=${encodeURIComponent(name)}${query}`, {headers});
  return {
    status: answer.status, text: await answer.text(), headers: answer.headers,
    id: answer.headers.get('pragma'), peerToken: answer.headers.get('x-peer-token'),
  };
}

/** How an upgrade is answered: its status, or 101. */
async function upgrade(t, server, target, headers = {}) {
  const socket = new WebSocket(`${server.ws}${target}`, {headers});
  atEnd(t, () => socket.terminate());
  socket.on('error', () => {});
  return Promise.race([
    once(socket, 'open').then(() => 101),
    once(socket, 'unexpected-response').then(([, response]) => response.statusCode),
  ]);
}

/** How a Socket.IO client connects: `connected`, `closed` or the error. */
async function connect(t, server, {version = 4, ...options} = {}) {
  const socket = clients[version](nodeOf(server.http), {forceNew: true, reconnection: false, ...options});
  atEnd(t, () => socket.close());
  const outcome = await new Promise((resolve) => {
    socket.on('connect', () => resolve('connected'));
    socket.io.on('close', () => setImmediate(() => resolve('closed')));
    for (const event of ['connect_error', 'error']) {
      socket.on(event, (error) => resolve(error.message ?? String(error)));
    }
  });
  return {socket, outcome};
}

/** A server of the issuer or the application, that answers as it is told to. */
async function answering(t, answer) {
  const asked = [];
  const server = http.createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks).toString();
    asked.push(body && JSON.parse(body));
    answer(response, body && JSON.parse(body));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  atEnd(t, () => { server.closeAllConnections(); server.close(); });
  return {url: `http://127.0.0.1:${server.address().port}/`, asked};
}

const json = (response, value, status = 200) => {
  response.writeHead(status, {'content-type': 'application/json'}).end(JSON.stringify(value));
};

test('with shared tokens only who shows one comes in, at every door and in rooms', async (t) => {
  const server = await startServer(t, {WEBRTC_ACCESS_TOKEN: 'old-token,new-token'});
  for (const prefix of ['', '/rooms/lobby']) {
    for (const shown of ['old-token', 'new-token']) {
      assert.equal((await signIn(server, {shown, prefix})).status, 200);
      assert.equal((await signIn(server, {query: `&access_token=${shown}`, prefix})).status, 200);
      assert.equal(await upgrade(t, server, `${prefix || '/'}?access_token=${shown}`), 101);
      assert.equal(await upgrade(t, server, prefix || '/', {Authorization: `bearer ${shown}`}), 101);
    }
    for (const [shown, why] of [[undefined, /is missing: send/], ['wrong', /is not valid/]]) {
      const refused = await signIn(server, {shown, prefix});
      assert.equal(refused.status, 401);
      assert.match(refused.text, /^[^\n]+\n$/);
      assert.match(refused.text, why);
      assert.equal(refused.headers.get('www-authenticate'), 'Bearer');
      const query = shown === undefined ? '' : `?access_token=${shown}`;
      assert.equal(await upgrade(t, server, `${prefix || '/'}${query}`), 401);
      const {outcome} = await connect(t, server, {path: `${prefix}/socket.io/`, auth: shown && {token: shown}});
      assert.equal(outcome, 'Authentication error');
    }
    const headers = {Authorization: 'Bearer new-token'};
    assert.equal((await fetch(`${server.http}${prefix}/connections`)).status, 401);
    assert.equal((await fetch(`${server.http}${prefix}/connections`, {headers})).status, 200);
    const {outcome} = await connect(t, server, {path: `${prefix}/socket.io/`, auth: {token: 'new-token'}});
    assert.equal(outcome, 'connected');
    for (const version of Object.keys(clients)) {
      const {outcome} = await connect(t, server, {version, path: `${prefix}/socket.io/`, query: 'access_token=old-token'});
      assert.equal(outcome, 'connected', `client ${version}`);
    }
  }
  assert.equal((await fetch(`${server.http}/healthz`)).status, 200);
  for (const script of ['client.js', 'heartbeat.js', 'socket.io/socket.io.js']) {
    assert.equal((await fetch(`${server.http}/${script}`)).status, 200, script);
  }
  const log = JSON.stringify(server.log);
  assert.match(log, /was not admitted/);
  assert.doesNotMatch(log, /old-token|new-token/);
});

/** The paths of all routes for clients, as the source has them. */
function routesOfDoors() {
  const source = fileURLToPath(new URL('../../src/', import.meta.url));
  const files = ['doors', 'server'].flatMap((folder) => (
    readdirSync(path.join(source, folder), {recursive: true}).map((file) => path.join(source, folder, file))));
  const texts = files.filter((file) => file.endsWith('.rs') && !file.includes('test'))
    .map((file) => readFileSync(file, 'utf8'));
  const found = texts.flatMap((text) => [
    ...text.matchAll(/\.route(?:_service)?\(\s*"([^"]+)"/g), ...text.matchAll(/\(\s*"(\/[^"]+)",\s*(?:&[A-Z]+\)|Asset::|types\()/g),
  ]);
  return new Set(found.map(([, route]) => route));
}

test('every route acts only after the check, or is named here as public', async (t) => {
  const upgradeTo = async (server, target) => upgrade(t, server, target);
  const get = (method = 'GET') => async (server, target, query = '') =>
    (await fetch(`${server.http}${target}${query}`, {method})).status;
  const ofPeer = (query, method) => async (server, target) => get(method)(server, target, query);
  const checks = {
    '/sign_in': [401, ofPeer('?peer_name=a')],
    '/connections': [401, get()],
    '/': [401, upgradeTo],
    '/ws': [401, upgradeTo],
    '/topics': [401, upgradeTo],
    '/matchbox/{room}': [401, upgradeTo],
    '/socket.io/': ['Authentication error', async (server, target) => (await connect(t, server, {path: target})).outcome],
    '/wait': [403, ofPeer('?peer_id=1')],
    '/message': [403, ofPeer('?peer_id=1&to=1', 'POST')],
    '/heartbeat': [403, ofPeer('?peer_id=1')],
    '/sign_out': [403, ofPeer('?peer_id=1', 'POST')],
    '/capacity': [403, ofPeer('?peer_id=1&value=1', 'PUT')],
    '/ice-servers': [403, ofPeer('?peer_id=1')],
    // The path of a room without a door: an upgrade comes in there as at `/`.
    '/rooms/{room}/': [401, async (server) => upgrade(t, server, '/rooms/blue/')],
  };
  const isPublic = [
    '/healthz', '/readyz', '/openapi.yml', '/page.css', '/page.js', '/rtc.js', '/rtc.d.ts', '/client.js', '/client.d.ts', '/heartbeat.js', '/heartbeat.d.ts', '/socket.io/socket.io.js',
    '/reliable-signaler/signaler.js',
  ];
  assert.deepEqual([...routesOfDoors()].sort(), [...Object.keys(checks), ...isPublic].sort());
  // Their path is a setting.
  checks['/peerjs-server/peerjs?key=peerjs&id=a&token=b'] = [401, upgradeTo];
  checks['/peerjs-server/peerjs/peers'] = [401, get()];

  const server = await startServer(t, {
    WEBRTC_ACCESS_TOKEN: 'token',
    WEBRTC_ADMIN_LISTEN: '127.0.0.1:0',
    WEBRTC_DOORS: 'http,websocket,socketio,peerjs,topics,matchbox',
    WEBRTC_PEERJS_DISCOVERY: 'true',
  });
  for (const prefix of ['', '/rooms/blue']) {
    for (const [route, [expected, ask]] of Object.entries(checks)) {
      if (prefix && route.startsWith('/rooms')) continue;
      assert.equal(await ask(server, `${prefix}${route}`), expected, `${prefix}${route}`);
    }
  }
  for (const route of isPublic) assert.equal(await get()(server, route), 200, route);
  const events = await eventStream(t, server, '0');
  const peers = await (await fetch(`${server.operator}/peers?room=*`)).json();
  assert.deepEqual(peers, []);
  assert.equal((await signIn(server, {shown: 'token'})).status, 200);
  // The first thing that has happened.
  let event;
  do ({event} = await events.next()); while (event === 'gap');
  assert.equal(event, 'connect');
});

test('the path of PeerJS cannot be one that the server uses itself', async () => {
  const firsts = new Set([...routesOfDoors()].map((route) => route.split('/')[1]).filter((part) => part !== ''));
  for (const first of [...firsts, 'rooms/lobby']) {
    const [status, line] = await startInVain({WEBRTC_PEERJS_PATH: `/${first}`});
    assert.equal(status, 2, first);
    assert.match(line, /^WEBRTC_PEERJS_PATH .* expected a path that does not begin with/);
  }
});

test('with access control each request has to show the token of its peer', async (t) => {
  const server = await startServer(t, {WEBRTC_ACCESS_TOKEN: 'letmein'});
  const {id, peerToken} = await signIn(server, {shown: 'letmein'});
  const paths = [
    ['GET', `/wait?peer_id=${id}`], ['GET', `/heartbeat?peer_id=${id}`], ['PUT', `/capacity?peer_id=${id}&value=1`],
    ['POST', `/message?peer_id=${id}&to=${id}`], ['GET', `/sign_out?peer_id=${id}`],
  ];
  for (const [method, target] of paths) {
    const headers = {Authorization: 'Bearer letmein'};
    assert.equal((await fetch(`${server.http}${target}`, {method, headers})).status, 403, target);
  }
  for (const [method, target] of paths) {
    const headers = {'X-Peer-Token': peerToken};
    assert.equal((await fetch(`${server.http}${target}`, {method, headers})).status, 200, target);
  }
});

test('a JSON Web Token that is not right in every respect is refused', async (t) => {
  const settings = {WEBRTC_JWT_SECRET: SECRET, WEBRTC_JWT_AUDIENCE: 'signal', WEBRTC_JWT_ISSUER: 'https://issuer.test'};
  const server = await startServer(t, settings);
  const right = {aud: 'signal', iss: 'https://issuer.test'};
  assert.equal((await signIn(server, {shown: token(right)})).status, 200);
  assert.equal((await signIn(server, {shown: token({...right, aud: ['x', 'signal']})})).status, 200);
  assert.equal((await signIn(server, {shown: token({...right, exp: now() - 10})})).status, 200, 'leeway');
  const {aud, ...withoutAudience} = right;
  const {iss, ...withoutIssuer} = right;
  const [head, body] = token(right).split('.');
  const wrong = {
    expired: [token({...right, exp: now() - 60}), /has expired/],
    'not yet valid': [token({...right, nbf: now() + 60}), /not valid yet/],
    'without an end': [token({...right, exp: undefined})],
    'with an end that is no number': [token({...right, exp: 'never'})],
    'of another audience': [token({...right, aud: 'other'})],
    'of no audience': [token(withoutAudience)],
    'of another issuer': [token({...right, iss: 'https://evil.test'})],
    'of no issuer': [token(withoutIssuer)],
    'with another secret': [token(right, {sign: hmac('another secret of thirty-two bytes!')})],
    unsigned: [token(right, {header: {alg: 'none'}, sign: () => Buffer.alloc(0)})],
    'without a signature': [`${head}.${body}.`],
    'with other claims': [`${head}.${part({...right, exp: now() + 9000})}.${token(right).split('.')[2]}`],
    'of another algorithm': [token(right, {header: {alg: 'HS512'}})],
    'of an unknown algorithm': [token(right, {header: {alg: 'XS1'}})],
    'a name that is no name': [token({...right, name: 'a\nb'})],
    'a room that is a number': [token({...right, room: 7})],
    'no token': ['x'], dots: ['...'], 'two parts': [`${head}.${body}`],
    large: [`${head}.${'A'.repeat(10_000)}.x`],
  };
  for (const [what, [shown, why = /is not valid/]] of Object.entries(wrong)) {
    const refused = await signIn(server, {shown});
    assert.equal(refused.status, 401, what);
    assert.match(refused.text, why, what);
  }
  // As large as a client can send it at all.
  const {outcome} = await connect(t, server, {auth: {token: `${head}.${'A'.repeat(500_000)}.x`}, transports: ['websocket']});
  assert.notEqual(outcome, 'connected');
});

for (const algorithm of Object.keys(pairs)) {
  test(`with a public key for ${algorithm} only its own signatures count`, async (t) => {
    const pem = (key) => key.export({type: 'spki', format: 'pem'});
    const file = path.join(directory(t, 'jwt'), 'key.pem');
    writeFileSync(file, pem(pairs[algorithm].publicKey));
    const server = await startServer(t, {WEBRTC_JWT_PUBLIC_KEY: file});
    assert.equal((await signIn(server, {shown: signed(algorithm)()})).status, 200);
    const others = Object.keys(pairs).filter((other) => other !== algorithm).map((other) => signed(other)());
    const confused = ['HS256', algorithm].map((alg) => token({}, {
      // The public key, as if it were a secret.
      header: {alg}, sign: hmac(pem(pairs[algorithm].publicKey)),
    }));
    const another = algorithm === 'RS256' ? generateKeyPairSync('rsa', {modulusLength: 2048})
      : algorithm === 'ES256' ? generateKeyPairSync('ec', {namedCurve: 'P-256'}) : generateKeyPairSync('ed25519');
    const unsigned = token({}, {header: {alg: 'none'}, sign: () => Buffer.alloc(0)});
    for (const shown of [...others, ...confused, signed(algorithm, another)(), unsigned]) {
      assert.equal((await signIn(server, {shown})).status, 401);
    }
  });
}

test('a token says which rooms, which name and which user', async (t) => {
  const server = await startServer(t, {WEBRTC_JWT_SECRET: SECRET, WEBRTC_ADMIN_LISTEN: '127.0.0.1:0'});
  const events = await eventStream(t, server);
  const [root, lobby, both] = ['', 'lobby', ['', 'lobby']].map((room) => token({room, sub: 'user 7'}));
  const status = async (shown, prefix) => (await signIn(server, {shown, prefix})).status;
  assert.deepEqual([await status(root, ''), await status(root, '/rooms/lobby')], [200, 403]);
  assert.deepEqual([await status(lobby, ''), await status(lobby, '/rooms/lobby')], [403, 200]);
  assert.deepEqual([await status(both, ''), await status(both, '/rooms/lobby'), await status(both, '/rooms/x')], [200, 200, 403]);
  assert.equal(await upgrade(t, server, `/?access_token=${lobby}`), 403);
  assert.equal((await connect(t, server, {auth: {token: lobby}})).outcome, 'Authentication error');
  const {data} = await events.next();
  assert.equal(data.peer.user, 'user 7');

  const named = token({name: 'alice', sub: 'user 7'});
  const refused = await signIn(server, {shown: named, name: 'bob'});
  assert.equal(refused.status, 403);
  assert.match(refused.text, /does not allow this name/);
  assert.equal((await signIn(server, {shown: named, name: 'alice'})).status, 200);
  assert.equal(await upgrade(t, server, `/?access_token=${named}&peer_name=bob`), 403);
  const peer = await webSocketPeer(t, server, `?access_token=${named}`);
  const list = (await signIn(server, {shown: token({}), name: 'reader'})).text;
  assert.match(list, new RegExp(`^alice,${peer.id},1$`, 'm'), 'it need not say the name');

  const {socket} = await connect(t, server, {auth: {token: named}});
  const greeted = new Promise((resolve) => socket.on('message', resolve));
  socket.emit('ready', 'bob', 'tester');
  socket.emit('ready', 'alice', 'tester');
  assert.equal((await greeted).target, 'alice');
});

test('a peer comes back only for the same user', async (t) => {
  const server = await startServer(t, {WEBRTC_JWT_SECRET: SECRET});
  const {id, peerToken} = await signIn(server, {shown: token({sub: 'one'})});
  const query = `&peer_id=${id}&peer_token=${peerToken}`;
  const other = await signIn(server, {shown: token({sub: 'two'}), query});
  assert.equal(other.status, 403);
  assert.match(other.text, /belongs to another user/);
  const same = await signIn(server, {shown: token({sub: 'one'}), query});
  assert.deepEqual([same.status, same.id], [200, id]);
  assert.equal((await signIn(server, {query})).status, 401, 'without an access token');
});

test('keys that the issuer publishes are read, and follow it when they change', async (t) => {
  const jwk = (algorithm, kid, more = {}) => ({...pairs[algorithm].publicKey.export({format: 'jwk'}), kid, use: 'sig', ...more});
  const secret = {kty: 'oct', k: Buffer.from(SECRET).toString('base64url'), kid: 'secret', alg: 'HS256'};
  let keys = [
    jwk('RS256', 'one', {alg: 'RS256'}), jwk('ES256', 'two'), jwk('EdDSA', 'three'), secret,
    {kty: 'new', kid: 'unknown'}, jwk('ES256', 'encrypts', {use: 'enc'}), jwk('RS256', 'other', {alg: 'RS512'}),
  ];
  const issuer = await answering(t, (response) => json(response, {keys}));
  const server = await startServer(t, {WEBRTC_JWKS_URL: issuer.url});
  const status = async (algorithm, header) => (await signIn(server, {shown: signed(algorithm, undefined, header)()})).status;
  assert.equal(await status('RS256', {kid: 'one'}), 200);
  assert.equal(await status('ES256', {kid: 'two'}), 200);
  assert.equal(await status('EdDSA', {kid: 'three'}), 200);
  assert.equal(await status('EdDSA'), 200, 'it names no key');
  assert.ok(issuer.asked.length <= (server.nodes ?? [server]).length, 'once for each node');
  assert.equal(await status('RS256', {kid: 'two'}), 401);
  assert.equal(await status('ES256', {kid: 'encrypts'}), 401);
  assert.equal(await status('RS256', {kid: 'other'}), 401);
  assert.equal((await signIn(server, {shown: token({}, {header: {alg: 'HS256', kid: 'secret'}})})).status, 401);
  keys = [];
  // A key that is not known is not asked for again at once.
  for (let count = 0; count < 5; count += 1) assert.equal(await status('RS256', {kid: 'four'}), 401);
  assert.ok(issuer.asked.length <= (server.nodes ?? [server]).length);
});

test('an issuer that cannot be read is no reason to let anybody in', async (t) => {
  const bodies = {
    'a status': (response) => json(response, {keys: []}, 500),
    'too much': (response) => response.end(`{"keys":[${'0,'.repeat(200_000)}0]}`),
    'no JSON': (response) => response.end('<html>'),
    'a redirect': (response) => response.writeHead(302, {location: 'http://127.0.0.1:1/'}).end(),
    nothing: () => {},
  };
  await Promise.all(Object.entries(bodies).map(async ([what, answer]) => {
    const issuer = await answering(t, answer);
    const server = await startServer(t, {WEBRTC_JWKS_URL: issuer.url});
    const refused = await signIn(server, {shown: signed('RS256', undefined, {kid: 'one'})()});
    assert.equal(refused.status, 503, what);
    assert.equal(refused.headers.get('retry-after'), '1');
    assert.equal((await fetch(`${server.http}/healthz`)).status, 200);
  }));
});

test('the application decides', async (t) => {
  const application = await answering(t, (response, question) => {
    const answers = {
      good: [{allow: true, user: 'u-1', name: 'alice'}], any: [{allow: true}], bad: [{allow: false}],
      none: [{}], forbidden: [{allow: true}, 403], broken: [{allow: true}, 500],
    };
    json(response, ...(answers[question.token] ?? [{allow: question.name === 'guest'}]));
  });
  const server = await startServer(t, {WEBRTC_AUTH_URL: application.url});
  const status = async (shown, options) => (await signIn(server, {shown, ...options})).status;
  assert.equal(await status('good', {name: 'alice', prefix: '/rooms/lobby'}), 200);
  const [{address, ...question}] = application.asked;
  assert.deepEqual(question, {room: 'lobby', name: 'alice', door: 'http', token: 'good'});
  assert.equal(await status('good', {name: 'bob'}), 403);
  assert.equal(await status('any'), 200);
  assert.equal(await status(undefined, {name: 'guest'}), 200);
  assert.deepEqual(application.asked.at(-1).token, null);
  for (const shown of ['bad', 'none', 'forbidden', 'other']) assert.equal(await status(shown), 403, shown);
  assert.equal(await status('broken'), 503);
  assert.equal(await upgrade(t, server, '/?access_token=bad'), 403);
  assert.equal((await connect(t, server, {auth: {token: 'bad'}})).outcome, 'Authentication error');
  assert.equal(application.asked.at(-1).door, 'socketio');
  const {socket, outcome} = await connect(t, server, {auth: {token: 'good'}});
  assert.equal(outcome, 'connected');
  socket.close();
});

test('client.js shows its access token, and gets another one once when it is not taken', async (t) => {
  const server = await startServer(t, {WEBRTC_JWT_SECRET: SECRET});
  const SignalingClient = await ownClient(server);
  const asked = [];
  /** A client that is given these tokens, one after the other. */
  const client = (tokens, options = {}) => {
    asked.length = 0;
    const accessToken = async () => { asked.push(tokens[0]); return tokens.length > 1 ? tokens.shift() : tokens[0]; };
    return new SignalingClient(server.http, {name: 'a', accessToken, ...options});
  };
  const valid = token({sub: 'alice'});
  const expired = token({exp: now() - 600});

  const alice = client([expired, valid]);
  await alice.connect();
  assert.equal(asked.length, 2);
  await alice.send(alice.id, 'to myself');
  await alice.close();

  // Another user may be next.
  const bob = token({sub: 'bob'});
  const two = client([valid, bob]);
  await two.connect();
  await two.close();
  await two.connect();
  assert.equal(asked.length, 2);
  assert.equal(asked[1], bob);
  await two.close();

  const fixed = client([], {accessToken: valid});
  await fixed.connect();
  await fixed.close();

  const without = client([], {accessToken: undefined});
  await assert.rejects(without.connect(), {status: 401});
  const late = client([expired, token({exp: now() - 700})]);
  const told = once(late, 'disconnected');
  await assert.rejects(late.connect(), {status: 401});
  assert.equal((await told)[0].detail.cause.status, 401);
  assert.equal(asked.length, 2);
  const elsewhere = client([token({room: 'lobby'})]);
  await assert.rejects(elsewhere.connect(), {status: 403});
  assert.equal(asked.length, 1);
});

test('client.js can be closed while it waits for its access token', async (t) => {
  const server = await startServer(t, {WEBRTC_ACCESS_TOKEN: 'x'});
  const SignalingClient = await ownClient(server);
  const client = new SignalingClient(server.http, {name: 'a', accessToken: () => new Promise(() => {})});
  const connecting = assert.rejects(client.connect(), {status: 0});
  await client.close();
  await connecting;
  const broken = new SignalingClient(server.http, {name: 'a', accessToken: 'tok\u20ac'});
  await assert.rejects(broken.connect(), {status: 401});
});

test('client.js stops, and says why, when it may not come back', async (t) => {
  let allow = true;
  const {url} = await answering(t, (response) => json(response, {allow}));
  const server = await startServer(t, {WEBRTC_AUTH_URL: url, WEBRTC_ADMIN_LISTEN: '127.0.0.1:0'});
  const SignalingClient = await ownClient(server);
  const client = new SignalingClient(server.http, {name: 'a'});
  const statuses = [];
  const stopped = new Promise((resolve) => {
    client.addEventListener('disconnected', ({detail: {cause}}) => {
      statuses.push(cause.status);
      if (cause.status === 403) resolve();
    });
  });
  await client.connect();
  allow = false;
  await fetch(`${server.operator}/peers/${client.id}`, {method: 'DELETE'});
  await stopped;
  assert.deepEqual(statuses, [0, 403]);
  // It can be told to try again.
  allow = true;
  await client.connect();
  await client.close();
});

test('a token can be in a file, and a flag goes before it', async (t) => {
  const file = path.join(directory(t, 'secret'), 'token');
  writeFileSync(file, 'in-a-file\n');
  const server = await startServer(t, {WEBRTC_ACCESS_TOKEN_FILE: file});
  assert.equal((await signIn(server, {shown: 'in-a-file'})).status, 200);
  assert.equal((await signIn(server)).status, 401);
  const env = {...process.env, WEBRTC_ACCESS_TOKEN_FILE: file};
  // The flag is empty, and is what counts.
  const {stderr} = spawnSync(BINARY, ['--access-token='], {env, encoding: 'utf8'});
  assert.match(stderr, /WEBRTC_ACCESS_TOKEN \(--access-token\) is not valid/);
});

test('the application gives a peer ICE servers of its own', async (t) => {
  const own = {urls: ['turn:own.example.org'], username: 'u', credential: 'p'};
  let iceServers = [own];
  const {url} = await answering(t, (response) => json(response, {allow: true, iceServers}));
  const server = await startServer(t, {WEBRTC_AUTH_URL: url, WEBRTC_ICE_SERVERS: 'stun:all'});
  const all = {urls: ['stun:all']};
  const told = async ({id, peerToken}, prefix = '') =>
    (await (await fetch(`${server.http}${prefix}/ice-servers?peer_id=${id}&peer_token=${peerToken}`)).json()).iceServers;
  assert.deepEqual(await told(await signIn(server)), [all, own]);
  const room = '/rooms/blue';
  assert.deepEqual(await told(await signIn(server, {prefix: room}), room), [all, own]);
  const {hello} = await webSocketPeer(t, server, '?events=true&resume=true');
  assert.deepEqual(hello.iceServers, [all, own]);
  assert.deepEqual(await told({id: hello.peerId, peerToken: hello.peerToken}), [all, own]);
  const {socket} = await connect(t, server);
  const asked = await new Promise((resolve) => socket.emit('iceServers', resolve));
  assert.deepEqual(asked.iceServers, [all, own]);

  // At a return the newest answer counts.
  const peer = await signIn(server);
  iceServers = undefined;
  assert.equal((await signIn(server, {query: `&peer_id=${peer.id}&peer_token=${peer.peerToken}`})).id, peer.id);
  assert.deepEqual(await told(peer), [all]);
  // No browser could use these: the peer comes in without them.
  iceServers = [{urls: 'turn:without.credentials'}];
  assert.deepEqual(await told(await signIn(server)), [all]);
});

test('settings of access control that cannot be used end the start', async (t) => {
  const file = path.join(directory(t, 'jwt'), 'key.pem');
  const {privateKey} = generateKeyPairSync('rsa', {modulusLength: 1024});
  const cases = [
    [{WEBRTC_ACCESS_TOKEN: 'a,,b'}, /^WEBRTC_ACCESS_TOKEN .* empty token/],
    [{WEBRTC_JWT_SECRET: 'short'}, /^WEBRTC_JWT_SECRET .* it has 5 bytes: use at least 32/],
    [{WEBRTC_JWT_PUBLIC_KEY: '/no/such/file'}, /^WEBRTC_JWT_PUBLIC_KEY .*No such file/],
    [{WEBRTC_JWT_PUBLIC_KEY: file}, /WEBRTC_JWT_PUBLIC_KEY .*, \/.*, cannot be used: it is a private key/, privateKey.export({type: 'pkcs8', format: 'pem'})],
    [{WEBRTC_JWT_PUBLIC_KEY: file}, /it is no public key/, generateKeyPairSync('rsa', {modulusLength: 1024}).publicKey.export({type: 'spki', format: 'pem'})],
    [{WEBRTC_JWT_PUBLIC_KEY: file}, /it is no public key/, generateKeyPairSync('ec', {namedCurve: 'P-384'}).publicKey.export({type: 'spki', format: 'pem'})],
    [{WEBRTC_JWKS_URL: 'http://example.org/keys'}, /^WEBRTC_JWKS_URL .* no https:\/\/ URL/],
    [{WEBRTC_AUTH_URL: 'example.org'}, /^WEBRTC_AUTH_URL .* no https:\/\/ URL/],
    [{WEBRTC_ACCESS_TOKEN: 'a', WEBRTC_JWT_SECRET: SECRET}, /^WEBRTC_ACCESS_TOKEN .* and WEBRTC_JWT_SECRET .* both set/],
    [{WEBRTC_JWT_AUDIENCE: 'a'}, /^WEBRTC_JWT_AUDIENCE .* has no effect/],
    [{WEBRTC_ACCESS_TOKEN: 'a', TOKEN: 'b'}, /^TOKEN .* both set/],
    [{WEBRTC_ACCESS_TOKEN: 'a', WEBRTC_PEER_TOKENS: 'optional'}, /^WEBRTC_PEER_TOKENS .*: unset it/],
  ];
  for (const [settings, why, pem] of cases) {
    if (pem) writeFileSync(file, pem);
    const [status, line] = await startInVain(settings);
    assert.equal(status, 2, line);
    assert.match(line, why);
  }
});
