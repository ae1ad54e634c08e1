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
  const isOurs = (other) => other.name === lock;
  const stopping = new AbortController();
  const client = new SignalingClient(url, {name, storage: globalThis.localStorage});
  let release;
  const released = new Promise((resolve) => { release = resolve; });
  let connecting = null;
  const holds = new Promise((resolve, reject) => {
    const whenHeld = () => {
      connecting = client.connect();
      resolve();
      return connecting.then(() => released);
    };
    navigator.locks.request(lock, {signal: stopping.signal}, whenHeld).catch(reject);
  });
  // To be told by nobody: a tab that waited was stopped.
  holds.catch(() => {});
  // One that waits is present through the one that holds.
  const isHeld = async () => (await navigator.locks.query()).held.some(isOurs);
  const ready = isHeld().then((held) => connecting ?? (held ? null : holds.then(() => connecting)));
  const stop = async () => {
    if (!connecting && await isHeld()) return stopping.abort();
    // If nobody holds the lock, this tab is about to.
    await holds;
    const {pending} = await navigator.locks.query();
    if (pending.some(isOurs)) client.leave();
    else await client.close();
    release();
  };
  return {ready, stop};
}
