/**
 * Signs in, unless that was done before. Resolves when the peer is in the list.
 * With `shared: true` all tabs of a browser profile are one peer.
 */
export function heartbeatStart(options: {
  name: string;
  url?: string | URL;
  shared?: boolean;
  /**
   * As for `SignalingClient`. If the server refuses it later, the heartbeat is stopped: start it
   * with another one.
   */
  accessToken?: string | (() => string | Promise<string>);
}): Promise<void>;

/** Signs out. Of several tabs that share a peer, the last signs out. */
export function heartbeatStop(): Promise<void>;
