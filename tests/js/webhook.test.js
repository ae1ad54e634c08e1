// The webhook: what it is sent, and receivers that fail.

import assert from 'node:assert/strict';
import {createHmac} from 'node:crypto';
import {once} from 'node:events';
import {test} from 'node:test';

import {ofOneProcess, pollingPeer, receiver, startServer, until, signIn, told} from './support.js';

test('the webhook is sent each event in order, signed', ofOneProcess, async (t) => {
  const hook = await receiver(t, (response) => response.end());
  const server = await startServer(t, {WEBRTC_WEBHOOK_URL: hook.url, WEBRTC_WEBHOOK_SECRET: 'key'});
  for (let number = 0; number < 20; number += 1) {
    const {id} = await signIn(server, `peer${number}`);
    await fetch(`${server.http}/sign_out?peer_id=${id}`);
  }
  const requests = await hook.received.take(40);
  const {sequence: first} = JSON.parse(requests[0].body);
  requests.forEach(({body, headers, method}, index) => {
    const event = JSON.parse(body);
    const id = Math.floor(index / 2) + 1;
    assert.deepEqual([event.sequence, event.peer.id, event.reason],
      [first + index, id, index % 2 ? 'signed_out' : undefined]);
    assert.equal(method, 'POST');
    assert.equal(headers['content-type'], 'application/json');
    const signature = createHmac('sha256', 'key').update(body).digest('hex');
    assert.equal(headers['x-signature-256'], `sha256=${signature}`);
  });
  // What happens last is sent too.
  await signIn(server, 'last');
  await hook.received.next();
  server.process.kill('SIGTERM');
  assert.equal(JSON.parse((await hook.received.next()).body).reason, 'shutdown');
});

test('an event that the webhook does not take is sent again, before the next', ofOneProcess, async (t) => {
  let tries = 0;
  const taken = [];
  const hook = await receiver(t, (response, event) => {
    tries += 1;
    if (tries === 1) response.socket.destroy();
    else if (tries === 2) response.writeHead(500).end();
    else if (tries === 3) response.writeHead(302, {Location: '/elsewhere'}).end();
    else {
      taken.push(event.sequence);
      response.writeHead(204).end();
    }
  });
  const server = await startServer(t, {WEBRTC_WEBHOOK_URL: hook.url});
  await signIn(server, 'a');
  await signIn(server, 'b');
  const requests = await hook.received.take(5);
  assert.deepEqual(requests.map(({body}) => JSON.parse(body).sequence - taken[0]), [0, 0, 0, 0, 1]);
  assert.equal(requests[0].headers['x-signature-256'], undefined);
  await until(() => taken.length === 2);
  await until(() => server.log.some(({message}) => /accepts events again/.test(message)));
  assert.ok(!JSON.stringify(server.log).includes('hidden'), 'the URL may hold a secret');
});

test('a webhook that never answers does no harm', ofOneProcess, async (t) => {
  const hook = await receiver(t, () => {});
  const server = await startServer(t, {WEBRTC_WEBHOOK_URL: hook.url});
  await signIn(server, 'first');
  await hook.received.next();
  const before = server.resident();
  const cycle = async () => {
    for (let number = 0; number < 1250; number += 1) {
      const {id} = await signIn(server, 'x');
      await fetch(`${server.http}/sign_out?peer_id=${id}`);
    }
  };
  await Promise.all([cycle(), cycle(), cycle(), cycle()]);
  assert.ok(server.resident() - before < 16 * 1024, `${server.resident() - before} KiB`);
  const alice = await pollingPeer(server, 'alice');
  const bob = await pollingPeer(server, 'bob');
  assert.equal(await alice.send(bob.id, 'hi'), 200);
  assert.equal((await bob.message()).text, 'hi');
  const stopped = once(server.process, 'exit');
  server.process.kill('SIGTERM');
  assert.deepEqual(await stopped, [0, null]);
  // Nothing is lost in silence: all that came after the first, and that.
  const {events} = server.log.find(({message}) => /has not accepted/.test(message));
  assert.equal(events, 1 + 2 * 5000 + 2 + 3);
});
