// The page at the root of the server: join, see who is here, and talk to one of them directly.

import {SignalingClient} from './client.js';
import {PeerConnections} from './rtc.js';

const $ = (id) => document.getElementById(id);

/** A lost partner is called again after this pause, in ms: its page may be loading. */
const AGAIN_MS = 500;

/** A partner that has not answered after this long, in ms, may be none that answers. */
const NO_ANSWER_MS = 10_000;

/** A connection that is hung up is closed after this long, in ms: the other side is told through it. */
const FAREWELL_MS = 300;

/** What is said through the channel when somebody hangs up: no text that is typed begins so. */
const OVER = '\0over';

/** How many messages the log keeps. */
const LOG = 500;

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
/** The peer of the open conversation: `{id, name, connection, channel, isCalled}`. */
let partner = null;
let camera = null;

const form = $('join');
const known = kept.read();
form.elements.name.value = known.name ?? `guest-${100 + Math.floor(Math.random() * 900)}`;
form.elements.room.value = roomOfPage || (known.room ?? '');
form.elements.room.readOnly = roomOfPage !== '';
$('code').textContent = $('code').textContent.replaceAll('ORIGIN', server);
$('description').href = `${server}/openapi.yml`;

form.addEventListener('submit', (event) => {
  event.preventDefault();
  join();
});
if (known.isIn) join();
else form.elements.name.select();

async function join() {
  const name = form.elements.name.value.trim();
  const room = form.elements.room.value.trim();
  const accessToken = form.elements.token.value || undefined;
  if (!name) return;
  notice('');
  try {
    signaling = new SignalingClient(server, {name, room: room || null, accessToken});
  } catch (error) {
    notice(`${error.message}.`);
    return;
  }
  const mine = signaling;
  connections = new PeerConnections(signaling);
  connections.addEventListener('connection', ({detail}) => begin(detail));
  connections.addEventListener('disconnection', ({detail}) => lost(detail.connection));
  signaling.addEventListener('peers', ({detail: {peers}}) => showPeers(peers));
  signaling.addEventListener('message', ({detail: {from, data}}) => hear(from, data?.talk));
  signaling.addEventListener('connected', ({detail: {resumed}}) => {
    // A server that was restarted may have given the partner's id to somebody else.
    if (!resumed && partner) partner.id = null;
    notice('');
    $('peers').inert = false;
    $('self').textContent = `You are ${name}`;
  });
  signaling.addEventListener('disconnected', ({detail: {cause}}) => {
    if (!cause) return;
    const {status, message} = cause;
    $('peers').inert = true;
    if ([401, 403].includes(status)) refused(cause, accessToken);
    else if (status === undefined) notice('The server cannot be reached; trying again.');
    else notice(`The server cannot serve this tab now; trying again. (${message})`);
  });
  show(true);
  $('self').textContent = 'Joining …';
  try {
    await mine.connect();
  } catch (error) {
    // This person has left, and may have joined again.
    if (signaling === mine) refused(error, accessToken);
    return;
  }
  if (signaling !== mine) return;
  kept.write({name, room, isIn: true});
  const address = `${server}/${room ? `rooms/${room}/` : ''}`;
  $('second').href = address;
  $('address').href = address;
  $('address').textContent = address;
  // The button that had it is gone.
  if (document.activeElement === document.body) $('self').focus();
}

/** The server does not let this tab in, or not any more. */
function refused({status, message}, accessToken) {
  end();
  show(false);
  if (status === 401) {
    $('token').hidden = false;
    form.elements.token.focus();
    notice(accessToken ? 'The server did not accept this access token.' : 'This server requires an access token.');
  } else if (status !== 0) {
    notice(message);
  }
}

function show(isIn) {
  $('joining').hidden = isIn;
  $('here').hidden = !isIn;
}

$('leave').addEventListener('click', async () => {
  const [left, open] = [signaling, connections];
  const isTold = hangUp();
  kept.forget();
  show(false);
  notice('');
  form.elements.name.focus();
  await isTold;
  open.close();
  await left.close();
});

function notice(text) {
  $('notice').textContent = text;
  $('notice').hidden = text === '';
}

// The list -------------------------------------------------------------------

/** From this many peers on, one can look for a name. */
const MANY_PEERS = 10;

function showPeers(all) {
  $('count').textContent = all.length > 0 ? `(${all.length})` : '';
  $('alone').hidden = all.length > 0;
  $('legend').hidden = all.length === 0;
  $('finding').hidden = all.length < MANY_PEERS && $('find').value === '';
  const sought = $('find').value.trim().toLowerCase();
  const peers = all.filter(({name}) => name.toLowerCase().includes(sought));
  const list = $('peers');
  const items = new Map([...list.children].map((item) => [Number(item.dataset.id), item]));
  const isKnown = new Set(peers.map(({id}) => id));
  for (const [id, item] of items) if (!isKnown.has(id)) item.remove();
  peers.forEach((peer, index) => {
    const item = items.get(peer.id) ?? newItem(peer.id);
    const button = item.firstChild;
    button.firstChild.textContent = peer.name;
    button.title = peer.name;
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
  button.append(document.createElement('span'));
  item.append(button);
  return item;
}

$('find').addEventListener('input', () => showPeers(signaling.peers));

const nameOf = (id) => signaling.peers.find((peer) => peer.id === id)?.name;

// The conversation -----------------------------------------------------------

/** Opens a conversation, and connects to its peer. */
async function call(id, isAgain = false) {
  if (partner?.id === id && partner.channel) {
    $('text').focus();
    return;
  }
  open(id, nameOf(id) ?? partner?.name);
  const mine = Object.assign(partner, {isCalled: true, isAgain});
  $('text').focus();
  setTimeout(() => {
    if (partner === mine && !isOpen()) state('no answer yet: the other side may be a program that does not answer');
  }, NO_ANSWER_MS);
  try {
    const connection = await connections.connectTo(id);
    // The other side may have called at the same moment, and opened a channel.
    if (partner !== mine || mine.channel) return;
    mine.connection ??= connection;
    use(connection.createDataChannel('chat'), connection);
  } catch (error) {
    if (partner !== mine) return;
    mine.isCalled = false;
    state(`not connected: ${error.message}`);
  }
}

const isOpen = () => partner?.channel?.readyState === 'open';

/** By its id, another peer may be meant. */
const isPartners = (connection) => Boolean(connection) && partner?.connection === connection;

function open(id, name) {
  const before = partner;
  if (before?.name !== name) {
    hangUp();
    $('log').replaceChildren();
    $('text').value = '';
  }
  const isSame = before?.name === name && before.id === id;
  partner = {id, name, connection: isSame ? before.connection : null, channel: null};
  // One that has come back with another id, or somebody who has its name.
  if (before?.name === name && !isSame) leaveConnection(before.connection);
  kept.write({partner: name});
  $('partner').textContent = name;
  $('talk').hidden = false;
  state('connecting …');
  for (const item of $('peers').children) {
    item.firstChild.setAttribute('aria-current', String(Number(item.dataset.id) === id));
  }
}

/** Tells another page that this one is `busy`; or, while there is no channel, that the call is `over`. */
function tell(id, talk) {
  return signaling.send(id, {talk}).catch(() => {});
}

function hear(from, talk) {
  if (partner?.id !== from || !talk) return;
  if (talk === 'busy' && partner.isAgain) {
    // The other side has not noticed yet that the connection to the page before this one is gone.
    waitForPartner();
    return;
  }
  const {name} = partner;
  end();
  if (talk === 'busy') notice(`${name} is talking to somebody else.`);
}

/** Whether a call of this peer would disturb. Names prove nothing, so that its name does not count. */
function isBusyFor(peer) {
  if (!partner || partner.id === peer) return false;
  const isHere = signaling.peers.some(({id}) => id === partner.id);
  const isOther = nameOf(peer) !== partner.name;
  return partner.channel ? isHere || isOther : partner.isCalled && isOther;
}

/** There is a new connection, begun by either side. */
function begin({peer, connection}) {
  if (isBusyFor(peer)) {
    tell(peer, 'busy');
    connections.disconnect(connection);
    return;
  }
  if (partner?.id !== peer) open(peer, nameOf(peer) ?? `peer ${peer}`);
  partner.connection = connection;
  connection.addEventListener('datachannel', ({channel}) => use(channel, connection));
  connection.addEventListener('track', ({streams: [stream]}) => {
    if (isPartners(connection)) showTheirs(stream);
  });
}

/** Messages go through this channel. */
function use(channel, connection) {
  if (!isPartners(connection)) return;
  partner.channel = channel;
  const opened = () => partner?.channel === channel && state('connected directly');
  if (channel.readyState === 'open') opened();
  channel.addEventListener('open', opened);
  channel.addEventListener('message', ({data}) => {
    // Where both sides have called, there are two channels.
    if (!isPartners(connection)) return;
    if (data === OVER) end();
    else log(data, false);
  });
  channel.addEventListener('close', () => {
    if (partner?.channel === channel) lost(connection);
  });
}

function lost(connection) {
  if (isPartners(connection)) waitForPartner();
}

/** The connection to the partner is gone. The partner may come back, perhaps with another id. */
function waitForPartner() {
  const {connection} = partner;
  Object.assign(partner, {connection: null, channel: null, isCalled: false});
  leaveConnection(connection);
  state('not connected: waiting for the other side');
  setTimeout(callAgain, AGAIN_MS);
}

/** Nothing more goes through a connection: the next one may lead to somebody else. */
function leaveConnection(connection) {
  stopCamera();
  showTheirs(null);
  if (connection) connections.disconnect(connection);
}

/**
 * Connects to the peer with which this tab has talked, also before it was loaded again: the other side
 * waits for that, because it cannot tell by a name alone who is back.
 */
function callAgain() {
  if (partner?.channel || partner?.isCalled) return;
  const {partner: name} = kept.read();
  const isKnown = Boolean(partner) && partner.id !== null;
  const isIt = (peer) => (isKnown ? peer.id === partner.id : peer.name === (partner?.name ?? name));
  const peer = signaling?.peers.find((peer) => isIt(peer) && peer.connected);
  if (!peer) return;
  call(peer.id, true);
}

/** Ends the conversation for both: a connection that is just closed would be called again. */
async function hangUp() {
  if (!partner) return;
  const {id, channel, connection} = partner;
  if (isOpen()) channel.send(OVER);
  else if (id !== null) tell(id, 'over');
  const held = connections;
  end(false);
  await new Promise((resolve) => { setTimeout(resolve, FAREWELL_MS); });
  if (!isPartners(connection) && partner?.id !== id) held.disconnect(connection ?? id);
}

function end(disconnects = true) {
  if (!partner) return;
  const {id, connection} = partner;
  stopCamera();
  partner = null;
  cameraNotice('');
  kept.write({partner: null});
  if (disconnects) connections.disconnect(connection ?? id);
  showTheirs(null);
  $('talk').hidden = true;
}

function showTheirs(stream) {
  $('theirs').srcObject = stream;
  $('theirs').hidden = !stream;
  $('videos').hidden = !stream && !camera;
}

$('hang-up').addEventListener('click', () => {
  notice('');
  $('self').focus();
  hangUp();
});

$('say').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = $('text').value;
  if (!isOpen()) return state('not connected: nothing was sent');
  partner.channel.send(text);
  log(text, true);
  $('text').value = '';
});

function log(text, isOwn) {
  const item = document.createElement('p');
  item.textContent = text;
  item.classList.toggle('own', isOwn);
  const list = $('log');
  const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 8;
  list.append(item);
  if (list.children.length > LOG) list.firstChild.remove();
  // A person who reads what was said before is not disturbed.
  if (isAtEnd || isOwn) list.scrollTop = list.scrollHeight;
}

function state(text) {
  $('state').textContent = text;
  allowCamera();
}

// Camera and microphone ------------------------------------------------------

const CAMERA = $('camera').textContent;
const CALL_AGAIN = 'Hang up and call again to use the camera: one of you has signed in anew since this call began.';
const CAMERA_ERRORS = {
  NotAllowedError: 'allow them for this page in your browser, and try again',
  NotFoundError: 'your browser finds none; connect them, and try again',
  NotReadableError: 'another program may be using them; close it, and try again',
};

function cameraNotice(text) {
  $('camera-notice').textContent = text;
  $('camera-notice').hidden = text === '';
}

/** Whether the server still knows the partner as the peer with which the connection was made. */
const canNegotiate = () => signaling.peers.some(({id}) => id === partner?.id);

/** Only a conversation has a camera. */
function allowCamera() {
  $('camera').disabled = !isOpen();
}

$('camera').addEventListener('click', async () => {
  if (camera) {
    stopCamera();
    return;
  }
  cameraNotice('');
  if (!canNegotiate()) return cameraNotice(CALL_AGAIN);
  const asking = partner;
  $('camera').disabled = true;
  let stream;
  try {
    if (!navigator.mediaDevices) throw new Error('browsers allow them only on https and localhost');
    stream = await navigator.mediaDevices.getUserMedia({video: true, audio: true});
  } catch (error) {
    const why = CAMERA_ERRORS[error.name] ?? error.message;
    return cameraNotice(`The camera and the microphone cannot be used: ${why}.`);
  } finally {
    allowCamera();
  }
  // The conversation for which it was asked may be over.
  if (!isOpen() || partner !== asking || !canNegotiate()) {
    stream.getTracks().forEach((track) => track.stop());
    if (partner === asking) cameraNotice(CALL_AGAIN);
    return;
  }
  stopCamera();
  camera = stream;
  $('camera').textContent = 'Stop camera and microphone';
  $('mine').srcObject = camera;
  $('mine').hidden = false;
  $('videos').hidden = false;
  camera.getTracks().forEach((track) => partner.connection.addTrack(track, camera));
});

function stopCamera() {
  if (!camera) return;
  const {connection} = partner ?? {};
  if (connection && connection.signalingState !== 'closed') {
    for (const sender of connection.getSenders()) if (sender.track) connection.removeTrack(sender);
  }
  camera.getTracks().forEach((track) => track.stop());
  camera = null;
  $('camera').textContent = CAMERA;
  $('mine').srcObject = null;
  $('mine').hidden = true;
  showTheirs($('theirs').srcObject);
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
