/**
 * WebRTC connections to other peers, negotiated over a `SignalingClient`: an ES module for
 * pages, without dependencies.
 *
 *     import {SignalingClient} from 'http://localhost:3000/client.js';
 *     import {PeerConnections} from 'http://localhost:3000/rtc.js';
 *     const signaling = new SignalingClient('http://localhost:3000', {name: 'alice'});
 *     const connections = new PeerConnections(signaling);
 *     connections.addEventListener('connection', ({detail: {peer, connection}}) => {
 *       connection.addEventListener('datachannel', ({channel}) => console.log(peer, channel));
 *     });
 *     await signaling.connect();
 *     const connection = await connections.connectTo(7);
 *     const channel = connection.createDataChannel('chat');
 *
 * Either side may add tracks and channels at any time, also both at once (perfect negotiation:
 * https://www.w3.org/TR/webrtc/#perfect-negotiation-example). A connection that is cut is
 * negotiated again, as long as both peers are signed in.
 *
 * On the wire each message is `{rtc: {session, to, ..}}` with `description`, `candidate` or
 * `closed`. `session` names the sender's connection, `to` that of the receiver, once it is
 * known: so that what is on its way when a page reloads does not reach the next connection.
 */

/** A connection that is disconnected for this long, in ms, is negotiated again. */
const DISCONNECTED_MS = 3_000;

export class PeerConnections extends EventTarget {
  #signaling;
  #configuration;
  /** The links by the id of the other peer. */
  #links = new Map();
  /** Those whose peer has left: its id may be another's from then on. */
  #left = new Set();
  /** Aborted to stop listening. */
  #closing = new AbortController();

  /**
   * @param {SignalingClient} signaling
   * @param {RTCConfiguration} configuration That of each connection. Without `iceServers`, those
   *   that the server names are used.
   */
  constructor(signaling, configuration = {}) {
    super();
    this.#signaling = signaling;
    this.#configuration = configuration;
    const {signal} = this.#closing;
    signaling.addEventListener('message', ({detail: {from, data}}) => {
      if (data?.rtc) this.#hear(from, data.rtc);
    }, {signal});
    signaling.addEventListener('peers', ({detail: {left}}) => {
      for (const {id} of left) {
        const link = this.#links.get(id);
        if (link) this.#leave(link);
      }
    }, {signal});
    // The others notice it at once, and not when nothing has come for some seconds.
    globalThis.addEventListener?.('pagehide', () => {
      for (const link of this.#all()) this.#close(link);
    }, {signal});
  }

  /**
   * The connection to a peer: the existing one, or a new one. It is negotiated once
   * something is added to it, such as a data channel or a track.
   * @param {number} peer The id of the peer.
   */
  async connectTo(peer) {
    const id = Number(peer);
    if (this.#closing.signal.aborted) throw new TypeError('these connections are closed: make new ones');
    if (this.#signaling.id === null) throw new TypeError('the client is not connected: await its connect() first');
    if (id === this.#signaling.id) throw new TypeError(`peer ${peer} is this client itself`);
    if (!(id > 0)) throw new TypeError(`not the id of a peer, as the client's list has them: ${peer}`);
    const link = this.#links.get(id) ?? this.#add(id);
    await link.ready;
    return link.connection;
  }

  /**
   * Closes a connection, and tells the other side.
   * @param {number|RTCPeerConnection} which The id of the peer, or the connection itself: a server
   *   that was restarted may have given that id to another peer.
   */
  disconnect(which) {
    for (const link of this.#all()) {
      const isIt = link.peer === Number(which) || (link.connection !== null && link.connection === which);
      if (!isIt) continue;
      this.#send(link, {closed: true});
      this.#close(link);
    }
  }

  /** Closes all connections, and takes no more. */
  close() {
    this.#closing.abort();
    for (const {peer} of this.#all()) this.disconnect(peer);
  }

  #all() {
    return [...this.#links.values(), ...this.#left];
  }

  #add(peer) {
    const link = {peer, session: random(), theirs: null, connection: null, work: Promise.resolve()};
    this.#links.set(peer, link);
    link.ready = this.#open(link).catch((error) => {
      if (this.#links.get(peer) === link) this.#links.delete(peer);
      throw error;
    });
    return link;
  }

  async #open(link) {
    const iceServers = this.#configuration.iceServers ?? await this.#signaling.iceServers();
    if (this.#links.get(link.peer) !== link) throw new Error('the connection was closed');
    const connection = new RTCPeerConnection({...this.#configuration, iceServers});
    link.connection = connection;
    link.isOffering = false;
    connection.addEventListener('negotiationneeded', () => this.#offer(link));
    link.gathering = new Promise((begun) => connection.addEventListener('icecandidate', begun, {once: true}));
    connection.addEventListener('icecandidate', ({candidate}) => {
      if (candidate) this.#send(link, {candidate});
    });
    connection.addEventListener('connectionstatechange', () => this.#watch(link));
    // Before anything is negotiated, so that listeners miss nothing.
    this.#tell('connection', link);
  }

  async #offer(link) {
    if (this.#left.has(link)) return this.#failed(link, hasLeft());
    link.isOffering = true;
    try {
      await link.connection.setLocalDescription();
      this.#send(link, {description: link.connection.localDescription});
    } catch (error) {
      this.#failed(link, error);
    } finally {
      link.isOffering = false;
    }
  }

  /** The state of the connection has changed. */
  #watch(link) {
    clearTimeout(link.timer);
    if (this.#closeIfDead(link)) return;
    const {connectionState} = link.connection;
    if (connectionState === 'failed') link.connection.restartIce();
    if (connectionState === 'disconnected') {
      link.timer = setTimeout(() => link.connection.restartIce(), DISCONNECTED_MS);
    }
  }

  /**
   * A peer that has left may still be connected: only the server may have been lost. But
   * nothing can be negotiated with it any more.
   */
  #leave(link) {
    this.#links.delete(link.peer);
    this.#left.add(link);
    if (!this.#closeIfDead(link) && link.connection.signalingState !== 'stable') this.#failed(link, hasLeft());
  }

  #closeIfDead(link) {
    const state = link.connection?.connectionState;
    const isDead = state === 'closed' || (this.#left.has(link) && state !== 'connected');
    if (isDead) this.#close(link);
    return isDead;
  }

  #close(link) {
    clearTimeout(link.timer);
    if (!this.#left.delete(link)) {
      if (this.#links.get(link.peer) !== link) return;
      this.#links.delete(link.peer);
    }
    link.connection?.close();
    this.#tell('disconnection', link);
  }

  #hear(from, {session, to, description, candidate, closed}) {
    let link = this.#links.get(from);
    const isForAnother = to !== undefined && to !== link?.session;
    if (isForAnother) {
      // It is for a connection that this page does not have any more.
      if (!closed) this.#sendTo(from, {session: to, to: session, closed: true}).catch(() => {});
      return;
    }
    const isAnother = link?.theirs && link.theirs !== session;
    if (closed) {
      if (link && !isAnother) this.#close(link);
      return;
    }
    if (description?.type === 'offer' && (!link || isAnother)) {
      // The other side begins a connection, perhaps in place of one that it has lost.
      if (link) this.#close(link);
      link = this.#add(from);
      // Without ICE servers, for example.
      link.ready.catch(() => this.#sendTo(from, {session: link.session, to: session, closed: true}).catch(() => {}));
    } else if (!link || isAnother) {
      return;
    }
    link.theirs = session;
    // One after the other.
    link.work = link.work.then(() => this.#take(link, description, candidate))
      .catch((error) => this.#failed(link, error));
  }

  async #take(link, description, candidate) {
    await link.ready;
    const {connection} = link;
    if (connection.signalingState === 'closed') return;
    if (description) {
      // Of two offers that meet, that of the peer with the lower id is taken.
      const isPolite = this.#signaling.id > link.peer;
      const meets = description.type === 'offer' && (link.isOffering || connection.signalingState !== 'stable');
      link.isIgnoring = meets && !isPolite;
      if (link.isIgnoring) return;
      // Chromium 156 gathers no candidates at all if its offer is rolled back before it has begun
      // to (2 of 60 connections that began at the same time stayed `new`, on a busy machine).
      if (meets) await link.gathering;
      await connection.setRemoteDescription(description);
      if (description.type === 'offer') {
        await connection.setLocalDescription();
        this.#send(link, {description: connection.localDescription});
      }
    } else if (candidate) {
      try {
        await connection.addIceCandidate(candidate);
      } catch (error) {
        // Those of an offer that was not taken.
        if (!link.isIgnoring) throw error;
      }
    }
  }

  #send(link, message) {
    // Another peer may have the id of one that has left.
    if (this.#links.get(link.peer) !== link) {
      if (message.description) this.#failed(link, hasLeft());
      return;
    }
    const sent = this.#sendTo(link.peer, {session: link.session, ...(link.theirs && {to: link.theirs}), ...message});
    sent.catch((error) => {
      if (this.#links.get(link.peer) !== link) return;
      // The other peer is not signed in, or this client is another peer by now.
      if ([0, 403, 404].includes(error.status)) this.#leave(link);
      else this.#failed(link, error);
    });
  }

  /** Resolves when the server has the message. */
  #sendTo(peer, rtc) {
    return this.#signaling.send(peer, {rtc});
  }

  /** Nothing more can be negotiated: the other side began again, or one of both has a fault. */
  #failed(link, error) {
    if (link.connection?.signalingState === 'closed') return;
    this.dispatchEvent(new CustomEvent('failure', {detail: {peer: link.peer, connection: link.connection, error}}));
  }

  #tell(type, {peer, connection}) {
    this.dispatchEvent(new CustomEvent(type, {detail: {peer, connection}}));
  }
}

function hasLeft() {
  return new Error('the peer has left: nothing more can be negotiated with it');
}

/** A name that no other connection has. */
function random() {
  return crypto.getRandomValues(new Uint32Array(2)).join('-');
}
