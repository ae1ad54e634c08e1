/**
 * Presence alone: as long as a page is open, its peer is in the list.
 *
 *     import {heartbeatStart, heartbeatStop} from 'http://localhost:3000/heartbeat.js';
 *     await heartbeatStart({name: 'alice'});
 */

import {SignalingClient} from './client.js';

/** What was started, until it is stopped: `{client, stop}`. */
let started = null;

/**
 * Signs in, unless that was done already. Ready when the peer is in the list.
 *
 * With `shared: true` all tabs of a browser profile are one peer: one of them
 * is signed in, and when it is closed the next takes over. This takes a secure
 * context (https or localhost); elsewhere each tab is a peer of its own.
 *
 * @param {{name: string, url?: string|URL, shared?: boolean}} options By
 *   default the server is the one that this script came from.
 */
export async function heartbeatStart({name, url = new URL('.', import.meta.url), shared = false}) {
  started ??= shared && globalThis.navigator?.locks ? share(name, url) : own(name, url);
  await started.ready;
}

/** Signs out, unless that was done already. Of tabs that share a peer, the last does. */
export async function heartbeatStop() {
  const before = started;
  started = null;
  await before?.stop();
}

function own(name, url) {
  const client = new SignalingClient(url, {name});
  return {ready: client.connect(), stop: () => client.close()};
}

/** The tab that holds the lock is signed in. The others wait for the lock. */
function share(name, url) {
  const lock = `signal-http-heartbeat ${url} ${name}`;
  const stopping = new AbortController();
  let release = () => {};
  let client = null;
  const ready = new Promise((resolve, reject) => {
    const held = navigator.locks.request(lock, {signal: stopping.signal}, async () => {
      client = new SignalingClient(url, {name, storage: globalThis.localStorage});
      const released = new Promise((done) => { release = done; });
      await client.connect();
      resolve();
      await released;
    });
    held.catch(reject);
    // One that waits is present through the one that holds.
    navigator.locks.query().then(({held: locks}) => {
      if (locks.some((other) => other.name === lock) && !client) resolve();
    });
  });
  // Stopping one that waits is no failure of anybody's.
  ready.catch(() => {});
  const stop = async () => {
    if (!client) return stopping.abort();
    const {pending} = await navigator.locks.query();
    if (pending.some((other) => other.name === lock)) {
      client.leave();
    } else {
      await client.close();
    }
    release();
  };
  return {ready, stop};
}
