// What the operator's listener shows to Prometheus.

import assert from 'node:assert/strict';
import {spawnSync} from 'node:child_process';
import {once} from 'node:events';
import net from 'node:net';
import {test} from 'node:test';

import WebSocket from 'ws';

import {
  atEnd, pollingPeer, readyClient, receiver, signIn, startNode, startRedis, until,
} from './support.js';

const OPERATOR = {WEBRTC_ADMIN_LISTEN: '127.0.0.1:0'};

/** The metrics of a server as `name{label="value"}` to number; checked by promtool. */
async function metricsOf(server) {
  const answer = await fetch(`${server.operator}/metrics`);
  assert.equal(answer.status, 200);
  assert.equal(answer.headers.get('content-type'), 'text/plain; version=0.0.4; charset=utf-8');
  const text = await answer.text();
  const checked = spawnSync('promtool', ['check', 'metrics'], {input: text, encoding: 'utf8'});
  assert.deepEqual([checked.status, checked.stdout, checked.stderr], [0, '', '']);
  const lines = text.split('\n').filter((line) => line && !line.startsWith('#'));
  return Object.fromEntries(lines.map((line) => {
    const [, name, value] = line.match(/^(.*) (\S+)$/);
    return [name, Number(value)];
  }));
}

/** What differs between two answers, but for the process. */
function difference(before, after) {
  const names = new Set([...Object.keys(before), ...Object.keys(after)]);
  const differing = [...names].filter((name) => name.startsWith('signal_') && before[name] !== after[name]);
  return Object.fromEntries(differing.map((name) => [name, (after[name] ?? 0) - (before[name] ?? 0)]));
}

test('what peers of all doors do is counted', async (t) => {
  const server = await startNode(t, OPERATOR);
  const before = await metricsOf(server);
  const poller = await pollingPeer(server, 'poller');
  const socket = new WebSocket(`${server.ws}/rooms/blue`);
  atEnd(t, () => socket.terminate());
  const [hello] = await once(socket, 'message');
  await readyClient(t, server, 'io');
  // It is told of the client of Socket.IO.
  await poller.wait();
  assert.equal(await poller.send(poller.id, 'x'), 200);
  assert.equal((await poller.wait()).text, 'x');
  assert.equal(await poller.send(77, 'x'), 404);
  socket.send(JSON.stringify({receiverId: JSON.parse(hello).peerId, x: 1}));
  await once(socket, 'message');
  const waiting = fetch(`${server.http}/wait?peer_id=${poller.id}`);
  await until(async () => (await metricsOf(server)).signal_suspended_waits === 1);
  const counted = difference(before, await metricsOf(server));
  for (const name of ['signal_buffered_bytes', 'signal_connections', 'signal_list_updates_total']) {
    assert.ok(counted[name] > 0, name);
    delete counted[name];
  }
  // How often a client of Socket.IO polls before it goes on through a WebSocket is its own affair.
  delete counted['signal_http_answers_total{class="2xx",door="socketio"}'];
  assert.deepEqual(counted, {
    'signal_admissions_total{result="admitted"}': 3,
    'signal_http_answers_total{class="1xx",door="socketio"}': 1,
    'signal_http_answers_total{class="1xx",door="websocket"}': 1,
    'signal_http_answers_total{class="2xx",door="http"}': 4,
    'signal_http_answers_total{class="4xx",door="http"}': 1,
    signal_messages_accepted_total: 2,
    signal_messages_delivered_total: 2,
    'signal_messages_refused_total{reason="unknown_receiver"}': 1,
    'signal_peers{door="http"}': 1,
    'signal_peers{door="socketio"}': 1,
    'signal_peers{door="websocket"}': 1,
    signal_rooms: 1,
    signal_sign_ins_total: 3,
    signal_sockets: 2,
    signal_suspended_waits: 1,
  });

  await fetch(`${server.http}/sign_out?peer_id=${poller.id}`);
  await (await waiting).text();
  socket.close();
  await until(async () => (await metricsOf(server)).signal_sockets === 1);
  const after = await metricsOf(server);
  assert.equal(after['signal_removals_total{reason="signed_out"}'], 1);
  assert.equal(after['signal_removals_total{reason="closed"}'], 1);
  assert.equal(after.signal_suspended_waits, 0);
  assert.equal(after.signal_rooms, 0);
});

test('clients that are not admitted are counted by the reason', async (t) => {
  const server = await startNode(t, {...OPERATOR, WEBRTC_ACCESS_TOKEN: 'x', WEBRTC_SIGN_INS_PER_IP: '3/h'});
  const come = async (token) => (await fetch(`${server.http}/sign_in?peer_name=a&access_token=${token}`)).status;
  assert.deepEqual([await come('x'), await come('y'), await come(''), await come('x')], [200, 401, 401, 429]);
  const {
    'signal_admissions_total{result="admitted"}': admitted, 'signal_admissions_total{result="invalid"}': invalid,
    'signal_admissions_total{result="too_often"}': tooOften,
  } = await metricsOf(server);
  assert.deepEqual([admitted, invalid, tooOften], [1, 2, 1]);
});

test('what does not even reach the list is counted too', async (t) => {
  const server = await startNode(t, {...OPERATOR, WEBRTC_MAX_MESSAGE_BYTES: '100', WEBRTC_MAX_CONNECTIONS: '2'});
  const {id} = await signIn(server, 'a');
  const body = 'x'.repeat(101);
  assert.equal((await fetch(`${server.http}/message?peer_id=${id}&to=${id}`, {method: 'POST', body})).status, 413);
  const sockets = [net.connect(server.port, '127.0.0.1'), net.connect(server.port, '127.0.0.1')];
  sockets.forEach((socket) => { socket.on('error', () => {}); atEnd(t, () => socket.destroy()); });
  await until(async () => (await metricsOf(server))['signal_connections_refused_total{reason="full"}'] > 0);
  assert.equal((await metricsOf(server))['signal_messages_refused_total{reason="too_large"}'], 1);
});

test('no name, room or address of a client is a label', async (t) => {
  const server = await startNode(t, OPERATOR);
  await fetch(`${server.http}/rooms/hidden-room/sign_in?peer_name=hidden-name`);
  await fetch(`${server.http}/hidden-path`);
  const names = Object.keys(await metricsOf(server)).join('\n');
  assert.doesNotMatch(names, /hidden|127\.0\.0\.1/);
});

test('the operator\'s token is needed for metrics too, and pages get none', async (t) => {
  const server = await startNode(t, {...OPERATOR, WEBRTC_ADMIN_TOKEN: 'secret'});
  const status = async (headers) => (await fetch(`${server.operator}/metrics`, {headers})).status;
  assert.equal(await status({}), 401);
  assert.equal(await status({Authorization: 'Bearer secret'}), 200);
  assert.equal(await status({Authorization: 'Bearer secret', Origin: 'http://localhost'}), 403);
  assert.equal((await fetch(`${server.http}/metrics`)).status, 404);
});

test('calls of Redis are counted, and every node shows the peers of all', async (t) => {
  const redis = await startRedis(t);
  const settings = {...OPERATOR, WEBRTC_REDIS_URL: redis.url, WEBRTC_REDIS_SHARDS: '2'};
  const [here, there] = [await startNode(t, settings), await startNode(t, settings)];
  await signIn(here, 'a');
  const of = await metricsOf(there);
  assert.equal(of['signal_peers{door="http"}'], 1);
  assert.equal(of.signal_sign_ins_total, 0);
  assert.equal((await metricsOf(here)).signal_sign_ins_total, 1);
  assert.deepEqual([of.signal_redis_shards, of.signal_redis_shards_reachable, of.signal_redis_failures_total], [2, 2, 0]);
  assert.ok(of.signal_redis_calls_total > 0 && of.signal_redis_call_seconds_total > 0);

  redis.process.kill('SIGSTOP');
  atEnd(t, () => redis.process.kill('SIGCONT'));
  const away = await metricsOf(there);
  assert.equal(away.signal_redis_shards_reachable, 0);
  assert.ok(away.signal_redis_failures_total > 0);
  assert.equal(away['signal_peers{door="http"}'], undefined, 'no number is better than a wrong one');
});

test('the webhook\'s events are counted', async (t) => {
  let isDown = true;
  const hook = await receiver(t, (response) => response.writeHead(isDown ? 500 : 200).end());
  const server = await startNode(t, {...OPERATOR, WEBRTC_WEBHOOK_URL: hook.url});
  await signIn(server, 'a');
  await signIn(server, 'b');
  await until(async () => {
    const {signal_webhook_failures_total: failures, signal_webhook_events_behind: behind} = await metricsOf(server);
    return failures >= 2 && behind === 2;
  });
  isDown = false;
  await until(async () => (await metricsOf(server)).signal_webhook_events_sent_total === 2);
  const {signal_webhook_events_behind: behind, signal_webhook_events_failed_total: failed} = await metricsOf(server);
  assert.deepEqual([behind, failed], [0, 0]);
});
