// What most applications need: signaling, and WebRTC connections over it.
export {SignalingClient, SignalingError} from './client.js';
export {PeerConnections} from './rtc.js';
