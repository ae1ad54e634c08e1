// A peer in Node to which pages can talk: it sends back whatever it hears.
//
//   npm pack ../packages/client     # makes signal-http-heartbeat-client-0.1.0.tgz
//   npm install ./signal-http-heartbeat-client-0.1.0.tgz @roamhq/wrtc
//   node node.mjs http://localhost:3000 echo
//
// Then open http://localhost:3000, join, and talk to "echo".

import wrtc from '@roamhq/wrtc';
import {PeerConnections, SignalingClient} from 'signal-http-heartbeat-client';

// Node has no WebRTC of its own. The RTCPeerConnection of @roamhq/wrtc cannot choose between offer
// and answer by itself, so this class does.
globalThis.RTCPeerConnection = class extends wrtc.RTCPeerConnection {
  async setLocalDescription(description) {
    const isAnswer = this.signalingState === 'have-remote-offer';
    await super.setLocalDescription(description ?? await (isAnswer ? this.createAnswer() : this.createOffer()));
  }
};

const [, , server = 'http://localhost:3000', name = 'echo'] = process.argv;
const signaling = new SignalingClient(server, {name});
const connections = new PeerConnections(signaling);

connections.addEventListener('connection', ({detail: {peer, connection}}) => {
  console.log(`peer ${peer} connects`);
  connection.addEventListener('datachannel', ({channel}) => {
    channel.addEventListener('message', ({data}) => channel.send(`${name}: ${data}`));
  });
});
connections.addEventListener('disconnection', ({detail: {peer}}) => console.log(`peer ${peer} is gone`));
connections.addEventListener('failure', ({detail: {peer, error}}) => console.error(`peer ${peer}: ${error.message}`));
signaling.addEventListener('disconnected', ({detail: {cause}}) => cause && console.error(cause.message));

await signaling.connect();
console.log(`signed in as ${name}, peer ${signaling.id}`);

// Ctrl+C signs out.
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, async () => {
    connections.close();
    await signaling.close();
    process.exit();
  });
}
