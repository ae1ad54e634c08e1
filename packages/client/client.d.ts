/** Another peer, in the last list. */
export interface Peer {
  id: number;
  name: string;
  /** Whether it is reachable at this moment. */
  connected: boolean;
}

/** The `detail` of each event of the client. */
export interface SignalingEvents {
  /**
   * The other peers, after each change: all of them, those that have joined, and those that have
   * left. When this client has become another peer (`connected` with `resumed: false`), all
   * before have left and all now have joined.
   */
  peers: CustomEvent<{peers: Peer[]; joined: Peer[]; left: Peer[]}>;
  /** A message: a JSON object or array as such, any other as a string. */
  message: CustomEvent<{from: number; data: any}>;
  /** The server was reached; `resumed`: as the same peer as before. */
  connected: CustomEvent<{id: number; resumed: boolean}>;
  /**
   * The server cannot be reached, also at first: `cause` is why (the client goes on
   * trying, unless `connect` rejects, or the cause is a `SignalingError` with `status` 401 or
   * 403: the server does not let it in). Without a cause the client was closed.
   */
  disconnected: CustomEvent<{cause?: Error}>;
}

/** The server refused, and would refuse again. */
export class SignalingError extends Error {
  /** The HTTP status; 0 if the client was closed or its peer removed. */
  readonly status: number;
  /** What the server calls the error (`mailbox_full`); null if it has no name for it. */
  readonly code: string | null;
  /** How long the server asks to wait before the next try, in ms; 0 if it does not say. */
  readonly retryAfter: number;
}

/** A client that survives lost connections: each message arrives once, in order. */
export class SignalingClient extends EventTarget {
  /**
   * @param url The URL of the server.
   * @param options The name in the list; the room, by default the one that the URL names
   *   as `/rooms/NAME`, if it does; the access token, if the server wants one, or a function
   *   that is called for it, and for another one when it is not valid any more; how the client
   *   hears (by default through a WebSocket where one opens, and else by long polls); whether
   *   a page that is loaded again is the same peer (by default only if `storage` is given); the
   *   storage that keeps id and token meanwhile (null: none), by default `sessionStorage`; and
   *   whether other tabs use that storage too, one client at a time.
   */
  constructor(
    url: string | URL,
    options: {
      name: string;
      room?: string | null;
      accessToken?: string | (() => string | Promise<string>);
      transport?: 'auto' | 'websocket' | 'poll';
      keep?: boolean;
      storage?: Pick<Storage, 'getItem' | 'setItem' | 'removeItem'> | null;
      shared?: boolean;
    },
  );
  /** The id of this peer, once it has one. */
  readonly id: number | null;
  /** The other peers. */
  readonly peers: Peer[];
  /** Whether the client is signed in and reaches the server. One cut connection does not count. */
  readonly connected: boolean;
  /** Signs in. Resolves when the peer is in the list. */
  connect(): Promise<void>;
  /** Signs out, also a peer that `leave` has left in the list. */
  close(): Promise<void>;
  /**
   * Stops without signing out: until the peer times out, the next client with this storage and
   * name is the same peer, if it keeps its peer.
   */
  leave(): void;
  /**
   * Sends a string, or an object or array as JSON. Resolves when the server
   * has accepted it. Rejects with a `SignalingError` if the receiver is not signed in
   * (`status` 404), has taken no messages for half a minute (503), or the message is
   * too large (413); if this peer was removed (0, 403 or 404); and if another page that
   * was this peer has sent messages meanwhile (409).
   */
  send(to: number | string, data: string | object): Promise<void>;
  /**
   * The ICE servers of the server, for `new RTCPeerConnection({iceServers})`, with credentials
   * that are about to end replaced by new ones. Rejects with a `SignalingError` if the server
   * tells them only to peers, and this client is not signed in.
   */
  iceServers(): Promise<{urls: string[]; username?: string; credential?: string}[]>;
  addEventListener<K extends keyof SignalingEvents>(
    type: K,
    listener: (event: SignalingEvents[K]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof SignalingEvents>(
    type: K,
    listener: (event: SignalingEvents[K]) => void,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}
