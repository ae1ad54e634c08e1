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

/**
 * Browsers open six connections to a host, for all tabs together, and a wait holds
 * one of them. With more tabs than this, each waits for a turn of this length, so that
 * there is room for what is sent. Where there are Web Locks (on https and localhost)
 * at most this many waits are open at a time; elsewhere, on average.
 */
const WAITS_AT_ONCE = 3;
const TURN_MS = 500;

/** A tab that was not heard of for so long is gone. It says with each wait that it is there. */
const TAB_LIFE_MS = 2 * LONGEST_WAIT_MS;

/** How long a page that is left may take to be back, as the server allows it. */
const GRACE_MS = 5_000;

/** The server refused, and trying again would change nothing. */
export class SignalingError extends Error {
  constructor(status, message, code = null) {
    super(message);
    this.name = 'SignalingError';
    /** The HTTP status; 0 if the client was closed or its peer removed. */
    this.status = status;
    /** What the server calls the error; null if it has no name for it. */
    this.code = code;
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
  /** The list as it was last told. */
  #toldList = null;
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
  /** Aborted to end the pauses before the next tries. */
  #waking = new AbortController();
  /** Ends the wait that is open, so that other tabs have their turn. */
  #endWait = () => {};
  /** The page was left, and said so. */
  #isLeft = false;
  /** Settles when the page is there, after it was left and kept by the browser. */
  #shown = Promise.resolve();
  #show = () => {};
  /** It was told that the server cannot be reached, and why. */
  #isLostTold = false;
  #inPage = globalThis.document !== undefined && globalThis.addEventListener !== undefined;
  #tabs = null;
  #isShared;

  /**
   * @param {string|URL} url Where the server is.
   * @param {{name: string, storage?: Storage|null, shared?: boolean}} options The name
   *   in the list; where id and token are kept while a page is loaded again (null:
   *   nowhere), by default `sessionStorage`; and whether other tabs read the storage,
   *   one client at a time: then id and token are there while it is signed in, too.
   */
  constructor(url, {name, storage = undefined, shared = false} = {}) {
    super();
    if (typeof name !== 'string' || name === '') throw new TypeError('a name is missing');
    const base = globalThis.document?.baseURI;
    this.#url = new URL(url, base);
    if (!/^https?:$/.test(this.#url.protocol)) {
      throw new TypeError(`the URL must begin with http:// or https://: ${url}`);
    }
    if (!this.#url.pathname.endsWith('/')) this.#url.pathname += '/';
    this.#name = name;
    this.#storage = storage === undefined ? sessionStorageIfAny() : storage;
    this.#key = `signal-http-heartbeat ${this.#url} ${name}`;
    this.#isShared = shared;
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
    this.#isLostTold = false;
    this.#restore();
    if (this.#inPage) {
      this.#watchPage(closing.signal);
      this.#tabs = new Tabs(this.#url.host, () => this.#endWait());
    }
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
      // The page may be about to be closed.
      await this.#fetch(session, 'sign_out', {}, {method: 'POST', keepalive: true});
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
        const mayPass = isFull(error) && Date.now() - since < FULL_PATIENCE_MS;
        if (!mayPass || !this.#closing) throw error;
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
        // A message that was refused for a full mailbox may get another number: any
        // other error may hide that the message was accepted.
        if (!mayPass(error) || isFull(error)) throw error;
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
        await this.#shown;
        if (!this.#connected) {
          await this.#signIn(signal);
          if (signal.aborted) return;
          tries = 0;
        }
        const session = this.#session;
        // No longer than until the next heartbeat is due: where timers are
        // slow, it goes out when a wait returns.
        const answer = await this.#waitInTurn(session, signal);
        if (signal.aborted) return;
        tries = 0;
        if (answer) this.#hear(session, answer);
        await this.#shown;
        this.#beat(signal);
      } catch (error) {
        if (signal.aborted) return;
        const removed = isRefused(error);
        if (removed) this.#session = null;
        // One cut connection is no news: the next one has what it lost.
        if (removed || tries > 0) this.#lost(error);
        await this.#pause(tries, signal);
        tries += 1;
      }
    }
  }

  /** The answer to one wait; null if it was ended for other tabs. */
  async #waitInTurn(session, signal) {
    if (!this.#tabs?.areMany()) return this.#wait(session, signal, LONGEST_WAIT_MS);
    const place = this.#tabs.place();
    const wait = () => this.#wait(session, signal, TURN_MS);
    // No timer: those of hidden tabs come once a minute.
    if (globalThis.navigator?.locks) {
      try {
        return await navigator.locks.request(place, {signal}, wait);
      } catch (error) {
        // A frame that may have no locks.
        if (error.name !== 'SecurityError') throw error;
      }
    }
    const answer = await wait();
    await sleep(this.#tabs?.pause() ?? 0, signal);
    return answer;
  }

  async #wait(session, signal, longest) {
    const limit = Math.min(this.#beatEvery, longest);
    const ending = new AbortController();
    const end = () => ending.abort();
    signal.addEventListener('abort', end);
    let isEnded = false;
    this.#endWait = () => {
      isEnded = true;
      end();
    };
    try {
      const query = {ack: session.ack, limit};
      return await this.#fetch(session, 'wait', query, {}, ending.signal, limit + PATIENCE_MS);
    } catch (error) {
      // What it was about to bring comes with the next: it is not acknowledged.
      if (isEnded && !signal.aborted) return null;
      throw error;
    } finally {
      this.#endWait = () => {};
      signal.removeEventListener('abort', end);
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
        // From now on nobody acts for this peer who does not know its token.
        const query = {peer_name: this.#name, resume: true, ...(known && {peer_id: known.id})};
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
        this.#isLostTold = false;
        this.#toldList = null;
        if (this.#isShared) this.#store();
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
        this.#lost(error);
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
    // A wait that ends without news brings the list as it was.
    if (list === this.#toldList) return;
    this.#toldList = list;
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
    if (this.#isLeft) return;
    const due = Date.now() - this.#lastBeat >= this.#beatEvery * 0.9;
    if (!due || !this.#connected || !this.#session) return;
    this.#lastBeat = Date.now();
    this.#fetch(this.#session, 'heartbeat', {}, {}, signal).catch(async (error) => {
      this.#lastBeat = 0;
      // Else the wait finds out.
      if (isRefused(error) || signal.aborted) return;
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
      // Not `text()`, which takes a byte order mark off a message.
      const text = new TextDecoder('utf-8', {ignoreBOM: true}).decode(await answer.arrayBuffer());
      if (answer.status !== 200) {
        throw new SignalingError(answer.status, text.trim(), answer.headers.get('X-Error'));
      }
      return {headers: answer.headers, text};
    } finally {
      clearTimeout(timer);
      closing?.removeEventListener('abort', abort);
    }
  }

  /** Longer after each try, and not the same for all who lost the server. */
  #pause(tries, signal) {
    const longest = Math.min(FIRST_PAUSE_MS * 2 ** tries, LONGEST_PAUSE_MS);
    return sleep(longest * (0.5 + Math.random() / 2), signal, this.#waking.signal);
  }

  /** Tries at once whatever is to be tried again. */
  #wake() {
    this.#waking.abort();
    this.#waking = new AbortController();
  }

  /** Told once, with the first error; without one only if it was connected. */
  #lost(cause) {
    const isNews = this.#connected || (cause && !this.#isLostTold);
    this.#connected = false;
    if (!isNews) return;
    this.#isLostTold = true;
    this.#tell('disconnected', {cause});
  }

  #stop() {
    this.#isLeft = false;
    this.#show();
    this.#tabs?.close();
    this.#tabs = null;
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
      this.#tabs?.close();
      // A page that polled on would be taken for one that is there.
      this.#isLeft = true;
      this.#shown = new Promise((resolve) => { this.#show = resolve; });
      const session = this.#session;
      if (!session) return;
      const url = new URL('sign_out', this.#url);
      const query = {peer_id: session.id, peer_token: session.token, grace: GRACE_MS};
      for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
      // One that is refused (too many are on their way) is said in another way.
      const isSent = quietly(() => navigator.sendBeacon(url));
      if (!isSent) quietly(() => fetch(url, {method: 'POST', keepalive: true}).catch(() => {}));
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
    this.#catchUp();
    if (!this.#isShared) this.#forget();
    this.#tabs?.open();
    this.#isLeft = false;
    this.#show();
    this.#lastBeat = 0;
    this.#beat(this.#closing.signal);
    this.#wake();
  }

  // Storage may be full, or forbidden to the page: then a page that is loaded again is
  // another peer, and nothing else is different.

  #store() {
    if (!this.#session) return;
    quietly(() => this.#storage?.setItem(this.#key, JSON.stringify(this.#session)));
  }

  #restore() {
    const session = this.#stored();
    if (!this.#isShared) this.#forget();
    if (session) this.#session = session;
  }

  /** Another page may have been this peer meanwhile, and have counted on. */
  #catchUp() {
    const {id, token, ack, seq} = this.#stored() ?? {};
    const session = this.#session;
    if (!session || session.id !== id || session.token !== token) return;
    session.ack = Math.max(session.ack, ack);
    session.seq = Math.max(session.seq, seq);
  }

  /** What is stored; nothing if that is not ours. */
  #stored() {
    const stored = quietly(() => this.#storage?.getItem(this.#key));
    return stored && quietly(() => JSON.parse(stored));
  }

  #forget() {
    quietly(() => this.#storage?.removeItem(this.#key));
  }
}

/** The tabs of this origin that wait at the same server. */
class Tabs {
  #name;
  #id = Math.random();
  /** The other tabs, and when each was last heard of. */
  #others = new Map();
  #channel = null;
  #crowded;

  /** `crowded` is called when another tab comes, and there are too many now. */
  constructor(host, crowded) {
    this.#name = `signal-http-heartbeat ${host}`;
    this.#crowded = crowded;
    this.open();
  }

  open() {
    if (this.#channel) return;
    this.#channel = quietly(() => new BroadcastChannel(this.#name)) ?? null;
    this.#channel?.addEventListener('message', ({data: {id, says}}) => {
      const isNew = !this.#others.has(id);
      if (says === 'bye') this.#others.delete(id);
      else this.#others.set(id, Date.now());
      if (says === 'hello') this.#say('here');
      if (isNew && this.#others.size === WAITS_AT_ONCE) this.#crowded();
    });
    this.#say('hello');
  }

  close() {
    this.#say('bye');
    this.#channel?.close();
    this.#channel = null;
  }

  /** Whether there are more than may wait at a time. */
  areMany() {
    const now = Date.now();
    for (const [id, heard] of this.#others) {
      if (now - heard > TAB_LIFE_MS) this.#others.delete(id);
    }
    this.#say('here');
    return this.#others.size + 1 > WAITS_AT_ONCE;
  }

  /** The name of a place to wait at, which one has at a time. */
  place() {
    return `${this.#name} ${Math.floor(Math.random() * WAITS_AT_ONCE)}`;
  }

  /** How long to let others wait, where there are no places. */
  pause() {
    const share = (this.#others.size + 1) / WAITS_AT_ONCE;
    return Math.max(share - 1, 0) * TURN_MS * (0.5 + Math.random());
  }

  #say(says) {
    quietly(() => this.#channel?.postMessage({id: this.#id, says}));
  }
}

/** Calls what may throw, as much of a browser may where a page has few rights. */
function quietly(call) {
  try {
    return call();
  } catch {
    return undefined;
  }
}

/** Ends sooner when one of the signals is aborted. */
function sleep(ms, ...signals) {
  if (signals.some((signal) => signal.aborted)) return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signals.forEach((signal) => signal.removeEventListener('abort', done));
      resolve();
    };
    const timer = setTimeout(done, ms);
    signals.forEach((signal) => signal.addEventListener('abort', done));
  });
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

/** Whether a message was not accepted because too much waits for its receiver. */
function isFull(error) {
  return error.code === 'mailbox_full';
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
