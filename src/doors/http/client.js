/**
 * A client of signal-http-heartbeat: an ES module for pages and Node, without
 * dependencies.
 *
 *     import {SignalingClient} from 'http://localhost:3000/client.js';
 *     const signaling = new SignalingClient('http://localhost:3000', {name: 'alice'});
 *     signaling.addEventListener('peers', ({detail}) => console.log(detail));
 *     signaling.addEventListener('message', ({detail: {from, data}}) => console.log(from, data));
 *     await signaling.connect();
 *     await signaling.send(7, {sdp: '...'});
 *
 * A lost connection is found again by itself: the client comes back under its
 * id, each message of others is told exactly once and in order, and each of
 * its own is delivered once. A page that is loaded anew is the same peer.
 */

/** A request without an answer for so long is on a connection that is dead. */
const PATIENCE_MS = 15_000;

/** A message is refused for so long because its receiver does not poll. */
const FULL_PATIENCE_MS = 30_000;

/** A wait lasts no longer where no heartbeat is asked for. */
const LONGEST_WAIT_MS = 60_000;

/** The pause before a second try; it doubles up to the longest. */
const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 10_000;

/** How long a page that is left may take to be back, as the server allows it. */
const GRACE_MS = 5_000;

/** The server refused, and trying again would change nothing. */
export class SignalingError extends Error {
  constructor(status, message) {
    super(message);
    this.name = 'SignalingError';
    /** The HTTP status; 0 if the client was closed or its peer removed. */
    this.status = status;
  }
}

export class SignalingClient extends EventTarget {
  #url;
  #name;
  #storage;
  #key;
  /** Who the server knows this client as: `{id, token, ack, seq}`. */
  #session = null;
  /** Aborts what is under way when the client is closed; null when it is. */
  #closing = null;
  #connected = false;
  #peers = [];
  /** Settles when no sign-in is under way. */
  #signingIn = Promise.resolve();
  /** What `connect` returned. */
  #ready = null;
  /** Settles when the last message that has its number is sent. */
  #sending = Promise.resolve();
  /** For each receiver, settles when all that was given to `send` is sent. */
  #queues = new Map();
  #lastBeat = 0;
  #beatEvery = Infinity;
  #timer = null;
  /** Ends the pause before the next try. */
  #wake = () => {};
  #inPage = globalThis.document !== undefined && globalThis.addEventListener !== undefined;

  /**
   * @param {string|URL} url Where the server is.
   * @param {{name: string, storage?: Storage|null}} options The name in the
   *   list; and where id and token are kept while a page is loaded anew (null:
   *   nowhere), by default `sessionStorage`.
   */
  constructor(url, {name, storage = undefined} = {}) {
    super();
    if (typeof name !== 'string' || name === '') throw new TypeError('a name is missing');
    const base = globalThis.document?.baseURI;
    this.#url = new URL(url, base);
    if (!this.#url.pathname.endsWith('/')) this.#url.pathname += '/';
    this.#name = name;
    this.#storage = storage === undefined ? sessionStorageIfAny() : storage;
    this.#key = `signal-http-heartbeat ${this.#url} ${name}`;
  }

  /** The id of this peer, once it has one. */
  get id() {
    return this.#session?.id ?? null;
  }

  /** The other peers, as the server last told. */
  get peers() {
    return this.#peers;
  }

  /** Whether the server was reached last time. */
  get connected() {
    return this.#connected;
  }

  /**
   * Signs in, and from then on tells events. Ready when the peer is in the
   * list; tries until then.
   */
  connect() {
    this.#ready ??= this.#connect();
    return this.#ready;
  }

  async #connect() {
    const closing = new AbortController();
    this.#closing = closing;
    this.#restore();
    if (this.#inPage) this.#watchPage(closing.signal);
    try {
      await this.#signIn(closing.signal);
    } catch (error) {
      if (this.#closing === closing) this.#stop();
      throw error;
    }
    if (closing.signal.aborted) throw closed();
    this.#run(closing.signal);
  }

  /** Signs out, also what `leave` has left in the list. */
  async close() {
    if (!this.#closing) this.#restore();
    const session = this.#session;
    this.#stop();
    this.#forget();
    this.#session = null;
    this.#lost();
    // What is under way could sign in after it.
    await this.#signingIn.catch(() => {});
    await this.#signOut(session);
  }

  async #signOut(session) {
    if (!session) return;
    try {
      await this.#fetch(session, 'sign_out', {}, {method: 'POST'});
    } catch {
      // It will time out.
    }
  }

  /**
   * Stops without signing out: until it is stale, the next client with this
   * storage and name is the same peer.
   */
  leave() {
    this.#stop();
    this.#store();
    this.#session = null;
    this.#lost();
  }

  /**
   * Sends a message. Ready when the server has it; tries until then, but for
   * half a minute at most if the receiver takes no messages.
   * @param {number|string} to The id of a peer.
   * @param {string|object} data A string, or an object or array that JSON can
   *   say.
   */
  send(to, data) {
    const body = typeof data === 'string' ? data : JSON.stringify(data);
    if (body === undefined) throw new TypeError('there is no message');
    const before = this.#queues.get(String(to)) ?? Promise.resolve();
    const sent = before.then(() => this.#sendTo(to, body));
    const settled = sent.catch(() => {}).then(() => {
      if (this.#queues.get(String(to)) === settled) this.#queues.delete(String(to));
    });
    this.#queues.set(String(to), settled);
    return sent;
  }

  /** One receiver that takes no messages does not hold up those to others. */
  async #sendTo(to, body) {
    const since = Date.now();
    for (let tries = 0; ; tries += 1) {
      const posted = this.#sending.then(() => this.#post(to, body));
      this.#sending = posted.catch(() => {});
      try {
        return await posted;
      } catch (error) {
        const isFull = error.status === 503 && Date.now() - since < FULL_PATIENCE_MS;
        if (!isFull || !this.#closing) throw error;
        await this.#pause(tries, this.#closing.signal);
      }
    }
  }

  /**
   * One after the other, for each has its number, and is sent again until the
   * server has answered: that it knows a repeat by its number makes it one
   * message.
   */
  async #post(to, body) {
    const session = this.#session;
    const signal = this.#closing?.signal;
    if (!session || !signal) throw new SignalingError(0, 'the client is not connected');
    const seq = ++session.seq;
    for (let tries = 0; ; tries += 1) {
      if (session !== this.#session || signal.aborted) {
        throw new SignalingError(0, 'the peer was removed before the server had the message');
      }
      try {
        const request = {method: 'POST', body, headers: {'Content-Type': 'text/plain;charset=UTF-8'}};
        await this.#fetch(session, 'message', {to, seq}, request, signal);
        return;
      } catch (error) {
        if (!mayPass(error) || error.status === 503) throw error;
        await this.#pause(tries, signal);
      }
    }
  }

  /** Waits for news until the client is closed. */
  async #run(signal) {
    let tries = 0;
    this.#timer = setInterval(() => this.#beat(signal), Math.min(this.#beatEvery, 2 ** 31 - 1));
    while (!signal.aborted) {
      try {
        if (!this.#connected) {
          await this.#signIn(signal);
          if (signal.aborted) return;
          tries = 0;
        }
        const session = this.#session;
        // No longer than until the next heartbeat is due: where timers are
        // slow, it goes out when a wait returns.
        const limit = Math.min(this.#beatEvery, LONGEST_WAIT_MS);
        const query = {ack: session.ack, limit};
        const answer = await this.#fetch(session, 'wait', query, {}, signal, limit + PATIENCE_MS);
        if (signal.aborted) return;
        tries = 0;
        this.#hear(session, answer);
        this.#beat(signal);
      } catch (error) {
        if (signal.aborted) return;
        const removed = isRefused(error);
        if (removed) this.#session = null;
        // One cut connection is no news: the next one has what it lost.
        if (removed || tries > 0) this.#lost();
        await this.#pause(tries, signal);
        tries += 1;
      }
    }
  }

  /** Signs in, or comes back; tries until it is done. */
  #signIn(signal) {
    this.#signingIn = this.#trySignIn(signal);
    return this.#signingIn;
  }

  async #trySignIn(signal) {
    for (let tries = 0; ; tries += 1) {
      try {
        const known = this.#session;
        const query = {peer_name: this.#name, ...(known && {peer_id: known.id})};
        // Not cut short when the client is closed: the peer that comes of it
        // has to be signed out.
        const answer = await this.#fetch(known, 'sign_in', query, {});
        mustBeWhole(answer);
        const id = Number(answer.headers.get('Pragma'));
        const token = answer.headers.get('X-Peer-Token');
        const isBack = known?.id === id && known?.token === token;
        const session = isBack ? known : {id, token, ack: 0, seq: 0};
        if (signal.aborted) {
          if (!isBack) await this.#signOut(session);
          throw closed();
        }
        this.#session = session;
        const interval = Number(answer.headers.get('X-Heartbeat-Interval'));
        this.#beatEvery = interval > 0 ? interval : Infinity;
        this.#connected = true;
        this.#tell('connected', {id, resumed: isBack});
        if (!signal.aborted) this.#hearPeers(answer.text);
        return;
      } catch (error) {
        if (signal.aborted) throw closed();
        if (error.status === 403 && this.#session) {
          // Another has that id now.
          this.#session = null;
          continue;
        }
        if (!mayPass(error)) throw error;
        await this.#pause(tries, signal);
      }
    }
  }

  #hear(session, answer) {
    mustBeWhole(answer);
    const seq = Number(answer.headers.get('X-Message-Seq') ?? 0);
    if (seq === 0) {
      this.#hearPeers(answer.text);
    } else if (seq > session.ack) {
      // A repeat is one whose acknowledgement was lost.
      session.ack = seq;
      const from = Number(answer.headers.get('Pragma'));
      this.#tell('message', {from, data: parsed(answer.text)});
    }
  }

  #hearPeers(list) {
    const peers = list.split('\n').filter((line) => line !== '').map((line) => {
      const [, name, id, status] = /^(.*),(\d+),([01])$/.exec(line) ?? [];
      return {id: Number(id), name, connected: status === '1'};
    });
    this.#peers = peers.filter(({id}) => id > 0 && id !== this.id);
    this.#tell('peers', this.#peers);
  }

  /**
   * Tells the server that this client lives. Asked for by the timer, and when
   * a wait returns, for browsers slow the timers of hidden pages to one a
   * minute.
   */
  #beat(signal) {
    const due = Date.now() - this.#lastBeat >= this.#beatEvery * 0.9;
    if (!due || !this.#connected || !this.#session) return;
    this.#lastBeat = Date.now();
    this.#fetch(this.#session, 'heartbeat', {}, {}, signal).catch(async (error) => {
      this.#lastBeat = 0;
      // Else the wait finds out.
      if (isRefused(error)) return;
      await this.#pause(0, signal);
      this.#beat(signal);
    });
  }

  /** Gives up after `patience` ms, or when `closing` is aborted. */
  async #fetch(session, path, query, request, closing = null, patience = PATIENCE_MS) {
    const url = new URL(path, this.#url);
    if (session && path !== 'sign_in') url.searchParams.set('peer_id', session.id);
    for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
    const headers = {...request.headers};
    if (session?.token) {
      // From another origin a header would cost a preflight for each request.
      if (this.#inPage && url.origin !== globalThis.location?.origin) {
        url.searchParams.set('peer_token', session.token);
      } else {
        headers['X-Peer-Token'] = session.token;
      }
    }
    // Not `AbortSignal.any`: Node 20 forgets the timeouts in it.
    const giveUp = new AbortController();
    const abort = () => giveUp.abort();
    const timer = setTimeout(abort, patience);
    closing?.addEventListener('abort', abort);
    if (closing?.aborted) abort();
    try {
      const {signal} = giveUp;
      const answer = await fetch(url, {...request, headers, signal, cache: 'no-store'});
      const text = await answer.text();
      if (answer.status !== 200) throw new SignalingError(answer.status, text.trim());
      return {headers: answer.headers, text};
    } finally {
      clearTimeout(timer);
      closing?.removeEventListener('abort', abort);
    }
  }

  /** Longer after each try, and not the same for all who lost the server. */
  #pause(tries, signal) {
    const longest = Math.min(FIRST_PAUSE_MS * 2 ** tries, LONGEST_PAUSE_MS);
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', done);
        resolve();
      };
      const timer = setTimeout(done, longest * (0.5 + Math.random() / 2));
      signal.addEventListener('abort', done);
      this.#wake = done;
    });
  }

  #lost() {
    if (!this.#connected) return;
    this.#connected = false;
    this.#tell('disconnected', {});
  }

  #stop() {
    clearInterval(this.#timer);
    this.#closing?.abort();
    this.#closing = null;
    this.#ready = null;
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, {detail}));
  }

  /**
   * Id and token are stored only while no page has them: a tab that is
   * duplicated takes a copy of what is stored along.
   */
  #watchPage(signal) {
    const listen = (target, type, listener) => target.addEventListener(type, listener, {signal});
    listen(globalThis, 'pagehide', () => {
      this.#store();
      const session = this.#session;
      if (!session) return;
      const url = new URL('sign_out', this.#url);
      const query = {peer_id: session.id, peer_token: session.token, grace: GRACE_MS};
      for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
      navigator.sendBeacon(url);
    });
    listen(globalThis, 'pageshow', ({persisted}) => {
      if (persisted) this.#takeBack();
    });
    listen(document, 'freeze', () => this.#store());
    listen(document, 'resume', () => this.#takeBack());
    listen(globalThis, 'online', () => this.#wake());
    listen(document, 'visibilitychange', () => {
      if (document.visibilityState === 'visible') {
        this.#wake();
        this.#beat(signal);
      }
    });
  }

  /** The page lives again: its peer may be about to be signed out. */
  #takeBack() {
    this.#forget();
    this.#lastBeat = 0;
    this.#beat(this.#closing.signal);
    this.#wake();
  }

  #store() {
    if (this.#session) this.#storage?.setItem(this.#key, JSON.stringify(this.#session));
  }

  #restore() {
    const stored = this.#storage?.getItem(this.#key);
    this.#forget();
    try {
      if (stored) this.#session = JSON.parse(stored);
    } catch {
      // Somebody else's.
    }
  }

  #forget() {
    this.#storage?.removeItem(this.#key);
  }
}

/** A message that is a JSON object or array, as such; any other as it came. */
function parsed(text) {
  if (!/^\s*[{[]/.test(text)) return text;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/**
 * Chromium takes a connection that is cut in the middle of the headers for an
 * answer without a body, and the headers it got for all of them.
 */
function mustBeWhole({headers, text}) {
  if (text === '' && headers.get('Content-Length') !== '0') {
    throw new TypeError('the answer was cut off');
  }
}

/** Whether what failed may succeed when it is tried again. */
function mayPass(error) {
  return !(error instanceof SignalingError) || error.status >= 500 || error.status === 408;
}

/** Whether the server knows no such peer, or not by this token. */
function isRefused(error) {
  return error.status === 403 || error.status === 404;
}

function closed() {
  return new SignalingError(0, 'the client was closed');
}

function sessionStorageIfAny() {
  try {
    return globalThis.document ? globalThis.sessionStorage : null;
  } catch {
    // Forbidden to this page.
    return null;
  }
}
