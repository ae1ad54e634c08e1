/**
 * Presence alone: while a page is open, its peer is in the list.
 *
 *     import {heartbeatStart, heartbeatStop} from 'http://localhost:3000/heartbeat.js';
 *     await heartbeatStart({name: 'alice'});
 */

import {SignalingClient} from './client.js';

/** A tab that takes over and is refused retries after this pause, in ms. */
const RETRY_PAUSE_MS = 10_000;

/** What was started, until it is stopped: `{ready, stop, options}`. */
let started = null;

/**
 * Signs in, unless that was done before. The promise resolves when the peer is in the list.
 *
 * With `shared: true` all tabs of a browser profile are one peer: one of them
 * is signed in, and when it is closed another one takes over. This requires a secure
 * context (https or localhost) and storage; otherwise each tab is its own peer.
 *
 * @param {{name: string, url?: string|URL, shared?: boolean,
 *   accessToken?: string|(() => string|Promise<string>)}} options By default the server is the
 *   one that this script came from. The access token is as for `SignalingClient`. If the server
 *   refuses it later, the heartbeat is stopped, and can be started with another one.
 */
export async function heartbeatStart({name, url = new URL('.', import.meta.url), shared = false, accessToken}) {
  const options = JSON.stringify([name, String(url), shared]);
  if (started && started.options !== options) {
    throw new TypeError('another heartbeat is started: call heartbeatStop() first');
  }
  const storage = shared ? sharedStorage() : null;
  if (!started) {
    // What a closing tab stores may reach the next one late.
    const storedOptions = storage ? {storage, shared: true} : {keep: true};
    const client = new SignalingClient(url, {name, accessToken, ...storedOptions});
    const refused = () => {
      if (started === begun) started = null;
      begun.stop();
    };
    const begun = {...(storage ? share(client, `signal-http-heartbeat ${url} ${name}`, refused) : own(client)), options};
    started = begun;
    watch(client, refused);
  }
  const mine = started;
  try {
    await mine.ready;
  } catch (error) {
    // The next call may succeed.
    if (started === mine) started = null;
    await mine.stop();
    throw error;
  }
}

/** Calls `refused` when the server does not let a client in any more that it had let in. */
function watch(client, refused) {
  let wasIn = false;
  client.addEventListener('connected', () => { wasIn = true; });
  client.addEventListener('disconnected', ({detail: {cause}}) => {
    if (wasIn && isDenied(cause)) refused();
  });
}

/** Whether the server does not let a client in: trying again does not help. */
const isDenied = (error) => [401, 403].includes(error?.status);

/** Signs out, unless that was done before. Of tabs that share a peer, the last signs out. */
export async function heartbeatStop() {
  const before = started;
  started = null;
  await before?.stop();
}

/** The storage that all tabs share, if they can take turns with locks; otherwise null. */
function sharedStorage() {
  try {
    return (navigator.locks && localStorage) ?? null;
  } catch {
    // This page may not use it.
    return null;
  }
}

function own(client) {
  return {ready: client.connect(), stop: () => client.close()};
}

/**
 * Each open tab holds a shared lock: a tab that can hold that lock alone is the last
 * one. Of the open tabs, the one that holds a second lock is signed in, and the others
 * wait for that lock.
 * @param {string} tabs The name of the lock that all tabs hold.
 * @param {() => void} refused Called when it is the turn of this tab, and the server does not let it in.
 */
function share(client, tabs, refused) {
  const {locks} = navigator;
  const signedIn = `${tabs} signed in`;
  const isOurs = (other) => other.name === signedIn;
  const stopping = new AbortController();
  const {signal} = stopping;
  const stopped = new Promise((resolve) => { signal.addEventListener('abort', resolve); });
  /** The sign-in of this tab, while it is its turn. */
  let connecting = null;
  let turn = null;
  /** Signs in when this tab takes over. Retries after a refusal: no caller waits for the result. */
  const takeOver = async () => {
    while (!signal.aborted) {
      try {
        return await client.connect();
      } catch (error) {
        if (isDenied(error)) refused();
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
        // Before the next tab comes back as the peer.
        client.leave();
      });
      turn.catch(reject);
    });
    // A tab that waits is present through the one that is signed in.
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
      // Gives up a sign-in that is still open.
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
