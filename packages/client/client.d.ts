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
   * left. If this client has become a new peer (`connected` with `resumed: false`), `left` has all
   * earlier peers and `joined` has all current ones.
   */
  peers: CustomEvent<{peers: Peer[]; joined: Peer[]; left: Peer[]}>;
  /** A message. A JSON object or array arrives parsed, anything else as a string. */
  message: CustomEvent<{from: number; data: any}>;
  /** The client is signed in. `resumed`: whether it is the same peer as before. */
  connected: CustomEvent<{id: number; resumed: boolean}>;
  /**
   * The client is not connected, and `cause` says why; this is also dispatched if the first
   * attempt fails. The client keeps trying, unless `connect` rejects or the cause is a
   * `SignalingError` with `status` 401 or 403: then the server has refused the client. With
   * `status` 0, the server may have removed the peer: the client signs in again, and `resumed` of
   * `connected` tells whether it is a new one; the answer of the server is the `cause` of that
   * error. Without a cause, the client was closed.
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
  /** `url`: the URL of the server. */
  constructor(
    url: string | URL,
    options: {
      /** The name in the list. */
      name: string;
      /** The room. By default, the one in the URL (`/rooms/NAME`), if there is one. */
      room?: string | null;
      /**
       * The access token, or a function that returns one. The function is called again when the
       * token is no longer valid.
       */
      accessToken?: string | (() => string | Promise<string>);
      /** How the client receives. `auto`: through a WebSocket if one opens, otherwise by long polls. */
      transport?: 'auto' | 'websocket' | 'poll';
      /** Whether a reloaded page stays the same peer. By default only if `storage` is given. */
      keep?: boolean;
      /** Where ID and token are kept during a reload; null: nowhere. By default `sessionStorage`. */
      storage?: Pick<Storage, 'getItem' | 'setItem' | 'removeItem'> | null;
      /** Whether other tabs use the same storage, one client at a time. */
      shared?: boolean;
    },
  );
  /** The id of this peer, once it has one. */
  readonly id: number | null;
  /** The other peers. */
  readonly peers: Peer[];
  /**
   * Whether the client is signed in and reaches the server. A single cut, which the client repairs
   * at once, does not change it.
   */
  readonly connected: boolean;
  /** Signs in. Resolves when the peer is in the list. */
  connect(): Promise<void>;
  /** Signs out. This also signs out a peer that `leave` left in the list. */
  close(): Promise<void>;
  /**
   * Stops without signing out: until the peer times out, the next client with this storage and
   * name is the same peer, if that client has `keep`.
   */
  leave(): void;
  /**
   * Sends a string, or an object or array as JSON. Resolves when the server has accepted the
   * message. Rejects with a `SignalingError` if the receiver is not signed in (`status` 404), its
   * mailbox has been full for half a minute (503), the message is too large (413), this peer was
   * removed (0, 403 or 404), or another client has sent messages as this peer (409). Throws a
   * `TypeError` if `to` is not the ID of a peer.
   */
  send(to: number | string, data: string | object): Promise<void>;
  /**
   * The ICE servers of the server, for `new RTCPeerConnection({iceServers})`, with credentials
   * that are about to expire replaced by new ones. Rejects with a `SignalingError` if the server
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
