// A small Socket.IO client: the namespace "/" over a WebSocket (Engine.IO 4),
// for pages that have no client of their own. It reconnects by itself.
//
//   const socket = io.connect(url, {auth, path, reliable});
//   socket.on(event, listener), socket.off(event, listener)
//   socket.emit(event, ...arguments, acknowledgement)
//   socket.connect(), socket.disconnect(), socket.connected, socket.id
//
// Events of its own: connect, disconnect (reason), connect_error (error).
//
// `path` is the path of Socket.IO on the server. By default it is below the path of the
// URL, or beside this script: this finds a server behind https://example.org/signal/.
//
// With `reliable: true` the server recognizes the client after a lost connection:
// each "message" arrives once and in order, in both directions.
(() => {
  'use strict';
  if (window.io) return;

  const FIRST_DELAY = 300; // ms until the first attempt to reconnect
  const LONGEST_DELAY = 5000; // ms
  const WINDOW = 64; // messages that may be on their way at a time,
  const WINDOW_LENGTH = 32 * 1024; // and their length together, but for a single one
  const DEFAULT_SILENCE = 45000; // ms without a ping until the server says more

  // The URL of the server, if this script came from it.
  const source = document.currentScript && document.currentScript.src;
  const isOurs = /\/(socket\.io\/socket\.io|reliable-signaler\/signaler)\.js(\?|$)/.test(source);
  const base = isOurs ? new URL('../', source) : null;

  const pathOf = (url) => {
    const isOwn = base && base.origin === url.origin;
    const path = url.pathname === '/' && isOwn ? base.pathname : url.pathname;
    return path.replace(/\/?$/, '/socket.io/');
  };

  class Socket {
    constructor(url, {auth = {}, path, reliable = false} = {}) {
      this.connected = false;
      this.id = undefined;
      this._url = new URL(url || base || '/', location.href);
      this._url.pathname = path ? path.replace(/\/?$/, '/') : pathOf(this._url);
      this._url.protocol = this._url.protocol.replace(/^http/, 'ws');
      this._url.search = '?EIO=4&transport=websocket';
      this._auth = auth;
      this._listeners = new Map();
      this._acknowledgements = new Map();
      this._lastAcknowledgement = 0;
      this._buffer = []; // what was emitted while there was no connection
      this._attempts = 0;
      this._reliable = reliable;
      if (reliable) {
        this._key = [...crypto.getRandomValues(new Uint8Array(16))]
          .map((byte) => byte.toString(16).padStart(2, '0')).join('');
        this._sent = 0; // number of the last message that was sent
        this._unacknowledged = new Map(); // messages by their numbers
        this._passed = 0; // number of the last that went into this connection
        this._got = 0; // number of the last message that came
        addEventListener('pagehide', () => {
          this._isHidden = this._wanted;
          this.disconnect();
        });
        addEventListener('pageshow', () => {
          if (this._isHidden) this.connect();
        });
      }
      addEventListener('online', () => this._retryTimer && this._open());
      this.connect();
    }

    on(event, listener) {
      this._listeners.set(event, [...(this._listeners.get(event) || []), listener]);
      return this;
    }

    off(event, listener) {
      const others = (this._listeners.get(event) || []).filter((other) => other !== listener);
      this._listeners.set(event, listener ? others : []);
      return this;
    }

    emit(event, ...values) {
      const acknowledgement = typeof values.at(-1) === 'function' ? values.pop() : undefined;
      if (this._reliable && event === 'message') {
        this._sent += 1;
        const {length} = JSON.stringify(values);
        this._unacknowledged.set(this._sent, {values, length, acknowledgement});
        if (this.connected) this._sendWindow();
        return this;
      }
      const packet = [event, values, acknowledgement];
      if (this.connected) this._sendEvent(...packet);
      else this._buffer.push(packet);
      return this;
    }

    connect() {
      this._wanted = true;
      if (!this._transport && !this._retryTimer) this._open();
      return this;
    }

    disconnect() {
      this._wanted = false;
      clearTimeout(this._retryTimer);
      this._retryTimer = undefined;
      if (this._transport) {
        if (this.connected) this._transport.send('41');
        this._lost('io client disconnect');
      }
      return this;
    }

    _open() {
      clearTimeout(this._retryTimer);
      this._retryTimer = undefined;
      const transport = new WebSocket(this._url.href);
      this._transport = transport;
      const current = (handle) => (event) => transport === this._transport && handle(event);
      this._silence = DEFAULT_SILENCE;
      this._heard();
      transport.onmessage = current(({data}) => this._receive(data));
      transport.onclose = current(() => this._lost('transport close'));
    }

    // Only missing pings show that the connection is dead.
    _heard() {
      clearTimeout(this._silenceTimer);
      this._silenceTimer = setTimeout(() => this._lost('ping timeout'), this._silence);
    }

    _lost(reason) {
      const wasConnected = this.connected;
      const transport = this._transport;
      this._transport = undefined;
      this.connected = false;
      this.id = undefined;
      this._acknowledgements.clear();
      clearTimeout(this._silenceTimer);
      setTimeout(() => transport.close()); // after what was sent just now
      if (this._wanted) {
        const delay = Math.min(FIRST_DELAY * 2 ** this._attempts, LONGEST_DELAY);
        this._attempts += 1;
        this._retryTimer = setTimeout(() => this._open(), delay * (0.5 + Math.random()));
      }
      if (wasConnected) this._fire('disconnect', reason);
    }

    _receive(data) {
      this._heard();
      switch (data[0]) {
        case '0': {
          const {pingInterval, pingTimeout} = JSON.parse(data.slice(1));
          this._silence = pingInterval + pingTimeout;
          const session = this._reliable ? {session: this._key} : {};
          this._transport.send('40' + JSON.stringify({...this._auth, ...session}));
          break;
        }
        case '1':
          this._lost('transport close');
          break;
        case '2':
          this._transport.send('3' + data.slice(1));
          break;
        case '4':
          this._receivePacket(data[1], data.slice(2));
          break;
      }
    }

    _receivePacket(type, text) {
      const [, acknowledgement, json] = /^(\d*)(.*)$/s.exec(text);
      const value = json ? JSON.parse(json) : undefined;
      switch (type) {
        case '0':
          this.id = value && value.sid;
          if (!this._reliable) this._ready();
          break;
        case '1':
          // Sent away by the server. A reliable client may try again.
          this._wanted = this._reliable;
          this._lost('io server disconnect');
          break;
        case '2':
          this._receiveEvent(...value);
          break;
        case '3': {
          const answer = this._acknowledgements.get(acknowledgement);
          this._acknowledgements.delete(acknowledgement);
          if (answer) answer(...value);
          break;
        }
        case '4':
          this._wanted = this._reliable && value.message !== 'Authentication error';
          this._lost('connect error');
          this._fire('connect_error', Object.assign(new Error(value && value.message), value));
          break;
      }
    }

    _receiveEvent(event, ...values) {
      if (!this._reliable) {
        this._fire(event, ...values);
      } else if (event === 'resumed') {
        const [resumed] = values;
        if (!resumed) this._got = 0;
        this._ready();
      } else if (event === 'numbered') {
        const [number, ...message] = values;
        const isNew = number > this._got;
        this._got = Math.max(number, this._got);
        this._sendEvent('got', [this._got]);
        if (isNew && message.length) this._fire('message', ...message);
      } else {
        this._fire(event, ...values);
      }
    }

    _ready() {
      this.connected = true;
      this._attempts = 0;
      if (this._reliable) {
        this._passed = 0;
        this._sendWindow();
      }
      this._buffer.splice(0).forEach((packet) => this._sendEvent(...packet));
      this._fire('connect');
    }

    // A few at a time: the server stops reading while too much waits to be handled, and
    // has to read the acknowledgements that come behind.
    _sendWindow() {
      let [count, total] = [0, 0];
      for (const [number, {values, length, acknowledgement}] of this._unacknowledged) {
        count += 1;
        total += length;
        if (count > 1 && (count > WINDOW || total > WINDOW_LENGTH)) break;
        if (number <= this._passed) continue;
        this._passed = number;
        this._sendEvent('numbered', [number, ...values], (...answer) => {
          this._unacknowledged.delete(number);
          this._sendWindow();
          if (acknowledgement) acknowledgement(...answer);
        });
      }
    }

    _sendEvent(event, values, acknowledgement) {
      let id = '';
      if (acknowledgement) {
        id = String(this._lastAcknowledgement += 1);
        this._acknowledgements.set(id, acknowledgement);
      }
      this._transport.send('42' + id + JSON.stringify([event, ...values]));
    }

    _fire(event, ...values) {
      for (const listener of this._listeners.get(event) || []) {
        // An error of a listener must not break the connection.
        try {
          listener.apply(this, values);
        } catch (error) {
          setTimeout(() => { throw error; });
        }
      }
    }
  }

  const io = (url, options) => new Socket(url, options);
  io.connect = io;
  window.io = io;
})();
