// The page at the root of the server: join, see who is here, and talk to one of them directly.

import {SignalingClient} from './client.js';
import {PeerConnections} from './rtc.js';

const $ = (id) => document.getElementById(id);

/** A lost partner is called again after this pause, in ms: its page may be loading. */
const AGAIN_MS = 500;

/** What outlives a reload of this tab. */
const kept = {
  key: `page of ${location.pathname}`,
  read() {
    try {
      return JSON.parse(sessionStorage.getItem(this.key)) ?? {};
    } catch {
      return {};
    }
  },
  write(values) {
    try {
      sessionStorage.setItem(this.key, JSON.stringify({...this.read(), ...values}));
    } catch {
      // A reloaded page asks again.
    }
  },
  forget() {
    try {
      sessionStorage.removeItem(this.key);
    } catch {
      // There is nothing to forget.
    }
  },
};

/** The room that the address names, and the server without it: `https://HOST/[PATH/][rooms/NAME/]`. */
const roomOfPage = /\/rooms\/([^/]+)\/$/.exec(location.pathname)?.[1] ?? '';
const server = new URL(location.pathname.replace(/rooms\/[^/]+\/$/, ''), location.origin).href.replace(/\/$/, '');

let signaling = null;
let connections = null;
/** The peer of the open conversation: `{id, name, connection, channel}`. */
let partner = null;
let camera = null;

const form = $('join');
const known = kept.read();
form.elements.name.value = known.name ?? `guest-${100 + Math.floor(Math.random() * 900)}`;
form.elements.room.value = roomOfPage || (known.room ?? '');
form.elements.room.readOnly = roomOfPage !== '';
$('code').textContent = $('code').textContent.replaceAll('ORIGIN', server);

form.addEventListener('submit', (event) => {
  event.preventDefault();
  join();
});
if (known.isIn) join();

async function join() {
  const name = form.elements.name.value.trim();
  const room = form.elements.room.value.trim();
  const accessToken = form.elements.token.value || undefined;
  if (!name) return;
  notice('');
  signaling = new SignalingClient(server, {name, room: room || null, accessToken});
  connections = new PeerConnections(signaling);
  connections.addEventListener('connection', ({detail}) => begin(detail));
  connections.addEventListener('disconnection', ({detail}) => lost(detail.peer));
  signaling.addEventListener('peers', ({detail: {peers}}) => showPeers(peers));
  signaling.addEventListener('connected', () => {
    notice('');
    $('self').textContent = `You are ${name}`;
  });
  signaling.addEventListener('disconnected', ({detail: {cause}}) => {
    if (!cause) return;
    const {status = 0, message} = cause;
    if (status === 401 || status === 403) notice(`The server refused this tab: ${message}`);
    else if (status > 0) notice(`The server cannot serve this tab now; trying again. (${message})`);
    else notice(`The server cannot be reached; trying again. (${message})`);
  });
  show(true);
  $('self').textContent = 'Joining …';
  try {
    await signaling.connect();
  } catch (error) {
    show(false);
    if (error.status === 401) {
      $('token').hidden = false;
      form.elements.token.focus();
      notice(accessToken ? 'The server did not accept this access token.' : 'This server requires an access token.');
    } else if (error.status !== 0) {
      notice(error.message);
    }
    return;
  }
  kept.write({name, room, isIn: true});
  $('second').href = `${server}/${room ? `rooms/${room}/` : ''}`;
}

function show(isIn) {
  $('joining').hidden = isIn;
  $('here').hidden = !isIn;
}

$('leave').addEventListener('click', async () => {
  hangUp();
  connections.close();
  kept.forget();
  show(false);
  notice('');
  form.elements.name.focus();
  await signaling.close();
});

function notice(text) {
  $('notice').textContent = text;
  $('notice').hidden = text === '';
}

// The list -------------------------------------------------------------------

function showPeers(peers) {
  $('count').textContent = peers.length > 0 ? `(${peers.length})` : '';
  $('alone').hidden = peers.length > 0;
  const list = $('peers');
  const items = new Map([...list.children].map((item) => [Number(item.dataset.id), item]));
  const isKnown = new Set(peers.map(({id}) => id));
  for (const [id, item] of items) if (!isKnown.has(id)) item.remove();
  peers.forEach((peer, index) => {
    const item = items.get(peer.id) ?? newItem(peer.id);
    const button = item.firstChild;
    button.textContent = peer.name;
    button.classList.toggle('connected', peer.connected);
    button.setAttribute('aria-label', `Talk to ${peer.name}${peer.connected ? '' : ' (not connected now)'}`);
    button.setAttribute('aria-current', String(partner?.id === peer.id));
    if (list.children[index] !== item) list.insertBefore(item, list.children[index] ?? null);
  });
  callAgain();
}

function newItem(id) {
  const item = document.createElement('li');
  item.dataset.id = id;
  const button = document.createElement('button');
  button.type = 'button';
  button.addEventListener('click', () => call(id));
  item.append(button);
  return item;
}

const nameOf = (id) => signaling.peers.find((peer) => peer.id === id)?.name;

// The conversation -----------------------------------------------------------

/** Opens a conversation, and connects to its peer. */
async function call(id) {
  const name = nameOf(id) ?? partner?.name;
  open(id, name);
  $('text').focus();
  try {
    const connection = await connections.connectTo(id);
    // The other side may have called at the same moment, and opened a channel.
    if (partner?.id === id && !partner.channel) use(connection.createDataChannel('chat'), id);
  } catch (error) {
    state(`not connected: ${error.message}`);
  }
}

function open(id, name) {
  const isSame = partner?.name === name;
  if (!isSame) {
    hangUp();
    $('log').replaceChildren();
  }
  partner = {id, name, connection: isSame ? partner.connection : null, channel: null};
  kept.write({partner: name});
  $('partner').textContent = name;
  $('talk').hidden = false;
  state('connecting …');
  for (const item of $('peers').children) {
    item.firstChild.setAttribute('aria-current', String(Number(item.dataset.id) === id));
  }
}

/** There is a new connection, begun by either side. */
function begin({peer, connection}) {
  if (!partner || partner.id !== peer) open(peer, nameOf(peer) ?? `peer ${peer}`);
  partner.connection = connection;
  connection.addEventListener('datachannel', ({channel}) => use(channel, peer));
  connection.addEventListener('track', ({streams: [stream]}) => {
    $('theirs').srcObject = stream;
    $('videos').hidden = false;
  });
  camera?.getTracks().forEach((track) => connection.addTrack(track, camera));
}

/** Messages go through this channel. */
function use(channel, id) {
  if (partner?.id !== id) return;
  partner.channel = channel;
  const opened = () => partner?.channel === channel && state('connected directly');
  if (channel.readyState === 'open') opened();
  channel.addEventListener('open', opened);
  channel.addEventListener('message', ({data}) => log(data, false));
  channel.addEventListener('close', () => {
    if (partner?.channel === channel) lost(id);
  });
}

/** The connection to a peer is gone. The peer may come back, perhaps with another id. */
function lost(id) {
  if (!partner || partner.id !== id) return;
  partner.channel = null;
  partner.isCalled = false;
  connections.disconnect(id);
  $('theirs').srcObject = null;
  $('videos').hidden = !camera;
  state('not connected: waiting for the other side');
  setTimeout(callAgain, AGAIN_MS);
}

/** Connects to the peer with which this tab has talked, if it is here and not connected. */
function callAgain() {
  const name = partner?.name ?? kept.read().partner;
  const peer = name && signaling?.peers.find((peer) => peer.name === name && peer.connected);
  if (!peer || partner?.channel) return;
  if (partner?.id === peer.id && partner.isCalled) return;
  open(peer.id, name);
  partner.isCalled = true;
  call(peer.id);
}

function hangUp() {
  if (!partner) return;
  const {id} = partner;
  partner = null;
  kept.write({partner: null});
  connections.disconnect(id);
  stopCamera();
  $('theirs').srcObject = null;
  $('videos').hidden = true;
  $('talk').hidden = true;
}

$('hang-up').addEventListener('click', hangUp);

$('say').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = $('text').value;
  if (partner?.channel?.readyState !== 'open') return state('not connected: nothing was sent');
  partner.channel.send(text);
  log(text, true);
  $('text').value = '';
});

function log(text, isOwn) {
  const item = document.createElement('p');
  item.textContent = text;
  item.classList.toggle('own', isOwn);
  $('log').append(item);
  item.scrollIntoView({block: 'nearest'});
}

function state(text) {
  $('state').textContent = text;
}

// Camera and microphone ------------------------------------------------------

$('camera').addEventListener('click', async () => {
  if (camera) {
    stopCamera();
    return;
  }
  try {
    if (!navigator.mediaDevices) throw new Error('browsers allow them only on https and localhost');
    camera = await navigator.mediaDevices.getUserMedia({video: true, audio: true});
  } catch (error) {
    return notice(`The camera and the microphone cannot be used: ${error.message}.`);
  }
  notice('');
  $('camera').setAttribute('aria-pressed', 'true');
  $('mine').srcObject = camera;
  $('mine').hidden = false;
  $('videos').hidden = false;
  const {connection} = partner ?? {};
  if (connection) camera.getTracks().forEach((track) => connection.addTrack(track, camera));
});

function stopCamera() {
  if (!camera) return;
  const senders = partner?.connection?.getSenders() ?? [];
  for (const sender of senders) if (sender.track) partner.connection.removeTrack(sender);
  camera.getTracks().forEach((track) => track.stop());
  camera = null;
  $('camera').setAttribute('aria-pressed', 'false');
  $('mine').srcObject = null;
  $('mine').hidden = true;
  $('videos').hidden = !$('theirs').srcObject;
}

$('copy').addEventListener('click', async () => {
  try {
    await navigator.clipboard.writeText($('code').textContent);
    $('copy').textContent = 'Copied';
  } catch {
    getSelection().selectAllChildren($('code'));
    $('copy').textContent = 'Selected: press Ctrl+C';
  }
});
