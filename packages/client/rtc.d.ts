import type {SignalingClient} from './client.js';

/** The `detail` of each event of the connections. */
export interface PeerConnectionsEvents {
  /** There is a new connection, whichever side has begun it. Add your listeners to it here. */
  connection: CustomEvent<{peer: number; connection: RTCPeerConnection}>;
  /** A connection is closed: by the other peer, or because that peer is gone. */
  disconnection: CustomEvent<{peer: number; connection: RTCPeerConnection | null}>;
  /** A description or candidate of the other peer cannot be used. */
  failure: CustomEvent<{peer: number; connection: RTCPeerConnection | null; error: Error}>;
}

/** WebRTC connections to other peers, negotiated over a `SignalingClient`. */
export class PeerConnections extends EventTarget {
  /**
   * @param configuration That of each connection. Without `iceServers`, those that the server
   *   names are used.
   */
  constructor(signaling: SignalingClient, configuration?: RTCConfiguration);
  /**
   * The connection to a peer: the one that there is, or else a new one. It is negotiated once
   * something is added to it, such as a data channel or a track. Rejects if the ICE servers
   * cannot be found out, as `SignalingClient.iceServers` does.
   */
  connectTo(peer: number): Promise<RTCPeerConnection>;
  /** Closes the connection to a peer, and tells the peer. */
  disconnect(peer: number): void;
  /** Closes all connections. */
  close(): void;
  addEventListener<K extends keyof PeerConnectionsEvents>(
    type: K,
    listener: (event: PeerConnectionsEvents[K]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof PeerConnectionsEvents>(
    type: K,
    listener: (event: PeerConnectionsEvents[K]) => void,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}
