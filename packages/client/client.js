/**
 * A client of signal-http-heartbeat: an ES module for pages and Node, without
 * dependencies.
 *
 *     import {SignalingClient} from 'http://localhost:3000/client.js';
 *     const signaling = new SignalingClient('http://localhost:3000', {name: 'alice'});
 *     signaling.addEventListener('peers', ({detail: {peers}}) => console.log(peers));
 *     signaling.addEventListener('message', ({detail: {from, data}}) => console.log(from, data));
 *     await signaling.connect();
 *     await signaling.send(7, {sdp: '...'});
 *
 * The client reconnects by itself, with the same id: it gets each message of
 * others exactly once and in order, and each of its own is delivered once. It hears through
 * a WebSocket where one opens, and else by long polls. A page that is loaded again is a new peer,
 * and the one before is signed out, because its connections to others are gone too; `keep`
 * changes that.
 *
 * It is one file although it is long: pages import it from the server as it is,
 * without a build step, in one request.
 */

/** A request without an answer for this long, in ms, is on a dead connection. */
const PATIENCE_MS = 15_000;

/** How long a message is retried while the mailbox of its receiver is full, in ms. */
const FULL_PATIENCE_MS = 30_000;

/**
 * A WebSocket that has not opened after this long, in ms, is given up for long polls; so are
 * those that are closed soon. It is tried again after the first pause, which doubles up to the
 * longest.
 */
const OPENING_MS = 3_000;
const FIRST_POLLING_MS = 60_000;
const LONGEST_POLLING_MS = 3_600_000;

/** How often a silent socket is asked for a sign of life, in ms: pages see no pings. */
const SOCKET_BEAT_MS = 25_000;

/** A socket that lived for this long, in ms, was worth opening. */
const SHORT_LIFE_MS = 5_000;

/** The longest wait, in ms. It is shorter if heartbeats are due more often. */
const LONGEST_WAIT_MS = 60_000;

/** The pause before the second attempt, in ms; it doubles up to the longest. */
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

/** A tab that was silent for this long, in ms, is gone. Each tab reports with every wait. */
const TAB_LIFE_MS = 2 * LONGEST_WAIT_MS;

/** How long a page that was left has to come back, in ms. (The server allows up to 10 s.) */
const GRACE_MS = 5_000;

/** The longest pause because the server has asked for one (`Retry-After`), in ms. */
const LONGEST_ASKED_PAUSE_MS = 60_000;

/** How often a request is made again for a peer that was removed and signs in again. */
const REFUSED_TRIES = 5;

/** ICE servers are used for this part of the life of their credentials. */
const ICE_LIFE = 0.75;

/** A room's name, as the server allows it. */
const ROOM = /^(?!\.{1,2}$)[A-Za-z0-9._~-]{1,64}$/;

/** With this code the server closes the socket of a peer that is not signed in. */
const UNKNOWN_PEER = 4004;

/** What a refusal through a socket is by HTTP: the status, and a text. */
const REFUSED = {
  unknown_receiver: [404, 'the receiver is not signed in'],
  mailbox_full: [503, "the receiver's mailbox is full"],
  out_of_order: [409, 'another client sends as the same peer'],
};

/** Settles when this page holds none of the locks any more of which it has let go. */
let unlocked = Promise.resolve();

/** The server refused, and would refuse again. */
export class SignalingError extends Error {
  constructor(status, message, code = null, retryAfter = 0, options = {}) {
    super(message, options);
    this.name = 'SignalingError';
    /** The HTTP status; 0 if the client was closed or its peer removed. */
    this.status = status;
    /** What the server calls the error; null if it has no name for it. */
    this.code = code;
    /** How long the server asks to wait before the next try, in ms. */
    this.retryAfter = retryAfter;
  }
}

export class SignalingClient extends EventTarget {
  #url;
  #name;
  /** Returns the access token, or a promise of it. */
  #accessToken;
  /** The last access token. */
  #shownToken = null;
  /** The ICE servers that this peer was told of, and until when they are used. */
  #ice = {peer: null, since: 0, lasts: 0, servers: []};
  #storage;
  /** Under what it is stored, and how that begins for all clients of this tab and server. */
  #key;
  #keys;
  /** This client as the server knows it: `{id, token, ack, seq}`. */
  #session = null;
  /** Aborts open requests when the client is closed; null while it is closed. */
  #closing = null;
  #connected = false;
  #peers = [];
  /** Whether this is another peer than that which heard the last list. */
  #isNew = true;
  /** The last list. */
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
  /** Ends the open wait, so that other tabs have their turn. */
  #endWait = () => {};
  #transport;
  /** The open socket; null while there is none. */
  #socket = null;
  /** Whether the server may have a socket of this peer. */
  #mayHaveSocket = false;
  /** Since when no socket is opened, for how long, how long the next time, and whether the last ones opened. */
  #polling = {since: 0, lasts: 0, ms: FIRST_POLLING_MS, wasOpen: false};
  /** Lets go of the lock that shows other tabs that this peer is alive. */
  #unlock = () => {};
  /** What that lock is called; null while there is none. */
  #locked = null;
  /** Whether the page was left, and told the server so. */
  #isLeft = false;
  /** Settles when the page is shown again, if it was left and kept by the browser. */
  #shown = Promise.resolve();
  #show = () => {};
  /** Whether `disconnected` was dispatched since the client was last connected. */
  #isLostTold = false;
  #inPage = globalThis.document !== undefined && globalThis.addEventListener !== undefined;
  #tabs = null;
  #isShared;
  #keeps;

  /**
   * @param {string|URL} url The URL of the server.
   * @param {{name: string, room?: string|null, accessToken?: string|(() => string|Promise<string>),
   *   transport?: 'auto'|'websocket'|'poll', keep?: boolean, storage?: Storage|null, shared?: boolean}}
   *   options The name in the list; the room (by default the one that the URL names, as
   *   `/rooms/NAME`, if it does); the access token, if the server wants one, or a function
   *   that is called for it, and for another one when it is not valid any more; how the client
   *   hears (by default through a WebSocket where one opens, and else by long polls); whether
   *   a page that is loaded again is the same peer (by default only if `storage` is given); the
   *   storage that keeps id and token meanwhile (null: none), by default `sessionStorage`; and
   *   whether other tabs use the storage too, one client at a time: then it also keeps them while
   *   the client is signed in.
   */
  constructor(url, {name, room, accessToken, transport = 'auto', keep, storage = undefined, shared = false} = {}) {
    super();
    if (typeof name !== 'string' || name === '') {
      throw new TypeError("a name is missing: new SignalingClient(url, {name: 'alice'})");
    }
    // In a worker there is no document.
    this.#url = quietly(() => new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href));
    if (!/^https?:$/.test(this.#url?.protocol)) {
      throw new TypeError(`the URL must begin with http:// or https://: ${url}`);
    }
    if (!this.#url.pathname.endsWith('/')) this.#url.pathname += '/';
    if (room !== undefined && room !== null) {
      if (typeof room !== 'string' || !ROOM.test(room)) throw new TypeError(`not the name of a room (1 to 64 of A-Z a-z 0-9 . _ ~ -): ${room}`);
      if (/\/rooms\/[^/]+\/$/.test(this.#url.pathname)) throw new TypeError(`the URL has a room already: ${url}`);
      this.#url.pathname += `rooms/${room}/`;
    }
    if (!['auto', 'websocket', 'poll'].includes(transport)) throw new TypeError(`transport is not auto, websocket or poll: ${transport}`);
    if (transport === 'websocket' && !globalThis.WebSocket) throw new TypeError('there are no WebSockets here');
    this.#transport = globalThis.WebSocket ? transport : 'poll';
    this.#name = name;
    this.#accessToken = typeof accessToken === 'function' ? accessToken : () => accessToken;
    this.#storage = storage === undefined ? sessionStorageIfAny() : storage;
    this.#isShared = shared;
    this.#keeps = keep ?? (Boolean(storage) || shared);
    const kept = this.#keeps ? 'kept ' : '';
    this.#keys = `signal-http-heartbeat ${kept}${this.#url} `;
    this.#key = this.#keys + name;
  }

  /** The id of this peer, once it has one. */
  get id() {
    return this.#session?.id ?? null;
  }

  /** The other peers, in the last list. */
  get peers() {
    return this.#peers;
  }

  /** Whether the client is signed in and reaches the server. One cut connection does not count. */
  get connected() {
    return this.#connected;
  }

  /**
   * Signs in, and from then on dispatches events. The promise resolves when the peer
   * is in the list; until then the client retries.
   */
  connect() {
    this.#ready ??= this.#connect();
    return this.#ready;
  }

  async #connect() {
    const closing = new AbortController();
    this.#closing = closing;
    this.#isLostTold = false;
    this.#peers = [];
    this.#isNew = true;
    this.#toldList = null;
    if (this.#inPage) this.#watchPage(closing.signal);
    try {
      for (const former of this.#restore()) await this.#takeOver(former);
      if (closing.signal.aborted) throw closed();
      await this.#signIn(closing.signal);
    } catch (error) {
      if (this.#closing === closing) this.#stop();
      throw error;
    }
    if (closing.signal.aborted) throw closed();
    this.#run(closing.signal);
  }

  /** Signs out, also a peer that `leave` has left in the list. */
  async close() {
    const left = this.#closing ? [] : this.#restore();
    const session = this.#session;
    this.#stop();
    this.#forget();
    this.#session = null;
    this.#lost();
    // An open request could sign in after it.
    await this.#signingIn.catch(() => {});
    await Promise.all([session, ...left].map((session) => this.#signOut(session)));
  }

  async #signOut(session) {
    if (!session) return;
    try {
      // The page may be about to be closed.
      await this.#fetch(session, 'sign_out', {}, {method: 'POST', keepalive: true});
    } catch {
      // The peer will time out.
    }
  }

  /**
   * Stops without signing out: until the peer times out, the next client with this
   * storage and name is the same peer, if it keeps its peer.
   */
  leave() {
    this.#stop();
    this.#store();
    this.#session = null;
    this.#lost();
  }

  /**
   * Sends a message. The promise resolves when the server has accepted it; until then
   * the client retries, but for at most half a minute if the receiver takes no messages.
   * @param {number|string} to The id of a peer.
   * @param {string|object} data A string, or an object or array to send as JSON.
   */
  send(to, data) {
    if (!/^[1-9]\d*$/.test(to)) throw new TypeError(`not the id of a peer, as the client's list has them: ${to}`);
    const body = typeof data === 'string' ? data : JSON.stringify(data);
    if (body === undefined) throw new TypeError('there is no message');
    // As a POST sends it: half a surrogate pair is no text, and no JSON for the server.
    const text = new TextDecoder('utf-8', {ignoreBOM: true}).decode(new TextEncoder().encode(body));
    const before = this.#queues.get(String(to)) ?? Promise.resolve();
    // A peer that comes instead of this one may have other ids before it.
    const session = this.#session;
    const sent = before.then(() => this.#sendTo(session, to, text));
    const settled = sent.catch(() => {}).then(() => {
      if (this.#queues.get(String(to)) === settled) this.#queues.delete(String(to));
    });
    this.#queues.set(String(to), settled);
    return sent;
  }

  /** A receiver that takes no messages does not hold up messages to others. */
  async #sendTo(session, to, body) {
    const since = Date.now();
    for (let tries = 0; ; tries += 1) {
      const posted = this.#sending.then(() => this.#post(session, to, body));
      this.#sending = posted.catch(() => {});
      try {
        return await posted;
      } catch (error) {
        const mayPass = isFull(error) && isWithin(since, FULL_PATIENCE_MS);
        if (!mayPass || !this.#closing) throw error;
        await this.#pause(tries, this.#closing.signal);
      }
    }
  }

  /**
   * Sends one after the other, because messages are numbered, and each is repeated until
   * the server has answered: the server recognizes a repeat by its number.
   */
  async #post(session, to, body) {
    const signal = this.#closing?.signal;
    if (!session || !signal) throw new SignalingError(0, 'the client is not connected: await its connect() first');
    if (session !== this.#session) throw new SignalingError(0, 'this peer was removed before the message was sent');
    const seq = ++session.seq;
    // The page that comes next must not use the number again.
    if (this.#isLeft) this.#store();
    for (let tries = 0; ; tries += 1) {
      if (session !== this.#session || signal.aborted) {
        throw new SignalingError(0, 'this peer was removed, perhaps before the server had the message');
      }
      try {
        // What goes through no socket may go by a request: a proxy can cut at one frame.
        const isSent = tries === 0 && await this.#socket?.send(seq, String(to), body);
        if (isSent) return;
        const request = {method: 'POST', body, headers: {'Content-Type': 'text/plain;charset=UTF-8'}};
        await this.#fetch(session, 'message', {to, seq}, request, signal);
        return;
      } catch (error) {
        // A message that was refused for a full mailbox may get another number: any
        // other error may hide that the message was accepted.
        if (!mayPass(error) || isFull(error)) throw error;
        await this.#pause(tries, signal, error);
      }
    }
  }

  /**
   * The ICE servers of the server, for `new RTCPeerConnection({iceServers})`. They are asked
   * for again when their credentials are about to end. Until the server can be reached, the
   * client retries.
   */
  async iceServers() {
    for (let tries = 0; ; tries += 1) {
      await this.#ready;
      const session = this.#session;
      if (this.#ice.peer === session && isWithin(this.#ice.since, this.#ice.lasts)) return structuredClone(this.#ice.servers);
      const signal = this.#closing?.signal;
      try {
        const answer = await this.#fetch(session, 'ice-servers', {}, {}, signal);
        mustBeWhole(answer);
        const {iceServers, ttl} = JSON.parse(answer.text);
        this.#ice = {peer: session, since: Date.now(), lasts: ttl * 1000 * ICE_LIFE, servers: iceServers};
        return structuredClone(iceServers);
      } catch (error) {
        // A peer that was removed is about to sign in again, and may have no id meanwhile.
        const mayBeBack = isRefused(error) && tries < REFUSED_TRIES;
        if (!signal || signal.aborted || !(mayPass(error) || mayBeBack)) throw error;
        await this.#pause(tries, signal, error);
      }
    }
  }

  /** Waits for news until the client is closed. */
  async #run(signal) {
    let tries = 0;
    /** How many sockets in a row were of no use. */
    let shortLives = 0;
    while (!signal.aborted) {
      try {
        await this.#shown;
        if (!this.#connected) {
          await this.#signIn(signal);
          if (signal.aborted) return;
        }
        const session = this.#session;
        if (this.#transport !== 'poll' && !isWithin(this.#polling.since, this.#polling.lasts)) {
          const lived = await this.#hearBySocket(session, signal);
          if (signal.aborted) return;
          // A page that was left has closed it.
          if (this.#isLeft) continue;
          if (lived !== null) tries = 0;
          if (lived === null && this.#transport === 'auto') continue;
          shortLives = lived > SHORT_LIFE_MS ? 0 : shortLives + 1;
          // One cut connection is not reported.
          if (shortLives > 1) {
            if (this.#transport === 'auto') {
              shortLives = 0;
              this.#putOffSockets();
              continue;
            }
            this.#lost(new TypeError('the WebSocket does not open, or is closed at once'));
          }
          if (shortLives > 0) await this.#pause(shortLives - 1, signal);
          continue;
        }
        if (this.#mayHaveSocket) {
          // The server refuses waits of a peer that has a socket, which it may not know to be cut.
          await this.#signIn(signal);
          if (signal.aborted) return;
          continue;
        }
        // At most until the next heartbeat is due: if timers are slow, it is sent
        // when a wait returns.
        const answer = await this.#waitInTurn(session, signal);
        if (signal.aborted) return;
        tries = 0;
        if (answer) this.#hear(session, answer);
        await this.#shown;
        this.#beat(signal);
      } catch (error) {
        if (signal.aborted) return;
        if (isDenied(error) && !this.#connected) return this.#stop();
        // The next sign-in finds out: a socket that was given up may have opened late, and be the
        // reason.
        if (isRefused(error)) this.#lost(removed(error));
        // One cut connection is not reported: the next wait gets what it lost.
        else if (tries > 0) this.#lost(error);
        await this.#pause(tries, signal, error);
        tries += 1;
      }
    }
  }

  /**
   * Hears through a socket until it is closed. Returns how long it was of use, in ms: for ever, if
   * messages went through it; null if it could not be opened.
   */
  async #hearBySocket(session, signal) {
    const url = new URL('ws', this.#url);
    url.protocol = url.protocol.replace('http', 'ws');
    const query = {peer_name: this.#name, ack: session.ack, peer_id: session.id, peer_token: session.token};
    for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
    const accessToken = this.#shownToken ??= await this.#askForToken(signal);
    if (accessToken) url.searchParams.set('access_token', accessToken);
    this.#mayHaveSocket = true;
    const socket = new Socket(url, {
      peers: (peers) => {
        this.#hearPeers(peers.map(({peerId, name, connected}) => ({id: Number(peerId), name, connected})));
      },
      message: ({seq, from, data}) => {
        if (seq > session.ack) {
          socket.hasSucceeded = true;
          session.ack = seq;
          this.#tell('message', {from: Number(from), data: parsed(data)});
        }
        return session.ack;
      },
    });
    const close = () => socket.close();
    signal.addEventListener('abort', close);
    this.#socket = socket;
    try {
      if (await socket.opened) {
        const since = Date.now();
        this.#tabs?.close();
        this.#polling.wasOpen = true;
        await this.#watchSocket(socket);
        const lived = socket.hasSucceeded ? Infinity : Date.now() - since;
        if (lived > SHORT_LIFE_MS) this.#polling.ms = FIRST_POLLING_MS;
        return lived;
      }
      if (socket.code === UNKNOWN_PEER) throw new SignalingError(404, 'the peer is not signed in any more');
      if (this.#isLeft) return null;
      // Perhaps another one is taken.
      this.#shownToken = null;
      if (this.#transport === 'websocket') {
        // This tells why, and whether the peer is still signed in.
        await this.#fetch(session, 'heartbeat', {}, {}, signal);
      } else {
        this.#putOffSockets(this.#polling.wasOpen);
      }
      return null;
    } finally {
      this.#socket = null;
      signal.removeEventListener('abort', close);
      socket.close();
    }
  }

  /** Hears by long polls for a while; `wasOpen`: until the server is back, if it was away. */
  #putOffSockets(wasOpen = false) {
    const {ms} = this.#polling;
    this.#polling = {since: Date.now(), lasts: ms, ms: Math.min(2 * ms, LONGEST_POLLING_MS), wasOpen};
  }

  /** Until the socket is closed: asks for signs of life. */
  async #watchSocket(socket) {
    while (!socket.isClosed) {
      await sleep(SOCKET_BEAT_MS, socket.signal, this.#waking.signal);
      const [heard, since] = [socket.heard, Date.now()];
      socket.beat();
      await sleep(PATIENCE_MS, socket.signal, socket.nextHeard());
      // A page that stood still meanwhile may have the answer in line.
      const stoodStill = Date.now() - since > PATIENCE_MS + 1_000;
      if (socket.heard === heard && !stoodStill) socket.close();
    }
  }

  /** The answer to one wait; null if it was ended for other tabs. */
  async #waitInTurn(session, signal) {
    if (this.#inPage) {
      this.#tabs ??= new Tabs(this.#url.host, () => this.#endWait());
      this.#tabs.open();
    }
    if (!this.#tabs?.areMany()) return this.#wait(session, signal, LONGEST_WAIT_MS);
    const place = this.#tabs.place();
    const wait = () => this.#wait(session, signal, TURN_MS);
    // No timer: timers of hidden tabs fire once a minute.
    if (globalThis.navigator?.locks) {
      try {
        return await navigator.locks.request(place, {signal}, wait);
      } catch (error) {
        // This frame may not use locks.
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
      // A message that it was about to bring comes with the next wait, because it was
      // not acknowledged.
      if (isEnded && !signal.aborted) return null;
      throw error;
    } finally {
      this.#endWait = () => {};
      signal.removeEventListener('abort', end);
    }
  }

  /** Signs in, or comes back; retries until that is done. */
  #signIn(signal) {
    this.#signingIn = this.#trySignIn(signal);
    return this.#signingIn;
  }

  async #trySignIn(signal) {
    for (let tries = 0; ; tries += 1) {
      try {
        const known = this.#session;
        // From now on requests for this peer have to show its token.
        const query = {peer_name: this.#name, resume: true, ...(known && {peer_id: known.id})};
        // Not aborted when the client is closed: its new peer has to be signed
        // out.
        const answer = await this.#fetchWithAccess(known, 'sign_in', query, signal);
        mustBeWhole(answer);
        const id = Number(answer.headers.get('Pragma'));
        const token = answer.headers.get('X-Peer-Token');
        if (!(id > 0)) throw new SignalingError(404, `there is no signaling server at ${this.#url}`);
        const isBack = known?.id === id && known?.token === token;
        const session = isBack ? known : {id, token, ack: 0, seq: 0};
        // A change of transport finds out that the peer is gone.
        if (!isBack && this.#connected && !signal.aborted) this.#lost(removed());
        if (signal.aborted) {
          if (!isBack) await this.#signOut(session);
          throw closed();
        }
        const interval = Number(answer.headers.get('X-Heartbeat-Interval'));
        this.#setBeat(interval > 0 ? interval : Infinity, signal);
        this.#mayHaveSocket = false;
        // Where only another transport begins, nothing else does.
        if (!(isBack && this.#connected)) this.#begin(session, isBack);
        if (!signal.aborted) this.#hearList(answer.text);
        return;
      } catch (error) {
        if (signal.aborted) throw closed();
        if (error.status === 403 && this.#session) {
          // Another peer has that id now.
          this.#session = null;
          continue;
        }
        // To be told, also if it is known that the server was lost.
        if (isDenied(error)) this.#isLostTold = false;
        const cause = tries === 0 ? await this.#explained(error) : error;
        if (signal.aborted) throw closed();
        this.#lost(cause);
        if (signal.aborted) throw closed();
        if (!mayPass(error)) throw error;
        await this.#pause(tries, signal, error);
      }
    }
  }

  /** The client is this peer, as which the server knows it. */
  #begin(session, resumed) {
    this.#session = session;
    this.#connected = true;
    this.#isLostTold = false;
    this.#toldList = null;
    this.#isNew ||= !resumed;
    // The server may have been away.
    if (this.#polling.wasOpen) this.#polling.lasts = 0;
    if (this.#isShared) this.#store();
    this.#lock();
    this.#tell('connected', {id: session.id, resumed});
  }

  /** Why a page cannot reach the server, as far as browsers tell. */
  async #explained(error) {
    const page = globalThis.location;
    if (error instanceof SignalingError) return error;
    const because = (text) => new TypeError(text, {cause: error});
    const away = () => because(`${this.#url.origin} cannot be reached: is the server running there?`);
    if (!page || this.#url.origin === page.origin) return away();
    try {
      // Also a page that may not read the answer gets one.
      const signal = AbortSignal.timeout?.(PATIENCE_MS / 3);
      await fetch(new URL('/healthz', this.#url), {mode: 'no-cors', cache: 'no-store', signal});
    } catch {
      const isBlocked = page.protocol === 'https:' && this.#url.protocol === 'http:';
      return isBlocked ? because(`pages on https cannot use a server on http: ${this.#url}`) : away();
    }
    return because(`the server answers, but not to pages of ${page.origin}: its operator can allow them in WEBRTC_CORS`);
  }

  /** Shows the access token; asks for another one, once, if the server does not take it. */
  async #fetchWithAccess(session, path, query, signal) {
    this.#shownToken ??= await this.#askForToken(signal);
    for (let isAgain = false; ; isAgain = true) {
      const shown = this.#shownToken;
      try {
        return await this.#fetch(session, path, query, {headers: shown && {Authorization: `Bearer ${shown}`}});
      } catch (error) {
        if (error.status !== 401 || isAgain) throw error;
        this.#shownToken = await this.#askForToken(signal);
        if (this.#shownToken === shown) throw error;
      }
    }
  }

  /** The access token. Nobody has to wait for it when the client is closed. */
  async #askForToken(signal) {
    let close;
    const isClosed = new Promise((_, reject) => { close = () => reject(closed()); });
    signal.addEventListener('abort', close);
    if (signal.aborted) close();
    const asked = (async () => this.#accessToken())();
    const token = await Promise.race([asked, isClosed]).finally(() => signal.removeEventListener('abort', close));
    if (token !== undefined && !/^[\x21-\x7e]+$/.test(token)) {
      throw new SignalingError(401, 'the access token is empty, or has a character that no token has');
    }
    return token;
  }

  #hear(session, answer) {
    mustBeWhole(answer);
    const seq = Number(answer.headers.get('X-Message-Seq') ?? 0);
    if (seq === 0) {
      this.#hearList(answer.text);
    } else if (seq > session.ack) {
      // A lower or equal number is a repeat, whose acknowledgement was lost: it is skipped.
      session.ack = seq;
      const from = Number(answer.headers.get('Pragma'));
      this.#tell('message', {from, data: parsed(answer.text)});
    }
  }

  /** The list as text. */
  #hearList(list) {
    this.#hearPeers(list.split('\n').filter((line) => line !== '').map((line) => {
      const [, name, id, status] = /^(.*),(\d+),([01])$/.exec(line) ?? [];
      return {id: Number(id), name, connected: status === '1'};
    }));
  }

  #hearPeers(all) {
    const peers = all.filter(({id}) => id > 0 && id !== this.id);
    // A wait that ends without news returns the same list again.
    const list = JSON.stringify(peers);
    if (list === this.#toldList) return;
    this.#toldList = list;
    const without = (some, others) => {
      const ids = new Set(others.map(({id}) => id));
      return some.filter(({id}) => !ids.has(id));
    };
    const before = this.#peers;
    this.#peers = peers;
    // To a new peer the same ids may mean others: a server that is restarted numbers from 1 again.
    const isNew = this.#isNew;
    this.#isNew = false;
    const [joined, left] = isNew ? [peers, before] : [without(peers, before), without(before, peers)];
    this.#tell('peers', {peers, joined, left});
  }

  /** How often a heartbeat is due, in ms: a server that was restarted may want another interval. */
  #setBeat(interval, signal) {
    this.#beatEvery = interval;
    clearInterval(this.#timer);
    this.#timer = setInterval(() => this.#beat(signal), Math.min(interval, 2 ** 31 - 1));
  }

  /**
   * Sends a heartbeat. Called by the timer, and when a wait returns, because browsers
   * slow the timers of hidden pages to one a minute.
   */
  #beat(signal) {
    // An open socket is enough.
    if (this.#isLeft || this.#socket) return;
    if (isWithin(this.#lastBeat, this.#beatEvery * 0.9) || !this.#connected || !this.#session) return;
    this.#lastBeat = Date.now();
    this.#fetch(this.#session, 'heartbeat', {}, {}, signal).catch(async (error) => {
      this.#lastBeat = 0;
      // Otherwise the wait finds out.
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
      // From another origin, a header would cost a preflight for each request.
      if (globalThis.location && url.origin !== globalThis.location.origin) {
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
      // Not `text()`, which removes a byte order mark from a message.
      const text = new TextDecoder('utf-8', {ignoreBOM: true}).decode(await answer.arrayBuffer());
      if (answer.status !== 200) {
        const retryAfter = Number(answer.headers.get('Retry-After')) * 1000 || 0;
        const isOther = /html/.test(answer.headers.get('Content-Type'));
        const why = isOther ? `${this.#url} is not a signaling server: it answered ${answer.status}` : text.trim();
        throw new SignalingError(answer.status, why, answer.headers.get('X-Error'), retryAfter);
      }
      return {headers: answer.headers, text};
    } finally {
      clearTimeout(timer);
      closing?.removeEventListener('abort', abort);
    }
  }

  /** A pause that grows with each attempt, and differs between clients. */
  #pause(tries, signal, error = null) {
    const longest = Math.min(FIRST_PAUSE_MS * 2 ** tries, LONGEST_PAUSE_MS);
    const asked = Math.min(error?.status === 429 ? error.retryAfter : 0, LONGEST_ASKED_PAUSE_MS);
    return sleep(asked + longest * (0.5 + Math.random() / 2), signal, this.#waking.signal);
  }

  /** Retries at once whatever is waiting for its next attempt. */
  #wake() {
    this.#waking.abort();
    this.#waking = new AbortController();
  }

  /** Dispatched once, with the first error; without an error only if it was connected. */
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
    this.#unlock();
    this.#tabs?.close();
    this.#tabs = null;
    clearInterval(this.#timer);
    // Another user may be next.
    this.#shownToken = null;
    this.#closing?.abort();
    this.#closing = null;
    this.#ready = null;
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, {detail}));
  }

  /**
   * Id and token are stored only while no page uses them: a duplicated tab gets a
   * copy of the storage.
   */
  #watchPage(signal) {
    const listen = (target, type, listener) => target.addEventListener(type, listener, {signal});
    listen(globalThis, 'pagehide', () => {
      this.#store();
      this.#tabs?.close();
      // The browser keeps no page that holds a lock or a socket.
      this.#unlock();
      // A page that went on polling would seem to be open.
      this.#isLeft = true;
      this.#shown = new Promise((resolve) => { this.#show = resolve; });
      this.#socket?.close();
      const session = this.#session;
      if (!session) return;
      const url = new URL('sign_out', this.#url);
      const query = {peer_id: session.id, peer_token: session.token, grace: GRACE_MS};
      for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
      // If the beacon is refused (too many are under way), a request is sent.
      const isSent = quietly(() => navigator.sendBeacon(url));
      if (!isSent) quietly(() => fetch(url, {method: 'POST', keepalive: true}).catch(() => {}));
    });
    listen(globalThis, 'pageshow', ({persisted}) => {
      if (persisted) this.#takeBack();
    });
    listen(document, 'freeze', () => this.#store());
    listen(document, 'resume', () => this.#takeBack());
    listen(globalThis, 'online', () => {
      this.#polling.lasts = 0;
      this.#endWait();
      this.#wake();
    });
    listen(document, 'visibilitychange', () => {
      if (document.visibilityState === 'visible') {
        this.#wake();
        this.#beat(signal);
      }
    });
  }

  /** The page is back: the server may be about to sign out its peer. */
  #takeBack() {
    this.#catchUp();
    if (!this.#isShared) this.#forget();
    this.#lock();
    this.#isLeft = false;
    this.#show();
    this.#lastBeat = 0;
    this.#beat(this.#closing.signal);
    this.#wake();
  }

  // Storage may be full, or forbidden to the page: then a reloaded page is another
  // peer, and nothing else changes.

  #store() {
    if (!this.#session) return;
    quietly(() => this.#storage?.setItem(this.#key, JSON.stringify(this.#session)));
  }

  /**
   * What is stored, to be used once, unless tabs share it: all peers that this tab was at the
   * server, under whatever name, or the one to keep.
   */
  #restore() {
    const ofTab = () => Object.keys(this.#storage).filter((key) => key.startsWith(this.#keys));
    const keys = this.#keeps ? [this.#key] : quietly(ofTab) ?? [];
    const sessions = keys.map((key) => this.#stored(key));
    if (!this.#isShared) keys.forEach((key) => this.#forget(key));
    return sessions.filter(Boolean);
  }

  /** What becomes of the peer that this page was before it was loaded again. */
  async #takeOver(former) {
    // The storage of a tab that is duplicated is copied: another page may still be that peer.
    const isGone = this.#isShared || await this.#isFree(former);
    if (this.#keeps) {
      if (isGone !== false) this.#session = former;
    } else if (isGone ?? isReload()) {
      // Not waited for: the server may be away.
      this.#signOut(former);
    }
  }

  /** Whether no page holds the lock of a peer; null where there are no locks. */
  async #isFree(session) {
    await unlocked;
    try {
      return await navigator.locks.request(this.#lockOf(session), {ifAvailable: true}, (lock) => lock !== null);
    } catch {
      return null;
    }
  }

  #lockOf({id, token}) {
    return `${this.#keys}${id} ${token}`;
  }

  /** Shows other tabs that this peer is alive, where there are locks. */
  #lock() {
    const session = this.#session;
    if (!this.#inPage || !session || this.#isShared) return this.#unlock();
    const name = this.#lockOf(session);
    // Letting go of it in between would show others a peer that is gone.
    if (name === this.#locked) return;
    this.#unlock();
    let release;
    let isReleased = false;
    const released = new Promise((resolve) => { release = resolve; });
    // A request that is aborted may hold the lock a moment longer, and nobody can tell until when.
    const request = async () => {
      while (!isReleased) {
        const held = await navigator.locks.request(name, {ifAvailable: true}, (lock) => lock && released.then(() => true));
        // Another tab has looked whether it is free.
        if (!held) await sleep(FIRST_PAUSE_MS);
      }
    };
    const lock = unlocked.then(request).catch(() => {});
    this.#locked = name;
    this.#unlock = () => {
      isReleased = true;
      release();
      unlocked = Promise.all([unlocked, lock]).then(() => {});
      this.#locked = null;
      this.#unlock = () => {};
    };
  }

  /** Another page may have been this peer meanwhile, and have used up numbers. */
  #catchUp() {
    const {id, token, ack, seq} = this.#stored() ?? {};
    const session = this.#session;
    if (!session || session.id !== id || session.token !== token) return;
    session.ack = Math.max(session.ack, ack);
    session.seq = Math.max(session.seq, seq);
  }

  /** What is stored, `{id, token, ack, seq}`; nothing if it cannot be read. */
  #stored(key = this.#key) {
    const stored = quietly(() => this.#storage?.getItem(key));
    return stored && quietly(() => JSON.parse(stored));
  }

  #forget(key = this.#key) {
    quietly(() => this.#storage?.removeItem(key));
  }
}

/** A WebSocket in the form of the server that numbers messages. */
class Socket {
  #socket;
  #closed = new AbortController();
  #maxBytes = 0;
  /** What to tell of each message that was sent and not answered yet, by its number. */
  #unanswered = new Map();
  #heardNext = new AbortController();
  /** How many frames have come. */
  heard = 0;
  /** Whether it could be opened. */
  opened;
  /** Why the server has closed it. */
  code = null;
  /**
   * Whether a message that is not a repeat came through it. Those that were sent do not count: a
   * proxy may cut each socket at the same message that is to come.
   */
  hasSucceeded = false;

  /** `hears`: what is done with each type of frame. */
  constructor(url, hears) {
    const socket = quietly(() => new WebSocket(url));
    if (!socket) {
      // Firefox throws where the page's CSP forbids it.
      this.#closed.abort();
      this.opened = Promise.resolve(false);
      return;
    }
    this.#socket = socket;
    this.opened = new Promise((resolve) => {
      const timer = setTimeout(() => this.close(), OPENING_MS);
      this.signal.addEventListener('abort', () => { clearTimeout(timer); resolve(false); });
      this.#socket.addEventListener('message', ({data}) => {
        if (this.isClosed) return;
        this.heard += 1;
        this.#heardNext.abort();
        const frame = quietly(() => JSON.parse(data));
        // Not this server.
        if (!frame) return this.close();
        if (frame.type === 'id') {
          clearTimeout(timer);
          this.#maxBytes = frame.maxFrameBytes;
          resolve(true);
        } else if (frame.type === 'peers') {
          hears.peers(frame.peers);
        } else if (frame.type === 'message') {
          this.#say({type: 'ack', seq: hears.message(frame)});
        } else {
          this.#answered(frame);
        }
      });
    });
    this.#socket.addEventListener('close', ({code}) => {
      this.code = code;
      this.close();
    });
  }

  get isClosed() {
    return this.signal.aborted;
  }

  /** Aborted when it is closed, by either side. */
  get signal() {
    return this.#closed.signal;
  }

  /** Aborted when the next frame comes. */
  nextHeard() {
    this.#heardNext = new AbortController();
    return this.#heardNext.signal;
  }

  beat() {
    this.#say({type: 'heartbeat'});
  }

  /** Sends a message. False if it is too large for a frame; rejects if the server refuses it. */
  async send(seq, to, data) {
    const frame = JSON.stringify({type: 'message', seq, to, data});
    if (new TextEncoder().encode(frame).length > this.#maxBytes) return false;
    if (this.isClosed) throw new TypeError('the WebSocket is closed');
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.close(), PATIENCE_MS);
      const settle = (settled, value) => {
        clearTimeout(timer);
        this.#unanswered.delete(seq);
        settled(value);
      };
      this.#unanswered.set(seq, {
        sent: () => settle(resolve, true),
        failed: (error) => settle(reject, error),
      });
      this.#socket.send(frame);
    });
  }

  #answered({type, seq, error}) {
    // One that the server could not read has no number; only one is sent at a time.
    const message = this.#unanswered.get(seq) ?? (type === 'refused' && seq === undefined ? [...this.#unanswered.values()][0] : undefined);
    if (type === 'sent') message?.sent();
    const [status, text] = REFUSED[error] ?? [400, `the server refused the message: ${error}`];
    if (type === 'refused') message?.failed(new SignalingError(status, text, error));
  }

  #say(frame) {
    if (!this.isClosed) this.#socket.send(JSON.stringify(frame));
  }

  close() {
    if (this.isClosed) return;
    this.#closed.abort();
    this.#socket.close();
    for (const {failed} of [...this.#unanswered.values()]) failed(new TypeError('the WebSocket was closed'));
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

  /** `crowded` is called when another tab opens and there are now too many. */
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

  /** Whether there are more tabs than may wait at a time. */
  areMany() {
    const now = Date.now();
    for (const [id, heard] of this.#others) {
      if (now - heard > TAB_LIFE_MS) this.#others.delete(id);
    }
    this.#say('here');
    return this.#others.size + 1 > WAITS_AT_ONCE;
  }

  /** The name of a lock that one waiting tab holds at a time. */
  place() {
    return `${this.#name} ${Math.floor(Math.random() * WAITS_AT_ONCE)}`;
  }

  /** How long this tab opens no wait, in ms, so that others can, where there are no locks. */
  pause() {
    const share = (this.#others.size + 1) / WAITS_AT_ONCE;
    return Math.max(share - 1, 0) * TURN_MS * (0.5 + Math.random());
  }

  #say(says) {
    quietly(() => this.#channel?.postMessage({id: this.#id, says}));
  }
}

/** Whether less than `ms` have passed since then. Not if the clock was set back meanwhile. */
function isWithin(since, ms) {
  const passed = Date.now() - since;
  return passed >= 0 && passed < ms;
}

/** Calls a function that may throw, as much of a browser does for pages with few rights. */
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

/** Whether the page was loaded again, as far as browsers tell. */
function isReload() {
  return globalThis.performance?.getEntriesByType('navigation')[0]?.type === 'reload';
}

/** Parses a message if it is a JSON object or array; returns any other message as text. */
function parsed(text) {
  if (!/^\s*[{[]/.test(text)) return text;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/**
 * Chromium takes a connection that is cut within the headers for a complete answer
 * without a body, with the headers that it got so far.
 */
function mustBeWhole({headers, text}) {
  if (text === '' && headers.get('Content-Length') !== '0') {
    throw new TypeError('the answer was cut off');
  }
}

/** Whether a failed request may succeed when it is repeated. */
function mayPass(error) {
  return !(error instanceof SignalingError) || error.status >= 500 || [408, 429].includes(error.status);
}

/** Whether a message was refused because the mailbox of its receiver is full. */
function isFull(error) {
  return error.code === 'mailbox_full';
}

/** Whether the server does not know the peer, or its token is wrong. */
function isRefused(error) {
  return error.status === 403 || error.status === 404;
}

/** Whether the server does not let this client in. */
function isDenied(error) {
  return error.status === 401 || error.status === 403;
}

/** What is told of a peer that the server does not serve any more, and why, if there is an answer. */
function removed(cause) {
  const text = 'the server refuses this peer, and may have removed it: the client signs in again';
  return new SignalingError(0, text, null, 0, cause && {cause});
}

function closed() {
  return new SignalingError(0, 'the client was closed');
}

function sessionStorageIfAny() {
  try {
    return globalThis.document ? globalThis.sessionStorage : null;
  } catch {
    // This page may not use it.
    return null;
  }
}
