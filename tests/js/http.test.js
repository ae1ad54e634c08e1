// The long poll's promises, which hold for one process and for many nodes.

import assert from 'node:assert/strict';
import net from 'node:net';
import {test} from 'node:test';

import {atEnd, ofOneProcess, startServer, until} from './support.js';

/** Asks a server; each request may come to another node. */
function asking(server) {
  return async (target, options) => {
    const answer = await fetch(`${server.http}${target}`, options);
    const {headers} = answer;
    return {
      status: answer.status, from: Number(headers.get('pragma')), headers,
      text: await answer.text(),
    };
  };
}

/** Peers that are signed in, and have heard of each other. */
async function peers(server, ...queries) {
  const ask = asking(server);
  const ids = [];
  for (const query of queries) {
    const {status, from} = await ask(`/sign_in?${query}`);
    assert.equal(status, 200);
    ids.push(from);
  }
  return {
    ask,
    ids,
    wait: (id, query = '') => ask(`/wait?peer_id=${id}${query}`),
    send: (from, to, body, query = '') => {
      return ask(`/message?peer_id=${from}&to=${to}${query}`, {method: 'POST', body});
    },
  };
}

test('a sign-in is answered with the list, the own line first and the newest next', async (t) => {
  const ask = asking(await startServer(t));
  const names = ['alice', 'b%2Cob%0A', 'c+d'];
  const shown = ['alice', 'b_ob_', 'c d'];
  for (const [index, name] of names.entries()) {
    const {from, text} = await ask(`/sign_in?peer_name=${name}`);
    assert.equal(from, index + 1);
    const lines = text.trimEnd().split('\n').map((line) => line.replace(/,[01]$/, ''));
    const expected = shown.slice(0, index + 1).map((its, at) => `${its},${at + 1}`).reverse();
    assert.deepEqual(lines, expected);
  }
});

test('messages arrive in order and untouched, whatever they are', async (t) => {
  const {ids: [a, b], wait, send} = await peers(await startServer(t), 'peer_name=a', 'peer_name=b');
  assert.equal((await wait(a)).from, a);
  const bodies = ['', '{"a": 1 }', 'é🦀\r\n', 'x'.repeat(100_000), '0', 'd 1 2\n'];
  for (const body of bodies) assert.equal((await send(b, a, body)).status, 200);
  for (const body of bodies) {
    const {from, text, headers} = await wait(a);
    assert.deepEqual([from, text], [b, body]);
    assert.equal(headers.get('content-type'), 'text/plain; charset=utf-8');
  }
  assert.equal((await send(a, a, 'to myself')).status, 200);
  assert.deepEqual(await wait(a).then(({from, text}) => [from, text]), [a, 'to myself']);
});

test('a message never comes before the news of its sender', async (t) => {
  const server = await startServer(t);
  const {ids: [a], wait, send, ask} = await peers(server, 'peer_name=a');
  for (let number = 0; number < 20; number += 1) {
    const {from: newcomer} = await ask(`/sign_in?peer_name=n${number}`);
    assert.equal((await send(newcomer, a, 'hi')).status, 200);
    const first = await wait(a);
    assert.equal(first.from, a, 'the message came first');
    assert.match(first.text, new RegExp(`^n${number},${newcomer},1\n`));
    let news = await wait(a);
    // The list may have been told once more.
    while (news.from === a) news = await wait(a);
    assert.deepEqual([news.from, news.text], [newcomer, 'hi']);
  }
});

test('a parked wait is given what comes, and the newest of two', async (t) => {
  const {ids: [a, b], wait, send} = await peers(await startServer(t), 'peer_name=a', 'peer_name=b');
  await wait(a);
  const older = wait(a, '&limit=3000');
  await until(async () => (await send(a, a, '')).status === 200);
  assert.equal((await older).text, '');
  const outdated = wait(a, '&limit=2000');
  const newer = new Promise((resolve) => { setTimeout(() => resolve(wait(a)), 300); });
  await new Promise((resolve) => { setTimeout(resolve, 600); });
  assert.equal((await send(b, a, 'hi')).status, 200);
  assert.equal((await newer).text, 'hi');
  assert.equal((await outdated).from, a);
});

test('peers hear of joins and leaves, each in its own way', async (t) => {
  const server = await startServer(t);
  const {ids: [listed, bare], wait, ask} = await peers(server, 'peer_name=listed', 'bare');
  const {from: c} = await ask('/sign_in?peer_name=c');
  await ask(`/sign_out?peer_id=${c}`);
  const lines = [];
  while (lines.length < 2) lines.push((await wait(bare)).text);
  assert.deepEqual(lines, [`c,${c},1\n`, `c,${c},0\n`]);
  // Who has not asked meanwhile is told how it is now.
  await until(async () => {
    const {text} = await wait(listed, '&limit=100');
    return text.replace(/,[01]\n/g, '\n') === `bare,${bare}\nlisted,${listed}\n`;
  });
  assert.equal((await wait(bare, '&limit=50')).text, '\n');
});

test('a sign-out ends the waits of the peer at once, and its id is unknown after it', async (t) => {
  const {ids: [a, b], wait, send, ask} = await peers(await startServer(t), 'peer_name=a', 'peer_name=b');
  await wait(a);
  const [one, two] = [wait(a), wait(a)];
  await new Promise((resolve) => { setTimeout(resolve, 300); });
  assert.equal((await ask(`/sign_out?peer_id=${a}`)).status, 200);
  for (const end of [await one, await two]) {
    assert.deepEqual([end.status, end.from], [200, a]);
    assert.match(end.text, new RegExp(`^b,${b},[01]\n$`));
  }
  assert.equal((await ask(`/sign_out?peer_id=${a}`)).status, 200);
  assert.equal((await send(b, a, 'x')).status, 404);
  assert.equal((await send(a, b, 'x')).status, 404);
  assert.equal((await ask(`/heartbeat?peer_id=${a}`)).status, 404);
});

test('a peer that is removed by others, and waits, is told so', async (t) => {
  const server = await startServer(t, {WEBRTC_ADMIN_LISTEN: '127.0.0.1:0'});
  const {ids: [a], wait} = await peers(server, 'peer_name=a');
  const waiting = wait(a);
  await new Promise((resolve) => { setTimeout(resolve, 300); });
  await fetch(`${server.operator}/peers/${a}`, {method: 'DELETE'});
  assert.equal((await waiting).status, 404);
});

/** A wait whose connection can be closed. */
function openWait(server, id) {
  const giveUp = new AbortController();
  const {signal} = giveUp;
  const answered = fetch(`${server.http}/wait?peer_id=${id}`, {signal}).then((answer) => answer.text());
  answered.catch(() => {});
  return {answered, giveUp: () => giveUp.abort()};
}

test('a page that says goodbye is gone when its grace is over, in whatever order its last requests come', async (t) => {
  const server = await startServer(t);
  const {ids: [watcher], ask, wait, send} = await peers(server, 'peer_name=watcher');
  const goodbye = (id) => ask(`/sign_out?peer_id=${id}&grace=300`, {method: 'POST'});
  const orders = {
    'its poll stays open': async (id) => { openWait(server, id); await goodbye(id); },
    'its poll ends later': async (id) => {
      const wait = openWait(server, id);
      await goodbye(id);
      wait.giveUp();
    },
    'its poll ends before': async (id) => {
      openWait(server, id).giveUp();
      await goodbye(id);
    },
    'its poll comes later and ends': async (id) => {
      await goodbye(id);
      openWait(server, id).giveUp();
    },
    'it polls once more': async (id) => {
      const wait = openWait(server, id);
      await goodbye(id);
      await wait.answered;
      openWait(server, id).giveUp();
    },
    'its heartbeat comes later': async (id) => {
      await Promise.all([goodbye(id), ask(`/heartbeat?peer_id=${id}`)]);
    },
    'its poll comes later and is answered': async (id) => {
      await send(watcher, id, 'last');
      await goodbye(id);
      assert.equal((await wait(id)).text, 'last');
    },
    'its poll comes later and stays open': async (id) => { await goodbye(id); openWait(server, id); },
  };
  for (const [order, happens] of Object.entries(orders)) {
    const {from: id} = await ask(`/sign_in?peer_name=${encodeURIComponent(order)}`);
    await happens(id);
    await until(async () => !(await wait(watcher, '&limit=50')).text.includes(`,${id},`));
  }
});

test('a page that is back when its goodbye comes stays', async (t) => {
  const server = await startServer(t);
  const {ids: [id], ask, wait} = await peers(server, 'peer_name=a');
  let isOver = false;
  const polling = (async () => {
    while (!isOver) assert.equal((await wait(id, '&limit=2000')).status, 200);
  })();
  // Long enough for a client on a busy machine to wait again.
  await ask(`/sign_out?peer_id=${id}&grace=2500`, {method: 'POST'});
  // Beyond the grace and what may follow it.
  await new Promise((resolve) => { setTimeout(resolve, 5500); });
  isOver = true;
  await polling;
  assert.equal((await ask(`/heartbeat?peer_id=${id}`)).status, 200);
});

test('a forged number does not lock a peer out that shows its token', async (t) => {
  const {ids: [a], ask, send} = await peers(await startServer(t), 'peer_name=a');
  assert.equal((await send(a, a, 'x', '&seq=18446744073709551615')).status, 200);
  const b = await ask('/sign_in?peer_name=b');
  assert.equal((await send(b.from, a, 'x', '&seq=18446744073709551615')).status, 200);
  const token = `&peer_token=${b.headers.get('x-peer-token')}`;
  assert.equal((await send(b.from, a, 'own', `&seq=1${token}`)).status, 200);
  assert.equal((await send(b.from, a, 'forged', '&seq=2')).status, 403);
});

test('sign-ins whose lists are not read hold little more than one list', ofOneProcess, async (t) => {
  const server = await startServer(t, {WEBRTC_HEARTBEAT_MS: '600000'});
  const name = 'n'.repeat(500);
  for (let number = 0; number < 4000; number += 50) {
    await Promise.all(Array.from({length: 50}, (_, more) => fetch(`${server.http}/sign_in?peer_name=${name}${number + more}`)));
  }
  const before = server.resident();
  // Two megabytes each, of which the kernel takes some.
  const sockets = Array.from({length: 100}, (_, number) => {
    const socket = net.connect({port: server.port, host: '127.0.0.1'});
    atEnd(t, () => socket.destroy());
    socket.write(`GET /sign_in?peer_name=silent${number} HTTP/1.1\r\nHost: x\r\n\r\n`);
    return socket.pause();
  });
  await until(async () => (await server.peers()).length === 4100);
  const grown = server.resident() - before;
  assert.ok(grown < 40 * 1024, `${grown} KiB more for ${sockets.length} lists`);
});

test('a full mailbox refuses, and loses nothing', async (t) => {
  const server = await startServer(t, {WEBRTC_MAX_MESSAGE_BYTES: '100', WEBRTC_MAX_PENDING_BYTES: '1024'});
  const {ids: [a, b], wait, send} = await peers(server, 'peer_name=a', 'peer_name=b');
  const statuses = [];
  for (let number = 0; number < 5; number += 1) statuses.push((await send(b, a, String(number))).status);
  assert.deepEqual(statuses, [200, 200, 200, 503, 503]);
  assert.equal((await send(b, a, 'x'.repeat(101))).status, 413);
  const got = [];
  while (got.length < 3) {
    const {from, text} = await wait(a);
    if (from === b) got.push(text);
  }
  assert.deepEqual(got, ['0', '1', '2']);
  await until(async () => (await send(b, a, '3')).status === 200);
  assert.equal((await wait(a)).text, '3');
});

test('a silent peer is removed, and one that sends heartbeats or waits stays', async (t) => {
  const server = await startServer(t, {
    WEBRTC_HEARTBEAT_MS: '1000', WEBRTC_HEARTBEAT_GC_MS: '100', WEBRTC_WAIT_MS: '0',
  });
  const {ids: [beats, waits, silent], wait, ask} = await peers(
    server, 'peer_name=beats', 'peer_name=waits', 'peer_name=silent');
  // The last may meet the end of the server.
  const beating = setInterval(() => ask(`/heartbeat?peer_id=${beats}`).catch(() => {}), 200);
  atEnd(t, () => clearInterval(beating));
  const names = [];
  await until(async () => {
    const {text} = await wait(waits);
    names.push(text);
    return !text.includes('silent');
  });
  assert.match(names.at(-1), /waits,/);
  assert.match(names.at(-1), /beats,/);
  assert.equal((await ask(`/heartbeat?peer_id=${silent}`)).status, 404);
});

test('a full server refuses sign-ins until somebody leaves', async (t) => {
  const server = await startServer(t, {WEBRTC_MAX_PEERS: '2'});
  const {ids: [a], ask} = await peers(server, 'peer_name=a', 'peer_name=b');
  const {status, headers} = await ask('/sign_in?peer_name=c');
  assert.deepEqual([status, headers.get('retry-after')], [503, '1']);
  await ask(`/sign_out?peer_id=${a}`);
  assert.equal((await ask('/sign_in?peer_name=c')).status, 200);
});

test('a message that is sent again with its number is delivered once', async (t) => {
  const {ids: [a, b], wait, send} = await peers(await startServer(t), 'peer_name=a', 'peer_name=b');
  await wait(a);
  for (const [seq, status] of [[1, 200], [1, 200], [2, 200], [1, 409], [2, 200], [0, 400]]) {
    assert.equal((await send(b, a, String(seq), `&seq=${seq}`)).status, status, `${seq}`);
  }
  assert.equal((await wait(a)).text, '1');
  assert.equal((await wait(a)).text, '2');
  assert.equal((await wait(a, '&limit=50')).from, a);
});

test('a message comes again until it is acknowledged', async (t) => {
  const {ids: [a, b], wait, send} = await peers(await startServer(t), 'peer_name=a', 'peer_name=b');
  await wait(a);
  await send(b, a, 'one');
  await send(b, a, 'two');
  for (const [ack, expected, seq] of [[0, 'one', 1], [0, 'one', 1], [1, 'two', 2], [1, 'two', 2]]) {
    const {text, headers} = await wait(a, `&ack=${ack}`);
    assert.deepEqual([text, Number(headers.get('x-message-seq'))], [expected, seq], `ack ${ack}`);
  }
  assert.equal((await wait(a, '&ack=2&limit=50')).from, a);
  // Without it, what is given is taken off.
  await send(b, a, 'three');
  assert.equal((await wait(a)).text, 'three');
  assert.equal((await wait(a, '&limit=50')).from, a);
});

test('to acknowledge what was never given loses nothing', async (t) => {
  const {ids: [a, b], wait, send} = await peers(await startServer(t), 'peer_name=a', 'peer_name=b');
  await wait(a);
  for (const ack of ['99', '9007199254740992', '9007199254740993', '18446744073709551615']) {
    await send(b, a, `for ${ack}`);
    assert.equal((await wait(a, `&ack=${ack}`)).text, `for ${ack}`);
    // Without it, what is given is taken off.
    assert.equal((await wait(a)).text, `for ${ack}`);
  }
});

test('even the shortest wait is given a message that is there', async (t) => {
  const {ids: [a, b], wait, send} = await peers(await startServer(t), 'peer_name=a', 'peer_name=b');
  await wait(a);
  await send(b, a, 'hi');
  assert.equal((await wait(a, '&limit=0')).text, 'hi');
  assert.equal((await wait(a, '&limit=0')).from, a);
});

test('an error on a wait comes after a pause, and is one line', async (t) => {
  const ask = asking(await startServer(t));
  for (const [target, status] of [['/wait?peer_id=77', 404], ['/wait', 400], ['/wait?peer_id=x', 400]]) {
    const answer = await ask(target);
    assert.equal(answer.status, status);
    assert.match(answer.text, /^[^\n]+\n$/);
  }
});

test('a sender may number its messages as high as it likes', async (t) => {
  const {ids: [a, b], wait, send} = await peers(await startServer(t), 'peer_name=a', 'peer_name=b');
  // A double cannot tell the second from the first.
  const numbers = ['9', '10', '9007199254740992', '9007199254740993', '18446744073709551615'];
  for (const number of numbers) assert.equal((await send(a, b, number, `&seq=${number}`)).status, 200);
  assert.equal((await send(a, b, 'late', '&seq=9007199254740993')).status, 409);
  const texts = [];
  while (texts.length < numbers.length) {
    const {from, text} = await wait(b);
    if (from === a) texts.push(text);
  }
  assert.deepEqual(texts, numbers);
});
