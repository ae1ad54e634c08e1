import type {SignalingClient} from './client.js';

/** The `detail` of each event of the connections. */
export interface PeerConnectionsEvents {
  /** A connection was created, by either side. Add your listeners to it here. */
  connection: CustomEvent<{peer: number; connection: RTCPeerConnection}>;
  /** A connection was closed, by the other peer or because the other peer has left. */
  disconnection: CustomEvent<{peer: number; connection: RTCPeerConnection | null}>;
  /**
   * A description or candidate of the other peer cannot be used, or it has left, so that nothing
   * more can be negotiated: no other track or channel. What is open stays open.
   */
  failure: CustomEvent<{peer: number; connection: RTCPeerConnection | null; error: Error}>;
}

/** WebRTC connections to other peers, negotiated over a `SignalingClient`. */
export class PeerConnections extends EventTarget {
  /**
   * @param configuration The configuration of each `RTCPeerConnection`. Without `iceServers`, the
   *   ICE servers of the signaling server are used.
   */
  constructor(signaling: SignalingClient, configuration?: RTCConfiguration);
  /**
   * Resolves with the connection to a peer: the existing one, or a new one. The connection is
   * negotiated when you add a data channel or a track to it. Rejects if
   * `SignalingClient.iceServers` rejects, if the client has not connected yet, or if this is not the
   * ID of another peer.
   */
  connectTo(peer: number | string): Promise<RTCPeerConnection>;
  /**
   * Closes the connection to a peer, or this connection, and tells the other side. A restarted
   * server may have given the ID of the peer to another one: then name the connection.
   */
  disconnect(which: number | string | RTCPeerConnection): void;
  /** Closes all connections, and takes no more. */
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
