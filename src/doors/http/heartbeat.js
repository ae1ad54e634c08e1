/**
 * Presence alone: as long as a page is open, its peer is in the list.
 *
 *     import {heartbeatStart, heartbeatStop} from 'http://localhost:3000/heartbeat.js';
 *     await heartbeatStart({name: 'alice'});
 */

import {SignalingClient} from './client.js';

/** A tab that takes over, and is refused, tries again after this pause. */
const RETRY_PAUSE_MS = 10_000;

/** What was started, until it is stopped: `{ready, stop, options}`. */
let started = null;

/**
 * Signs in, unless that was done already. Ready when the peer is in the list.
 *
 * With `shared: true` all tabs of a browser profile are one peer: one of them
 * is signed in, and when it is closed the next takes over. This takes a secure
 * context (https or localhost), and storage; elsewhere each tab is a peer of its own.
 *
 * @param {{name: string, url?: string|URL, shared?: boolean}} options By
 *   default the server is the one that this script came from.
 */
export async function heartbeatStart({name, url = new URL('.', import.meta.url), shared = false}) {
  const options = JSON.stringify([name, String(url), shared]);
  if (started && started.options !== options) {
    throw new TypeError('another heartbeat is started: call heartbeatStop() first');
  }
  const storage = shared ? sharedStorage() : null;
  const mine = started ??= {...(storage ? share(name, url, storage) : own(name, url)), options};
  try {
    await mine.ready;
  } catch (error) {
    // What is wrong now may be mended before the next call.
    if (started === mine) started = null;
    await mine.stop();
    throw error;
  }
}

/** Signs out, unless that was done already. Of tabs that share a peer, the last does. */
export async function heartbeatStop() {
  const before = started;
  started = null;
  await before?.stop();
}

/** What all tabs can read, if they can take turns at it; else null. */
function sharedStorage() {
  try {
    return (navigator.locks && localStorage) ?? null;
  } catch {
    // Forbidden to this page.
    return null;
  }
}

function own(name, url) {
  const client = new SignalingClient(url, {name});
  return {ready: client.connect(), stop: () => client.close()};
}

/**
 * Each tab shares a lock as long as it is there: who can have that lock alone
 * is the last. Of those that are there, the one that holds another lock is
 * signed in, and the others wait for it.
 */
function share(name, url, storage) {
  const {locks} = navigator;
  const tabs = `signal-http-heartbeat ${url} ${name}`;
  const signedIn = `${tabs} signed in`;
  const isOurs = (other) => other.name === signedIn;
  // What one tab stores as it goes may come late to the next.
  const client = new SignalingClient(url, {name, storage, shared: true});
  const stopping = new AbortController();
  const {signal} = stopping;
  const stopped = new Promise((resolve) => { signal.addEventListener('abort', resolve); });
  /** The sign-in of this tab, if it is its turn. */
  let connecting = null;
  let turn = null;
  /** Nobody is told that the sign-in of a tab which takes over was refused. */
  const takeOver = async () => {
    while (!signal.aborted) {
      try {
        return await client.connect();
      } catch {
        const pause = new Promise((resolve) => { setTimeout(resolve, RETRY_PAUSE_MS); });
        await Promise.race([stopped, pause]);
      }
    }
    return undefined;
  };
  const begin = async () => {
    const held = (await locks.query()).held.some(isOurs);
    const mine = new Promise((resolve, reject) => {
      turn = locks.request(signedIn, {signal}, async () => {
        connecting = held ? takeOver() : client.connect();
        resolve(connecting);
        await connecting;
        await stopped;
        // Before the next comes back as the peer.
        client.leave();
      });
      turn.catch(reject);
    });
    // One that waits is there through the one that is signed in.
    mine.catch(() => {});
    return held ? null : mine;
  };
  let over;
  const ready = new Promise((resolve, reject) => {
    over = locks.request(tabs, {mode: 'shared', signal}, async () => {
      const begun = begin();
      begun.then(resolve, reject);
      await begun.catch(() => {});
      await stopped;
      // Gives up a sign-in that is under way.
      if (connecting) client.leave();
      await turn.catch(() => {});
    });
    over.catch(reject);
  });
  const stop = async () => {
    stopping.abort();
    await over.catch(() => {});
    await locks.request(tabs, {ifAvailable: true}, (last) => last && client.close());
  };
  return {ready, stop};
}
