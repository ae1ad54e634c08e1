// A load of messages on several nodes, and what has to hold of it whatever happens meanwhile.

import assert from 'node:assert/strict';

import {inRoom, insist, signIn} from './nodes.js';
import {pause, until} from './support.js';

/** So many pairs of peers at a time. */
const PAIRS = 5;

/**
 * A load of messages between two peers, each request to any node. Ends with
 * what was accepted (by its number), what may have been, and what arrived.
 */
async function load(nodes, acknowledges) {
  const [from, to] = [await signIn(nodes, 'from'), await signIn(nodes, 'to')];
  const accepted = [];
  const doubtful = new Set();
  const arrived = [];
  let isOver = false;
  let isSent = false;
  const sending = (async () => {
    for (let number = 1; !isOver; number += 1) {
      const target = `/message?peer_id=${from}&to=${to}`;
      const options = {method: 'POST', body: String(number)};
      if (acknowledges) {
        // Sent again until it is answered, and delivered once.
        const {status, text} = await insist(nodes, `${target}&seq=${number}`, options);
        assert.equal(status, 200, text);
        accepted.push(number);
      } else {
        const status = await nodes.ask(target, options).then(async (answer) => {
          await answer.text();
          return answer.status;
        }).catch(() => 0);
        if (status === 200) accepted.push(number);
        else doubtful.add(number);
      }
      await pause(1);
    }
  })();
  const receiving = (async () => {
    let ack = 0;
    while (!isSent || !arrived.includes(accepted.at(-1))) {
      const query = acknowledges ? `&ack=${ack}` : '';
      const {status, headers, text} = await insist(nodes, `/wait?peer_id=${to}${query}`);
      assert.equal(status, 200, text);
      if (headers.get('pragma') !== from) continue;
      if (acknowledges) {
        const seq = Number(headers.get('x-message-seq'));
        if (seq <= ack) continue;
        assert.equal(seq, ack + 1, 'a gap');
        ack = seq;
      }
      arrived.push(Number(text));
    }
  })();
  return {
    accepted,
    stop: async () => {
      isOver = true;
      await sending;
      isSent = true;
      await receiving;
      return {accepted, doubtful, arrived};
    },
  };
}

/** What has to hold of a load, whatever happened. `repeats`, `lost`: at most so many. */
function nothingIsLost({accepted, doubtful, arrived}, acknowledges, {repeats, lost}) {
  assert.ok(accepted.length >= 100, `only ${accepted.length} messages`);
  if (acknowledges) {
    // Where Redis loses a message, it loses what was acknowledged, too, and that comes again.
    const once = arrived.filter((number, index) => arrived.indexOf(number) === index);
    assert.ok(arrived.length - once.length <= lost, `${arrived}`);
    assert.ok(accepted.length - once.length <= lost, `${arrived}`);
    assert.deepEqual(once, accepted.filter((number) => once.includes(number)));
    return;
  }
  const known = arrived.filter((number) => !doubtful.has(number));
  const once = known.filter((number, index) => number !== known[index - 1]);
  assert.deepEqual(once, accepted);
  assert.ok(known.length - once.length <= repeats, `${known.length - once.length} repeats`);
}

/**
 * Runs a load, and meanwhile what happens; it goes on afterwards. Of the messages of a pair, at
 * most `repeats` may come twice, without acknowledgements; and Redis may lose `lost`.
 */
export async function underLoad(nodes, acknowledges, happens, {repeats = 0, lost = 0} = {}) {
  // Some pairs are in the root list, others in rooms.
  const places = Array.from({length: PAIRS}, (_, pair) => (pair % 2 ? inRoom(nodes, `room${pair}`) : nodes));
  const loads = await Promise.all(places.map((place) => load(place, acknowledges)));
  const more = (count) => Promise.all(loads.map(({accepted}) => {
    const goal = accepted.length + count;
    return until(() => accepted.length >= goal);
  }));
  await more(50);
  await happens(more);
  await more(50);
  const ended = await Promise.all(loads.map((running) => running.stop()));
  for (const running of ended) nothingIsLost(running, acknowledges, {repeats, lost});
}
