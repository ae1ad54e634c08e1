// What holds of many nodes with one list, whichever Redis it is in: one server, one behind
// Sentinels, or a cluster.

import assert from 'node:assert/strict';
import {once} from 'node:events';
import net from 'node:net';
import {test} from 'node:test';

import {underLoad} from './load.js';
import {inAnotherTime, startNodes} from './nodes.js';
import {eventStream, pause, pollingPeer, startNode, until, webSocketPeer} from './support.js';

/** What fails while messages are on their way. */
const faults = {
  'a node is killed': {
    count: 3,
    repeats: 2,
    happens: async ({nodes, more}) => {
      await nodes.end(0, 'SIGKILL');
      await more(50);
      await nodes.end(0, 'SIGKILL');
    },
  },
  'all nodes are restarted one after the other': {
    happens: async ({nodes, more}) => {
      for (let number = 0; number < 2; number += 1) {
        await nodes.start();
        await nodes.end(0, 'SIGTERM');
        await more(50);
      }
    },
  },
  'Redis is restarted': {
    happens: async ({redis}) => {
      for (const signal of ['SIGTERM', 'SIGKILL']) {
        for (const server of await redis.masters()) {
          await server.kill(signal);
          await server.restart();
        }
      }
    },
  },
  'Redis stands still for a while, and no request is refused': {
    isUnnoticed: true,
    happens: async ({redis}) => {
      const masters = await redis.masters();
      for (const server of masters) server.process.kill('SIGSTOP');
      await pause(redis.stillness);
      for (const server of masters) server.process.kill('SIGCONT');
    },
  },
  'Redis ends all connections': {
    happens: async ({redis, more}) => {
      for (let number = 0; number < 5; number += 1) {
        for (const server of await redis.masters()) {
          for (const type of ['normal', 'pubsub']) await server.cli('client', 'kill', 'type', type);
        }
        await more(20);
      }
    },
  },
};

/** The requests that nodes refuse with a 503 from now on. */
function notingRefusals(nodes) {
  const refused = [];
  const {ask} = nodes;
  nodes.ask = async (...request) => {
    const answer = await ask(...request);
    if (answer.status === 503) refused.push(request);
    return answer;
  };
  return refused;
}

/** A client that leaves some turns after its wait began: anywhere on the way to Redis and back. */
export async function abandonWait(node, id, turns) {
  const client = net.connect(node.port, '127.0.0.1');
  client.on('error', () => {});
  await once(client, 'connect');
  client.write(`GET /wait?peer_id=${id} HTTP/1.1\r\nHost: x\r\n\r\n`);
  for (let turn = 0; turn < turns; turn += 1) await new Promise(setImmediate);
  client.resetAndDestroy();
  await once(client, 'close');
}

/**
 * Makes the tests. `startRedis` has the URL of what it started, what else the settings of a node
 * have to say, its masters, and how many ms these may stand still and not be replaced.
 * `acknowledging`: with which clients nothing may be lost.
 */
export function testManyNodes(where, startRedis, acknowledging) {
  const start = async (t, count, settings) => {
    const redis = await startRedis(t);
    const nodes = await startNodes(t, redis.url, count, {...redis.settings, ...settings});
    return {redis, nodes};
  };

  for (const acknowledges of acknowledging) {
    const how = acknowledges ? 'with acknowledgements' : 'without acknowledgements';
    for (const [what, {happens, count, repeats, isUnnoticed}] of Object.entries(faults)) {
      test(`${where} ${how}, nothing is lost when ${what}`, async (t) => {
        const {redis, nodes} = await start(t, count);
        const refused = notingRefusals(nodes);
        await underLoad(nodes, acknowledges, (more) => happens({redis, nodes, more}), {repeats});
        if (isUnnoticed) assert.deepEqual(refused, []);
      });
    }
  }

  test(`${where} a dead node's sockets are gone for the others, and a stopped one's at once`, async (t) => {
    const {nodes} = await start(t, 3);
    const [killed, stopped, left] = nodes.all;
    await webSocketPeer(t, killed, '?peer_name=killed');
    await webSocketPeer(t, stopped, '?peer_name=stopped');
    const watcher = await webSocketPeer(t, left, '?peer_name=watcher&events=true');
    const names = async () => (await left.peers()).map(({name}) => name);
    await until(async () => (await names()).length === 3);
    stopped.process.kill('SIGTERM');
    await until(async () => (await names()).length === 2);
    killed.process.kill('SIGKILL');
    await until(async () => (await names()).length === 1);
    assert.deepEqual(await names(), ['watcher']);
    for (;;) {
      const {peers} = JSON.parse(await watcher.frames.next());
      if (peers.length === 1) break;
    }
  });

  test(`${where} each removal is told once, also by nodes whose clocks differ by a minute`, async (t) => {
    const redis = await startRedis(t);
    const settings = {
      ...redis.settings, WEBRTC_REDIS_URL: redis.url, WEBRTC_ADMIN_LISTEN: '127.0.0.1:0',
      WEBRTC_HEARTBEAT_MS: '500', WEBRTC_HEARTBEAT_GC_MS: '50',
    };
    const nodes = [
      await startNode(t, settings),
      await startNode(t, {...settings, ...inAnotherTime('+60s')}),
    ];
    const times = nodes.map(({log}) => Date.parse(log.find(({address}) => address).timestamp));
    assert.ok(times[1] - times[0] > 50_000, 'the clocks do not differ');
    const told = await Promise.all(nodes.map((node) => eventStream(t, node)));
    const count = 200;
    for (let number = 0; number < count; number += 1) {
      await (await fetch(`${nodes[number % 2].http}/sign_in?peer_name=x`)).text();
    }
    for (const events of told) {
      const all = (await events.take(2 * count)).map(({data}) => data);
      const removed = all.filter(({event}) => event === 'disconnect');
      assert.equal(new Set(removed.map(({peer}) => peer.id)).size, count);
      assert.equal(removed.length, count);
      assert.ok(removed.every(({reason}) => reason === 'timed_out'));
      all.forEach(({sequence}, index) => assert.equal(sequence, all[0].sequence + index));
    }
  });

  test(`${where} a client that leaves while its wait begins leaves nothing behind`, async (t) => {
    const {nodes: {all: [a, b]}} = await start(t);
    const peer = await pollingPeer(a, 'peer');
    let last = -1;
    for (let number = 0; number < 40; number += 1) {
      assert.equal(await peer.send(peer.id, String(number)), 200);
      await abandonWait(a, peer.id, number % 8);
      // What it was given and did not get is given to it at the other node,
      // unless it was written already. Where the abandoned wait reached Redis late, it has
      // replaced the other one, and the message comes at the next.
      const answer = await fetch(`${b.http}/wait?peer_id=${peer.id}&limit=3000`);
      const text = await answer.text();
      if (text.startsWith('peer,')) continue;
      assert.ok(last < Number(text) && Number(text) <= number, `${text} after ${last}`);
      last = Number(text);
    }
    assert.ok(last >= 0, 'all of them were written');
    // Nobody is left there.
    const {status} = await fetch(`${b.http}/heartbeat?peer_id=${peer.id}`);
    assert.equal(status, 200);
  });
}
