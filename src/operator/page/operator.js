// The operator's page: the signed-in peers as they come and leave, and a few numbers.

/** How often the numbers are asked for, in ms, and how many of each a chart shows. */
const EVERY_MS = 2_000;
const SAMPLES = 90;

/** How many rows the table has at most: more can be found with the filter. */
const ROWS = 500;

/** The pause after the server could not be reached, in ms. */
const PAUSE_MS = 2_000;

/** A request without an answer for this long, in ms, is on a dead connection. */
const PATIENCE_MS = 15_000;

/** So is a stream of events that is silent for this long, in ms: the server writes every 15 s. */
const SILENCE_MS = 40_000;

/** The numbers: what each is made of, whether per second, and how it is written. */
const whole = (value) => value.toLocaleString('en', {maximumFractionDigits: 0});
const rate = (value) => `${value.toLocaleString('en', {maximumFractionDigits: 1})}/s`;
const bytes = (value) => {
  const [size, unit] = value < 2 ** 10 ? [1, 'B'] : value < 2 ** 20 ? [2 ** 10, 'KiB'] : [2 ** 20, 'MiB'];
  return `${(value / size).toLocaleString('en', {maximumFractionDigits: 1})} ${unit}`;
};
const NUMBERS = [
  {name: 'Peers', of: 'signal_peers', text: whole},
  {name: 'Rooms', of: 'signal_rooms', text: whole},
  {name: 'Sign-ins', of: 'signal_sign_ins_total', perSecond: true, text: rate},
  {name: 'Messages', of: 'signal_messages_accepted_total', perSecond: true, text: rate},
  {name: 'Memory', of: 'process_resident_memory_bytes', text: bytes},
  {name: 'Memory held for clients', of: 'signal_buffered_bytes', text: bytes},
];

const $ = (id) => document.getElementById(id);
const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

const storage = {
  key: `operator of ${location.pathname}`,
  read() {
    try {
      return sessionStorage.getItem(this.key);
    } catch {
      return null;
    }
  },
  write(token) {
    try {
      sessionStorage.setItem(this.key, token);
    } catch {
      // The page asks again after a reload.
    }
  },
};

let token = storage.read();
/** Called when a token is entered. */
let entered = () => {};

$('enter').addEventListener('submit', (event) => {
  event.preventDefault();
  const typed = event.target.elements.token.value.trim();
  // No header can have it, and no token has it.
  if (!/^[\x20-\x7e]+$/.test(typed)) return notice('This token is empty, or has a character that no token has.');
  token = typed;
  storage.write(token);
  notice('');
  entered();
});

/** Asks the operator's API; asks for the token as often as needed. `giveUp` makes the signal of each try. */
async function ask(path, options = {}, giveUp = () => AbortSignal.timeout(PATIENCE_MS)) {
  for (;;) {
    const shown = token;
    const headers = shown ? {Authorization: `Bearer ${shown}`} : {};
    const answer = await fetch(path, {...options, headers, signal: giveUp(), cache: 'no-store'});
    // Another one was entered meanwhile.
    if (answer.status === 401 && token !== shown) continue;
    if (answer.status !== 401) {
      $('token').hidden = true;
      $('all').hidden = false;
      return answer;
    }
    if (token) notice('The server did not accept this token.');
    else if ($('token').hidden) notice('');
    $('enter').reset();
    token = null;
    storage.write('');
    const isShown = !$('token').hidden;
    const before = entered;
    const again = new Promise((resolve) => { entered = () => { before(); resolve(); }; });
    $('token').hidden = false;
    $('all').hidden = true;
    if (!isShown) $('enter').elements.token.focus();
    await again;
  }
}

function notice(text) {
  $('notice').textContent = text;
  $('notice').hidden = text === '';
}

// Numbers ----------------------------------------------------------------------

for (const number of NUMBERS) {
  const term = document.createElement('dt');
  term.textContent = number.name;
  number.value = document.createElement('dd');
  number.value.textContent = '–';
  const chart = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  chart.setAttribute('viewBox', `0 0 ${SAMPLES - 1} 20`);
  chart.setAttribute('preserveAspectRatio', 'none');
  chart.setAttribute('aria-hidden', 'true');
  number.line = document.createElementNS('http://www.w3.org/2000/svg', 'polyline');
  chart.append(number.line);
  number.samples = [];
  const item = document.createElement('div');
  item.append(term, number.value, chart);
  $('numbers').append(item);
}

/** The values of the metrics, those with labels added up. */
function valuesOf(text) {
  const values = new Map();
  for (const line of text.split('\n')) {
    const [, name, labels, value] = /^(\w+)(\{.*\})? (\S+)$/.exec(line) ?? [];
    if (name === 'signal_build_info') values.set('version', /version="([^"]*)"/.exec(labels)?.[1]);
    else if (name) values.set(name, (values.get(name) ?? 0) + Number(value));
  }
  return values;
}

async function showNumbers() {
  let [last, at] = [null, 0];
  for (;;) {
    try {
      const answer = await ask('metrics');
      if (!answer.ok) throw new Error('refused');
      const values = valuesOf(await answer.text());
      const now = performance.now();
      for (const number of NUMBERS) {
        const value = values.get(number.of) ?? 0;
        if (number.perSecond && !last) continue;
        // A server that was restarted counts from 0 again.
        const passed = (now - at) / 1000;
        sample(number, number.perSecond ? Math.max(value - last.get(number.of), 0) / passed : value);
      }
      [last, at] = [values, now];
      $('version').textContent = `Version ${values.get('version')}.`;
    } catch {
      // The list of peers tells that the server is away.
      last = null;
      for (const number of NUMBERS) number.value.textContent = '–';
    }
    await pause(EVERY_MS);
  }
}

function sample(number, value) {
  number.value.textContent = number.text(value);
  number.samples = [...number.samples, value].slice(-SAMPLES);
  const highest = Math.max(...number.samples, Number.MIN_VALUE);
  const first = SAMPLES - number.samples.length;
  const points = number.samples.map((sample, index) => `${first + index},${19 - 18 * sample / highest}`);
  number.line.setAttribute('points', points.join(' '));
}

// Peers ------------------------------------------------------------------------

/** The signed-in peers, and the rows that show them, by room and id. */
let peers = new Map();
const rows = new Map();
let isDue = false;

const keyOf = ({room, id}) => `${room ?? ''}/${id}`;

async function watchPeers() {
  for (;;) {
    let [round, timer] = [null, null];
    const endWithin = (ms) => {
      clearTimeout(timer);
      timer = setTimeout(() => round.abort(), ms);
    };
    try {
      // First the events, so that nothing is missed between them and the list.
      const events = await ask('events', {}, () => {
        round = new AbortController();
        endWithin(PATIENCE_MS);
        return round.signal;
      });
      endWithin(SILENCE_MS);
      const answer = await ask('peers?room=*');
      if (!events.ok || !answer.ok) throw new Error('refused');
      const all = await answer.json();
      peers = new Map(all.map((peer) => [keyOf(peer), peer]));
      notice('');
      $('all').inert = false;
      show();
      for await (const {event, peer} of eventsOf(events, () => endWithin(SILENCE_MS))) {
        if (event === 'gap') break;
        if (event === 'disconnect') peers.delete(keyOf(peer));
        else peers.set(keyOf(peer), peer);
        show();
      }
    } catch (error) {
      $('all').inert = true;
      const isRefused = error.message === 'refused';
      notice(isRefused ? 'The server refused the list of peers; trying again.' : 'The server cannot be reached; trying again.');
    } finally {
      clearTimeout(timer);
      // A stream that is not read holds a connection.
      round.abort();
    }
    await pause(PAUSE_MS);
  }
}

/** What a stream of events tells. `heard` is called whenever something comes, if only a comment. */
async function* eventsOf(answer, heard) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    heard();
    const blocks = (text + value).split('\n\n');
    text = blocks.pop();
    for (const block of blocks) {
      const data = /^data: ?(.*)$/m.exec(block);
      if (data) yield JSON.parse(data[1]);
    }
  }
}

/** Shows the list soon: many events may come at once. */
function show() {
  if (isDue) return;
  isDue = true;
  setTimeout(() => {
    isDue = false;
    showPeers();
  }, 100);
}

function showPeers() {
  const sought = $('filter').value.trim().toLowerCase();
  const found = [...peers.values()].reverse().filter((peer) => textsOf(peer).join('\n').toLowerCase().includes(sought));
  const shown = new Map(found.slice(0, ROWS).map((peer) => [keyOf(peer), peer]));
  for (const [key, row] of rows) {
    if (shown.has(key)) continue;
    row.remove();
    rows.delete(key);
  }
  const body = $('peers').tBodies[0];
  [...shown].forEach(([key, peer], index) => {
    if (!rows.has(key)) rows.set(key, newRow(key));
    const row = rows.get(key);
    textsOf(peer).forEach((text, column) => { row.cells[column].textContent = text; });
    row.querySelector('button').setAttribute('aria-label', `Remove ${peer.name}`);
    if (body.rows[index] !== row) body.insertBefore(row, body.rows[index] ?? null);
  });
  const of = found.length < peers.size ? `${whole(found.length)} of ` : '';
  $('count').textContent = peers.size > 0 ? `(${of}${whole(peers.size)})` : '';
  $('peers').hidden = shown.size === 0;
  $('none').hidden = shown.size > 0;
  $('none').textContent = peers.size > 0 ? 'No peer matches the filter.' : 'Nobody is signed in.';
  $('more').hidden = found.length <= ROWS;
  $('more').textContent = `And ${whole(found.length - ROWS)} more: use the filter.`;
}

/** What the columns show of a peer. */
function textsOf({name, id, room, door, address, user, since}) {
  const from = [user, address].filter(Boolean).join(' ');
  // As in the log and the API.
  const utc = since.slice(0, 19).replace('T', ' ');
  return [name, String(id), room ?? '', door, from, utc];
}

const COLUMNS = [...$('peers').tHead.rows[0].cells].map(({textContent}) => textContent);

function newRow(key) {
  const row = document.createElement('tr');
  COLUMNS.slice(0, -1).forEach((column, index) => {
    const cell = document.createElement(index === 0 ? 'th' : 'td');
    if (index === 0) cell.scope = 'row';
    // What narrow screens show before the text.
    cell.dataset.column = column;
    row.append(cell);
  });
  const button = document.createElement('button');
  button.type = 'button';
  button.textContent = 'Remove';
  button.addEventListener('click', () => remove(peers.get(key)));
  const cell = document.createElement('td');
  cell.append(button);
  row.append(cell);
  return row;
}

async function remove(peer) {
  const place = peer?.room ? `peer ${peer.id} in ${peer.room}` : `peer ${peer?.id}`;
  if (!peer || !confirm(`Remove ${peer.name} (${place})? A client that reconnects by itself comes back at once.`)) return;
  try {
    const answer = await ask(`${peer.room ? `rooms/${peer.room}/` : ''}peers/${peer.id}`, {method: 'DELETE'});
    if (!answer.ok && answer.status !== 404) notice(await answer.text());
  } catch {
    notice('The server cannot be reached; the peer was not removed.');
  }
}

$('filter').addEventListener('input', showPeers);
showNumbers();
watchPeers();
