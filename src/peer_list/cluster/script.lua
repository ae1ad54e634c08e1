-- The peer list in Redis: each verb of the domain as one step that is whole.
--
-- A library of one function under two names. Its key: what all keys begin with,
-- their hash tag included. Its arguments: the verb, the node that asks, and what
-- the verb takes.
--
-- Before this text stand the name of the function, NAME, the one by which verbs
-- are called that are refused while the server is out of memory, GROWING, and
-- the settings of the list as constants, times in ms:
-- TIMEOUT, PATIENCE, ANY_REQUEST, BOUND, OVERHEAD, MAX_PEERS, LOG_LENGTH,
-- EVENTS_KEPT, EVENTS_QUEUED, LINGER, REPEAT_PAUSE, LEASE, NODE_LIFE,
-- STANDSTILL, OP_LIFE; and DB, the number of the database.
--
-- Keys, after the prefix:
--   id, version, event   counters: the last id, change of the list, event
--   p:ID                 hash: a peer (below)
--   m:ID                 list: its mailbox, each `KIND FROM NEEDS\n` and the body
--   stale                sorted set: when each peer is stale
--   linger               sorted set: until when listed peers that have nothing
--                        open count as connected
--   listed               hash: id to the log's line of its sign-in
--   log                  list: the last changes, `+JOINED ID DIALECT NAME` and
--                        `-JOINED ID DIALECT NAME`; the newest is `version`
--   events               list: the last events; the newest is `event`
--   nodes                sorted set: until when each node counts as alive
--   announced            set: nodes that said that they are there, not buried
--   libraries            sorted set: when a node with a library was last there
--   open:NODE            set: peers that have a wait, socket or link there
--   bare                 sorted set: bare peers and the version that each heard
--   awake                when a node last reached this server
--   grace                there as long as nobody is collected, after that was long ago
--   webhook, webhook:sent
--                        the node that sends the webhook, and the last event sent
--   ready                written to see whether that can be done
--   op:OP                what was done already, for those who ask again
--   g:members, g:names, g:keys, g:cards, r:k:ROOM, r:a:ROOM, p:ID:rooms
--                        the group
--
-- A peer's fields: name, joined, door, dialect, token (its SHA-256), since,
-- seen, beat, linger, link (`NODE number`), leaving, session, resumes,
-- node and wait (where its newest wait is open, and its name), socket (what is
-- open is one), lent, lent_by, lent_at and lent_number (the lease of what it is
-- being given, and the message's number), began (when the newest wait did, by its
-- node), opening (the name of the last attempt to open a socket), offered (the
-- highest number that was ever lent), heard, given, acks, gone, handed, delivered,
-- bytes (its mailbox), sent (the last number that it sent), doomed
-- (why its door is to remove it), stale and shown (what the sets of these names
-- have for it), member, key, title, farewell, rooms (the group).

-- Of the call that is carried out: what keys begin with, the node that asks, the
-- time as Redis tells it, and in ms.
local P, NODE, time, now

-- `redis.call` is not there yet when the library is loaded.
local function call(...)
  return redis.call(...)
end

local function key(name, rest)
  return P .. name .. (rest or '')
end

-- Tells a node, or all of them. Channels know no databases, so theirs is in the
-- name.
local function tell(node, what)
  call('PUBLISH', key(DB .. ':n:', node), what)
end

local function tell_all(what)
  call('PUBLISH', key(DB .. ':all'), what)
end

-- Decimal numbers as large as clients like.
local function is_after(number, other)
  if #number ~= #other then
    return #number > #other
  end
  return number > other
end

-- Life ----------------------------------------------------------------------

-- While this server stood still, or was away, nobody could show that it is
-- there; nor when its clock was set forward. Nodes live on, and for a while
-- nobody is collected.
local function mind_standstill()
  local awake = tonumber(call('GET', key('awake')))
  if not awake or now - awake <= STANDSTILL then
    return
  end
  local nodes = key('nodes')
  call('SET', key('grace'), '1', 'PX', TIMEOUT)
  for _, node in ipairs(call('ZRANGEBYSCORE', nodes, '(' .. string.format('%.0f', awake), 'inf')) do
    call('ZADD', nodes, now + NODE_LIFE, node)
  end
  call('SET', key('awake'), string.format('%.0f', now))
end

local function is_alive(node)
  mind_standstill()
  local until_when = call('ZSCORE', key('nodes'), node)
  return until_when and tonumber(until_when) > now
end

-- Peers ---------------------------------------------------------------------

local Peer = {}
Peer.__index = Peer

local function load(id)
  local flat = call('HGETALL', key('p:', id))
  if #flat == 0 then
    return nil
  end
  local is = {}
  for at = 1, #flat, 2 do
    is[flat[at]] = flat[at + 1]
  end
  return setmetatable({ id = id, is = is, changed = {} }, Peer)
end

function Peer:set(field, value)
  if value ~= nil then
    value = tostring(value)
  end
  if self.is[field] ~= value then
    self.is[field] = value
    self.changed[field] = true
  end
end

-- Times and counts have up to 16 digits, more than `tostring` keeps.
function Peer:set_number(field, value)
  self:set(field, string.format('%.0f', value))
end

function Peer:number(field)
  return tonumber(self.is[field]) or 0
end

function Peer:add(field, value)
  self:set_number(field, self:number(field) + value)
end

-- Whether something of it is open that a living node has.
function Peer:is_open()
  return self.is.node ~= nil
end

function Peer:stale_at()
  if self.is.socket then
    return math.huge
  end
  if self.is.doomed then
    -- No door removes it.
    return 0
  end
  local beat, seen = tonumber(self.is.beat), self:number('seen')
  local at
  if ANY_REQUEST then
    at = math.max(beat or 0, seen) + PATIENCE
    if self:is_open() then
      at = math.huge
    end
  elseif beat then
    at = beat + PATIENCE
  elseif self:is_open() then
    at = math.huge
  else
    at = seen + TIMEOUT
  end
  return math.min(at, tonumber(self.is.leaving) or math.huge)
end

-- Writes what has changed, and where the peer stands with the collector and in
-- the list.
function Peer:store()
  local stale = self:stale_at()
  stale = stale == math.huge and 'inf' or string.format('%.0f', stale)
  self:set('stale', stale)
  local linger = 'none'
  if self.is.name and not (self:is_open() or self.is.link) then
    linger = self.is.linger or '0'
  end
  self:set('shown', linger)
  if self.changed.stale then
    call('ZADD', key('stale'), stale, self.id)
  end
  if self.changed.shown then
    if linger == 'none' then
      call('ZREM', key('linger'), self.id)
    else
      call('ZADD', key('linger'), linger, self.id)
    end
  end
  local set, gone = {}, {}
  for field in pairs(self.changed) do
    if self.is[field] == nil then
      gone[#gone + 1] = field
    else
      set[#set + 1] = field
      set[#set + 1] = self.is[field]
    end
  end
  if #set > 0 then
    call('HSET', key('p:', self.id), unpack(set))
  end
  if #gone > 0 then
    call('HDEL', key('p:', self.id), unpack(gone))
  end
  self.changed = {}
end

function Peer:is_connected()
  return self:is_open() or self.is.link ~= nil or self:number('linger') > now
end

-- What a node has of it, is kept in a set so that it is known when it dies.
local function node_of(link)
  return link and string.match(link, '^%S+')
end

function Peer:has_at(node)
  return self.is.node == node or node_of(self.is.link) == node
end

-- Changes where it is open and by which link.
function Peer:move(node, link)
  local before = { self.is.node, node_of(self.is.link) }
  self:set('node', node)
  self:set('link', link)
  for index = 1, 2 do
    local was = before[index]
    if was and not self:has_at(was) then
      call('SREM', key('open:', was), self.id)
    end
  end
  for _, is in pairs({ a = node, b = node_of(link) }) do
    if is ~= before[1] and is ~= before[2] then
      call('SADD', key('open:', is), self.id)
      -- When it dies before it could say that it lives, that is seen.
      call('ZADD', key('nodes'), 'NX', now + NODE_LIFE, is)
    end
  end
end

-- A request of it has come, on this link ('': on none that stays open).
-- `lingers`: its client closes, and will be back.
function Peer:request(link, lingers)
  self:move(self.is.node, link ~= '' and NODE .. ' ' .. link or nil)
  self:set_number('seen', now)
  if lingers == '1' then
    self:set_number('linger', now + LINGER)
  end
end

-- Nothing is on loan to it any more.
function Peer:unlend()
  self:set('lent', nil)
  self:set('lent_by', nil)
  self:set('lent_at', nil)
  self:set('lent_number', nil)
end

-- Whoever waits for it looks again.
function Peer:wake()
  if self.is.node then
    tell(self.is.node, 'w' .. self.id)
  end
end

-- What waits for it is given nothing any more.
function Peer:begin_session()
  if self.is.socket then
    tell(self.is.node, string.format('x%s %.0f', self.id, self:number('session') + 1))
  end
  self:add('session', 1)
  self:set('wait', nil)
  self:unlend()
  self:set('leaving', nil)
  self:set('handed', nil)
end

-- Events and changes --------------------------------------------------------

local function keep(list, line, length)
  call('RPUSH', list, line)
  if call('LLEN', list) > length then
    call('LPOP', list)
  end
end

-- A peer as those who run an application see it.
local function info(peer, connected)
  local is = peer.is
  local seen = peer:is_open() and now or math.max(peer:number('seen'), peer:number('beat'))
  return string.format('%s %s %d %s %.0f %d %s', peer.id, is.door, connected and 1 or 0,
    is.since, seen, is.beat and 1 or 0, is.name)
end

-- Events are numbered from a time on (in us), as in the list of one process.
local function begin_events()
  return string.format('%.0f', time[1] * 1000000 + time[2])
end

local function event(kind, reason, peer)
  local number = call('INCR', key('event'))
  if number == 1 then
    call('SET', key('event'), begin_events())
    number = call('INCR', key('event'))
  end
  local connected = kind ~= 'disconnect' and peer:is_connected()
  local line = string.format('%.0f %s %s %s', number, kind, reason, info(peer, connected))
  keep(key('events'), line, EVENTS_QUEUED)
  tell_all('e')
end

-- What the log says of a peer.
local function log_line(sign, peer)
  local is = peer.is
  return string.format('%s%s %s %s %s', sign, is.joined, peer.id, is.dialect, is.name)
end

-- A peer has joined or left the list.
local function change(sign, peer)
  local version = call('INCR', key('version'))
  if version == 1 then
    -- No version of a list that is lost comes again.
    version = now
    call('SET', key('version'), version)
  end
  if sign == '+' then
    peer:set_number('joined', version)
  end
  local line = log_line(sign, peer)
  keep(key('log'), line, LOG_LENGTH)
  if sign == '+' then
    call('HSET', key('listed'), peer.id, line)
  else
    call('HDEL', key('listed'), peer.id)
  end
  tell_all('v')
  return version
end

local function heard(peer, version)
  if peer.is.dialect ~= 's' then
    peer:set_number('heard', version)
  end
  if peer.is.dialect == 'b' then
    call('ZADD', key('bare'), version, peer.id)
  else
    call('ZREM', key('bare'), peer.id)
  end
end

local function current()
  return tonumber(call('GET', key('version'))) or 0
end

-- How the list differs from what a node knows: `known` is the version, and
-- `statuses` whether it wants to know who is not, or not long, connected.
local function view(known, statuses)
  local version = current()
  local behind = version - tonumber(known)
  local lines, whole
  if tonumber(known) >= 0 and behind >= 0 and behind <= call('LLEN', key('log')) then
    whole = 0
    lines = behind > 0 and call('LRANGE', key('log'), -behind, -1) or {}
  else
    whole = 1
    lines = call('HVALS', key('listed'))
  end
  local linger = statuses == '1' and call('ZRANGE', key('linger'), 0, -1, 'WITHSCORES') or false
  local micros = string.format('%.0f', time[1] * 1000000 + time[2])
  return { version, whole, lines, micros, linger }
end

-- Mailboxes -----------------------------------------------------------------

-- Puts a message last in line. False if there is no room.
local function push(peer, kind, from, needs, body)
  local bytes = peer:number('bytes') + #body + OVERHEAD
  if bytes > BOUND then
    return false
  end
  call('RPUSH', key('m:', peer.id), string.format('%s %s %s\n', kind, from, needs) .. body)
  peer:set_number('bytes', bytes)
  if not peer.is.lent then
    peer:wake()
  end
  return true
end

-- Takes the oldest message off. False if there is none.
local function pop(peer)
  local raw = call('LPOP', key('m:', peer.id))
  if raw then
    local _, header = string.find(raw, '\n', 1, true)
    peer:add('bytes', header - #raw - OVERHEAD)
    peer:add('gone', 1)
  end
  return raw
end

-- Numbers from this on are none that this script gave.
local LARGEST = 2 ^ 53

-- The peer has all messages up to this number.
local function acknowledge(peer, number)
  if number >= LARGEST or peer.is.doomed then
    return
  end
  if number > peer:number('offered') then
    -- It was never given: Redis has lost what was, and would give numbers again
    -- that the peer takes for repeats. What waits may be new. It stays, and gets
    -- new numbers.
    for _, field in ipairs({ 'gone', 'delivered', 'offered' }) do
      peer:set_number(field, number)
    end
    peer:set('handed', nil)
    peer:unlend()
    peer:wake()
  elseif number > peer:number('delivered') then
    -- Of a reply that the client has before its node has said so.
    peer:set_number('delivered', number)
    if peer.is.lent_number and peer:number('lent_number') <= number then
      peer:unlend()
    end
  end
  while peer:number('gone') < number and pop(peer) do
    peer:set_number('handed', math.max(peer:number('handed') - 1, 0))
  end
  -- What is taken off is gone, whatever becomes of the rest.
  peer:store()
end

-- Nobody can be refused that sends to a socket, nor may one that is away miss
-- a part: it is to go.
local function doom(peer)
  if not peer.is.socket and not (peer.is.member and peer.is.resumes) then
    return false
  end
  peer:set('doomed', peer.is.doomed or 'not_reading')
  call('DEL', key('m:', peer.id))
  peer:set('handed', nil)
  if peer.is.node then
    tell(peer.is.node, 'r' .. peer.id .. ' ' .. peer.is.doomed)
  end
  return true
end

-- The group -----------------------------------------------------------------

-- The members that a broadcast reaches.
local function audience(id, family)
  local members = call('HGETALL', key('g:members'))
  local found = {}
  for at = 1, #members, 2 do
    local other, theirs = members[at], members[at + 1]
    local differs = family ~= '' and theirs ~= '' and family ~= theirs
    if other ~= id and not differs then
      found[#found + 1] = other
    end
  end
  return found
end

-- What is done at once is done when so many were pushed to: others wait for it.
local PUSHED_AT_ONCE = 500
local pushed

-- Returns those that have no room. Who is to go is passed over.
local function push_to(members, kind, body)
  local full = {}
  pushed = pushed + #members
  for _, id in ipairs(members) do
    local peer = load(id)
    if peer and not peer.is.doomed then
      if push(peer, kind, '0', '0', body) then
        peer:store()
      else
        full[#full + 1] = id
      end
    end
  end
  return full
end

local function is_there(id)
  local peer = load(id)
  return peer and not peer.is.doomed
end

local function leave_rooms(id)
  for _, room in ipairs(call('SMEMBERS', key('p:', id .. ':rooms'))) do
    call('SREM', key('r:k:', room), id)
    call('SREM', key('r:a:', room), id)
  end
  call('DEL', key('p:', id .. ':rooms'))
end

local function leave_group(peer)
  local is = peer.is
  local family = call('HGET', key('g:members'), peer.id) or ''
  call('HDEL', key('g:members'), peer.id)
  if is.key and call('HGET', key('g:keys'), is.key) == peer.id then
    call('HDEL', key('g:keys'), is.key)
  end
  leave_rooms(peer.id)
  if is.title then
    call('HDEL', key('g:names'), is.title)
    call('HDEL', key('g:cards'), peer.id)
    local full = push_to(audience(peer.id, family), 'g', is.farewell)
    for _, id in ipairs(full) do
      local other = load(id)
      if other and doom(other) then
        other:store()
      end
    end
  end
end

-- Removal -------------------------------------------------------------------

local function remove(peer, reason)
  local is = peer.is
  reason = is.doomed or reason
  call('DEL', key('p:', peer.id), key('m:', peer.id))
  call('ZREM', key('stale'), peer.id)
  call('ZREM', key('linger'), peer.id)
  call('ZREM', key('bare'), peer.id)
  for _, node in pairs({ a = is.node, b = node_of(is.link) }) do
    call('SREM', key('open:', node), peer.id)
  end
  tell_all('r' .. peer.id .. ' ' .. reason)
  if is.member then
    leave_group(peer)
  end
  if is.name then
    change('-', peer)
    event('disconnect', reason, peer)
  end
  return { peer.id, reason, is.name or false }
end

-- Waiting -------------------------------------------------------------------

-- In ms: how often is looked whether a node that has something on loan is dead.
local LOOK_AGAIN = 1000

-- By a wait or socket before this one; its node says soon what became of it.
-- Returns for how many ms to wait for that, 0: it will not.
local function lent_for(peer)
  local left = peer:number('lent_at') + LEASE - now
  return left > 0 and is_alive(peer.is.lent_by) and math.min(left, LOOK_AGAIN) or 0
end

local function lend(peer, lease, number)
  peer:set('lent', lease)
  peer:set('lent_by', NODE)
  peer:set_number('lent_at', now)
  peer:set('lent_number', number)
end

-- The next thing that a peer is to hear, lent under `lease`.
local function next_news(peer, lease, told, known, statuses)
  local is = peer.is
  if is.lent and is.lent ~= lease then
    local left = lent_for(peer)
    if left > 0 then
      return { 'later', string.format('%.0f', left) }
    end
  end
  local handed = is.socket and peer:number('handed') or 0
  if not is.socket then
    peer:set('handed', nil)
  end
  local silent = is.dialect == 's'
  local knows = peer:number('heard')
  -- A node may know a Redis that has lost its last changes.
  told = math.min(tonumber(told), current())
  local raw = call('LINDEX', key('m:', peer.id), handed)
  if raw then
    local kind, from, needs, header = string.match(raw, '^(%S+) (%S+) (%S+)()')
    if silent or tonumber(needs) <= knows then
      local number = string.format('%.0f', peer:number('gone') + handed + 1)
      local is_repeat = tonumber(number) <= peer:number('delivered')
      local left = peer:number('given') + REPEAT_PAUSE - now
      if is_repeat and is.acks and not is.socket and left > 0 then
        return { 'later', string.format('%.0f', left) }
      end
      lend(peer, lease, number)
      peer:set_number('offered', math.max(peer:number('offered'), tonumber(number)))
      return { 'message', number, kind, from, string.sub(raw, header + 1) }
    end
  elseif silent or knows >= told then
    return { 'none' }
  end
  if is.dialect ~= 'b' then
    lend(peer, lease)
    -- The list shows that it waits.
    peer:store()
    return { 'list', string.format('%.0f', knows), view(known, statuses) }
  end
  local behind = current() - knows
  local line = behind > 0 and behind <= call('LLEN', key('log')) and call('LINDEX', key('log'), -behind)
  if not line then
    remove(peer, 'timed_out')
    return { 'gone', 'timed_out' }
  end
  lend(peer, lease)
  return { 'line', string.format('%.0f', knows + 1), line }
end

-- A peer that polls has been asked for, with a token or ('') without.
local function polled(id, token)
  local peer = load(id)
  if not peer or peer.is.member or peer.is.doomed then
    return nil, { 'unknown' }
  end
  if token ~= '' and token ~= peer.is.token then
    return nil, { 'wrong' }
  end
  return peer
end

-- A wait is `NODE.NUMBER`: whether it is of the node of another, and before it.
local function is_over(wait, ended)
  if not wait then
    return false
  end
  local node, number = string.match(wait, '^(.*)%.(%d+)$')
  local same, last = string.match(ended, '^(.*)%.(%d+)$')
  return node == same and is_after(last, number)
end

local function end_wait(peer, is_newest, lingers)
  peer:set_number('seen', now)
  if lingers == '1' then
    peer:set_number('linger', now + LINGER)
  end
  if is_newest then
    -- Nor is it given what it asked for before.
    peer:set('wait', nil)
    if not peer.is.socket then
      peer:move(nil, peer.is.link)
    end
  end
end

-- Removed peers do not come back because a reply came late.
local function store(peer)
  if call('EXISTS', key('p:', peer.id)) == 1 then
    peer:store()
  end
end

-- The verbs -----------------------------------------------------------------

local verbs = {}

local LARGEST_ID = 2147483647

-- `highest`: the highest id that the node that asks has seen. Ids are not given
-- twice, not even when this server has lost some: those who had them may still
-- ask.
local function mind_ids(highest)
  highest = tonumber(highest)
  if highest < LARGEST_ID and (tonumber(call('GET', key('id'))) or 0) < highest then
    call('SET', key('id'), highest)
  end
end

local function next_id(highest)
  mind_ids(highest)
  -- Ends, as MAX_PEERS is less than there are ids.
  while true do
    local id = call('INCR', key('id'))
    if id > LARGEST_ID then
      call('SET', key('id'), 0)
    elseif call('EXISTS', key('p:', id)) == 0 then
      return string.format('%d', id)
    end
  end
end

local function new_peer(door, dialect, token, highest)
  local peer = setmetatable({ id = next_id(highest), is = {}, changed = {} }, Peer)
  peer:set('door', door)
  peer:set('dialect', dialect)
  peer:set('token', token)
  peer:set_number('since', now)
  peer:set_number('seen', now)
  -- No session of one that had the same id before, if this server has lost it.
  peer:set_number('session', now)
  return peer
end

local function is_full()
  return call('ZCARD', key('stale')) >= MAX_PEERS
end

-- What an operation that may be asked for again has answered before.
local function done_before(op)
  return op ~= '' and call('GET', key('op:', op))
end

-- `before`: it is not asked for again after this time (none: OP_LIFE).
local function remember(op, answer, before)
  if op ~= '' then
    local life = before and math.max(tonumber(before) - now, 0) + 1000 or OP_LIFE
    call('SET', key('op:', op), answer, 'PX', life)
  end
end

-- Pushes to members on behalf of an operation, once. `push` returns who has no
-- room; or nil, and the answer that nothing was done.
local function push_once(op, push)
  local before = done_before(op)
  if before then
    local full = {}
    for id in string.gmatch(before, '%S+') do
      full[#full + 1] = id
    end
    return { 'ok', full }
  end
  local full, refused = push()
  if not full then
    return refused
  end
  remember(op, table.concat(full, ' '))
  return { 'ok', full }
end

-- Its sender has been refused meanwhile; or the clock was set forward.
local function late(before)
  if now > tonumber(before) then
    return { 'late', string.format('%.0f', now) }
  end
end

function verbs.add_peer(before, op, name, door, dialect, token, highest, known, statuses)
  local refused = late(before)
  if refused then
    return refused
  end
  local known_id = done_before(op)
  local peer = known_id and load(known_id)
  if peer then
    return { 'ok', peer.id, view(known, statuses) }
  end
  if is_full() then
    return { 'full' }
  end
  peer = new_peer(door, dialect, token, highest)
  peer:set('name', name == '' and 'peer_' .. peer.id or name)
  -- Connected until its sign-in is answered.
  peer:set_number('linger', now + LINGER)
  heard(peer, change('+', peer))
  event('connect', '-', peer)
  peer:store()
  remember(op, peer.id, before)
  return { 'ok', peer.id, view(known, statuses) }
end

function verbs.resume_peer(before, op, id, token, name, door, dialect, known, statuses)
  local refused = late(before)
  if refused then
    return refused
  end
  local peer = load(id)
  if not peer or peer.is.member or peer.is.doomed then
    return { 'gone' }
  end
  if peer.is.token ~= token then
    return { 'wrong' }
  end
  if done_before(op) then
    return { 'ok', id, view(known, statuses) }
  end
  peer:begin_session()
  peer:move(nil, peer.is.link)
  peer:set('socket', nil)
  peer:set('door', door)
  if name ~= '' and name ~= peer.is.name then
    change('-', peer)
    peer:set('name', name)
    peer:set('dialect', dialect)
    change('+', peer)
  else
    peer:set('dialect', dialect)
    call('HSET', key('listed'), id, log_line('+', peer))
  end
  heard(peer, current())
  peer:set_number('linger', now + LINGER)
  peer:set_number('seen', now)
  if peer.is.beat then
    -- As good as a heartbeat.
    peer:set_number('beat', now)
  end
  event('reconnect', '-', peer)
  peer:store()
  remember(op, '1', before)
  return { 'ok', id, view(known, statuses) }
end

function verbs.check_token(id, token)
  local is = call('HGET', key('p:', id), 'token')
  return { is and is ~= token and 'wrong' or 'ok' }
end

-- In ms: the clocks of nodes, which follow this server's, differ by less.
local CLOCKS_DIFFER = 100

-- When the newest wait of a peer began. (One that begins in the future is of
-- before this server's clock was set back.)
local function newest_began(peer)
  local began = peer:number('began')
  return began <= now + 1000 and began or 0
end

function verbs.wait(began, wait, id, token, link, acknowledged, told, known, statuses)
  local peer, refused = polled(id, token)
  if not peer then
    return refused
  end
  if peer.is.socket then
    return { 'unknown' }
  end
  if peer.is.wait and newest_began(peer) > tonumber(began) + CLOCKS_DIFFER then
    -- It was overtaken on its way, by one at another node.
    return { 'ok', { 'outdated' }, peer.is.dialect, '-' }
  end
  peer:set_number('began', math.max(tonumber(began), newest_began(peer)))
  peer:set('leaving', nil)
  peer:request(link, '0')
  peer:move(NODE, peer.is.link)
  peer:set('wait', wait)
  peer:set('acks', acknowledged ~= '' and '1' or nil)
  if acknowledged ~= '' then
    acknowledge(peer, tonumber(acknowledged))
  end
  local news = next_news(peer, wait, told, known, statuses)
  store(peer)
  return { 'ok', news, peer.is.dialect, peer.is.dialect == 's' and '-' or peer.is.heard }
end

-- Looks again. `lease` is the name of a wait, or `s` and a session.
-- `acknowledged`: the highest number that its client has acknowledged there.
function verbs.take(began, id, lease, acknowledged, told, known, statuses)
  local peer = load(id)
  if not peer then
    return { 'gone', 'timed_out' }
  end
  if peer.is.doomed then
    return { 'gone', peer.is.doomed }
  end
  if string.sub(lease, 1, 1) == 's' then
    local session = tonumber(string.sub(lease, 2))
    if session < peer:number('session') then
      return { 'outdated' }
    end
    -- It may have been taken for dead in between, or this server has lost that
    -- it opened.
    peer:set_number('session', session)
    peer:set('socket', '1')
    peer:move(NODE, peer.is.link)
  else
    -- One that began after all that this server knows of is what it has lost;
    -- or it is of one that had the same id before.
    local is_lost = tonumber(began) > math.max(peer:number('began'), peer:number('since'))
    if peer.is.socket or peer.is.wait ~= lease and not is_lost then
      return { 'outdated' }
    end
    peer:set('wait', lease)
    peer:set_number('began', math.max(tonumber(began), peer:number('began')))
    peer:move(NODE, peer.is.link)
  end
  if acknowledged ~= '' and tonumber(acknowledged) > peer:number('offered') then
    acknowledge(peer, tonumber(acknowledged))
  end
  local news = next_news(peer, lease, told, known, statuses)
  store(peer)
  return news
end

-- What was lent has been handed over ('message' or 'version'), or ('') was not.
-- `ends`: the wait is over with it.
function verbs.done(id, lease, hears, number, ends, lingers)
  local peer = load(id)
  if not peer then
    return { 'gone' }
  end
  local is_lent = peer.is.lent == lease
  if is_lent then
    peer:unlend()
    if hears == 'message' then
      local up_to = tonumber(number) - peer:number('gone')
      peer:set_number('delivered', math.max(peer:number('delivered'), tonumber(number)))
      peer:set_number('given', now)
      if peer.is.acks then
        peer:set_number('handed', math.max(peer:number('handed'), up_to))
      elseif up_to >= 1 then
        pop(peer)
      end
    elseif hears == 'version' then
      local version = math.min(tonumber(number), current())
      heard(peer, math.max(peer:number('heard'), version))
    end
  end
  if ends == '1' then
    end_wait(peer, peer.is.wait == lease, lingers)
  end
  if is_lent and peer.is.wait ~= lease then
    peer:wake()
  end
  peer:store()
  return { 'ok' }
end

-- A wait is over that was given nothing; and, if the list is not asked for
-- (`known` is ''), those of its node before it.
function verbs.end_wait(id, wait, lingers, known, statuses)
  local peer = load(id)
  if not peer or peer.is.doomed then
    return { 'gone', peer and peer.is.doomed or 'timed_out' }
  end
  local was_lent = peer.is.lent == wait
  if was_lent then
    peer:unlend()
  end
  local is_newest = peer.is.wait == wait or known == '' and is_over(peer.is.wait, wait)
  end_wait(peer, is_newest, lingers)
  if was_lent and peer.is.wait ~= wait then
    peer:wake()
  end
  peer:store()
  return { 'ok', known ~= '' and view(known, statuses) or false }
end

local function address(from, to)
  local sender = load(from)
  if not sender or not sender.is.name then
    return nil, nil, { 'sender' }
  end
  local receiver = from == to and sender or load(to)
  if not receiver or not receiver.is.name or receiver.is.doomed then
    return sender, nil, { 'receiver' }
  end
  return sender, receiver
end

-- `sequence`: the sender's number of this message ('': it has none). `polls`:
-- it came in a request.
function verbs.send(before, op, from, token, to, link, lingers, sequence, polls, body)
  local refused = late(before)
  if refused then
    return refused
  end
  local sender, receiver
  sender, receiver, refused = address(from, to)
  if not sender then
    return refused
  end
  if token ~= '' and token ~= sender.is.token then
    return { 'wrong' }
  end
  if polls == '1' and not sender.is.member then
    sender:request(link, lingers)
  end
  local answer
  local sent = sender.is.sent or '0'
  if done_before(op) or sequence == sent then
    answer = 'ok'
  elseif sequence ~= '' and is_after(sent, sequence) then
    answer = 'order'
  elseif not receiver then
    answer = 'receiver'
  elseif push(receiver, 'd', from, sender.is.joined, body) then
    answer = 'ok'
    if sequence ~= '' then
      sender:set('sent', sequence)
    end
    remember(op, '1', before)
    if receiver ~= sender then
      receiver:store()
    end
  else
    answer = 'mailbox'
  end
  sender:store()
  return { answer }
end

function verbs.heartbeat(id, token, link, lingers)
  local peer, refused = polled(id, token)
  if not peer then
    return refused
  end
  peer:request(link, lingers)
  peer:set_number('beat', now)
  peer:set('leaving', nil)
  peer:store()
  return { 'ok' }
end

function verbs.remove_peer(op, id, reason)
  local peer = load(id)
  if not peer then
    return { done_before(op) and 'ok' or 'gone' }
  end
  remember(op, '1')
  return { 'ok', remove(peer, reason) }
end

function verbs.sign_out_later(id, grace)
  local peer = load(id)
  if peer then
    peer:set_number('leaving', math.min(now + tonumber(grace), tonumber(peer.is.leaving) or math.huge))
    peer:store()
  end
  return { 'ok' }
end

-- A request of a peer has come that asks for nothing.
function verbs.seen(id, token, link, lingers)
  local peer, refused = polled(id, token)
  if not peer then
    return refused
  end
  peer:request(link, lingers)
  peer:store()
  return { 'ok' }
end

-- The sign-in of a peer is answered: from now on it is connected by what it
-- has open.
function verbs.signed_in(id, link, lingers)
  local peer = load(id)
  if peer and not peer.is.member then
    peer:set_number('linger', now)
    peer:request(link, lingers)
    peer:store()
  end
  return { 'ok' }
end

function verbs.unlink(id, link)
  local peer = load(id)
  if peer and peer.is.link == NODE .. ' ' .. link then
    peer:move(peer.is.node, nil)
    peer:store()
  end
  return { 'ok' }
end

function verbs.view(known, statuses)
  return view(known, statuses)
end

-- Sockets -------------------------------------------------------------------

-- `opening`: the name of this attempt.
function verbs.open_socket(before, opening, id, resumes)
  local refused = late(before)
  if refused then
    return refused
  end
  local peer = load(id)
  if not peer or peer.is.doomed then
    return { 'unknown' }
  end
  peer:begin_session()
  peer:set('socket', '1')
  peer:set('opening', opening)
  if not peer.is.member then
    peer:set('acks', nil)
  end
  if resumes == '1' then
    peer:set('resumes', '1')
  end
  peer:move(NODE, nil)
  peer:set_number('seen', now)
  peer:store()
  return { 'ok', peer.is.session, peer.is.dialect == 's' and '-' or peer.is.heard }
end

-- The socket of a session is closed. It is removed, unless it may come back
-- and the network is the reason.
local function close_socket(peer, session, reason)
  local is_ours = peer.is.session == session
  if peer.is.doomed then
    return remove(peer, reason)
  end
  if not is_ours then
    return false
  end
  local lost = reason == 'closed' or reason == 'timed_out' or reason == 'shutdown'
  if not (peer.is.resumes and lost) then
    return remove(peer, reason)
  end
  peer:set('socket', nil)
  -- Whatever of it is still on its way is of a session before.
  peer:add('session', 1)
  peer:unlend()
  peer:set('handed', nil)
  peer:set_number('seen', now)
  if peer.is.beat then
    peer:set_number('beat', now)
  end
  peer:move(nil, nil)
  peer:store()
  return false
end

function verbs.close_socket(id, session, reason)
  local peer = load(id)
  local removed = peer and close_socket(peer, session, reason)
  return { removed or false }
end

-- Nobody heard whether an attempt to open a socket succeeded.
function verbs.drop_socket(id, opening)
  local peer = load(id)
  local is_open = peer and peer.is.socket and peer.is.opening == opening
  return { is_open and close_socket(peer, peer.is.session, 'closed') or false }
end

-- Members of the group ------------------------------------------------------

local function returned(op, before, peer, token)
  if not done_before(op) then
    peer:set_number('seen', now)
    peer:set_number('linger', now + LINGER)
    if peer.is.name then
      event('reconnect', '-', peer)
    end
    peer:set('token', token)
    peer:store()
    remember(op, peer.id .. ' 1', before)
  end
  return { 'ok', peer.id, '1', peer.is.title or false }
end

-- `secret`: the key by which it may come back ('': none).
function verbs.add_member(before, op, secret, door, token, highest)
  local refused = late(before)
  if refused then
    return refused
  end
  local added, is_known = string.match(done_before(op) or '', '^(%d+) (%d)$')
  if added then
    return { 'ok', added, is_known, call('HGET', key('p:', added), 'title') }
  end
  local known_id = secret ~= '' and call('HGET', key('g:keys'), secret)
  local known = known_id and load(known_id)
  if known and not known.is.doomed then
    return returned(op, before, known, token)
  end
  if is_full() then
    return { 'full' }
  end
  local peer = new_peer(door, 's', token, highest)
  peer:set('member', '1')
  peer:set_number('linger', now + LINGER)
  if secret ~= '' then
    peer:set('acks', '1')
    peer:set('resumes', '1')
    peer:set('key', secret)
    call('HSET', key('g:keys'), secret, peer.id)
  end
  call('HSET', key('g:members'), peer.id, '')
  peer:store()
  remember(op, peer.id .. ' 0', before)
  return { 'ok', peer.id, '0', false }
end

function verbs.resume_member(before, op, id, token)
  local refused = late(before)
  if refused then
    return refused
  end
  local peer = load(id)
  if not peer or not peer.is.member or peer.is.doomed then
    return { 'gone' }
  end
  if peer.is.token ~= token then
    return { 'wrong' }
  end
  return returned(op, before, peer, token)
end

-- Everybody in the list but this one, and what the group shows of them.
local function cards(own)
  local shown, members = {}, {}
  local all = call('HGETALL', key('g:cards'))
  for at = 1, #all, 2 do
    shown[all[at]] = all[at + 1]
  end
  for _, id in ipairs(call('HKEYS', key('g:members'))) do
    members[id] = true
  end
  local found = {}
  local listed = call('HGETALL', key('listed'))
  for at = 1, #listed, 2 do
    local id, line = listed[at], listed[at + 1]
    local name = string.match(line, '^%S+ %S+ %S+ (.*)$')
    if id ~= own and (shown[id] or not members[id]) then
      found[#found + 1] = { id, name, shown[id] or false }
    end
  end
  return found
end

function verbs.cards()
  return cards()
end

function verbs.list_member(op, id, name, title, card, hello, farewell)
  local peer = load(id)
  if not peer or peer.is.doomed then
    return { 'unknown' }
  end
  local answer = push_once(op, function()
    if peer.is.title or call('HEXISTS', key('g:names'), title) == 1 then
      return nil, { 'taken' }
    end
    call('HSET', key('g:names'), title, id)
    call('HSET', key('g:cards'), id, card)
    peer:set('title', title)
    peer:set('farewell', farewell)
    peer:set('name', name)
    heard(peer, change('+', peer))
    event('connect', '-', peer)
    peer:store()
    local family = call('HGET', key('g:members'), id) or ''
    return push_to(audience(id, family), 'g', hello)
  end)
  if answer[1] == 'ok' then
    answer[3] = cards(id)
  end
  return answer
end

function verbs.show_family(id, family)
  if call('HGET', key('g:members'), id) == '' then
    call('HSET', key('g:members'), id, family)
  end
  return { 'ok' }
end

-- `number`: the sender's number of it ('': none); not if it has sent a later one.
function verbs.broadcast(op, id, number, body)
  return push_once(op, function()
    if number ~= '' then
      local peer = load(id)
      if not peer or not is_after(number, peer.is.sent or '0') then
        return nil, { peer and 'ok' or 'unknown' }
      end
      peer:set('sent', number)
      peer:store()
    end
    local family = call('HGET', key('g:members'), id)
    if not family then
      return nil, { 'unknown' }
    end
    return push_to(audience(id, family), 'g', body)
  end)
end

function verbs.send_to_member(op, title, body)
  return push_once(op, function()
    local id = call('HGET', key('g:names'), title)
    if not id or not is_there(id) then
      return nil, { 'unknown' }
    end
    return push_to({ id }, 'g', body)
  end)
end

-- For a member that had no room. Returns whether it still has none, or is gone.
function verbs.push_to_member(op, id, kind, body)
  return push_once(op, function()
    if not is_there(id) then
      return nil, { 'unknown' }
    end
    local full = push_to({ id }, kind, body)
    if #full > 0 then
      return nil, { 'full' }
    end
    return full
  end)
end

local function has_room(peer, bytes)
  return peer.is.doomed or peer:number('bytes') + tonumber(bytes) + OVERHEAD <= BOUND
end

-- How many messages a peer has taken.
local function taken(peer)
  return string.format('%.0f', peer:number('gone') + peer:number('handed'))
end

-- Whether a peer has room for so many bytes, or else nobody reads for it; and
-- how many messages it has taken.
function verbs.has_room(id, bytes)
  local peer = load(id)
  if not peer or has_room(peer, bytes) then
    return { 'ok' }
  end
  local is_away = peer.is.member and peer.is.resumes and not peer.is.socket
  return { is_away and 'away' or 'full', taken(peer) }
end

-- A peer has made no room since it had taken so many messages. Returns whether
-- it is to go for that.
function verbs.give_up(id, bytes, before)
  local peer = load(id)
  if not peer then
    return { 'gone' }
  end
  if has_room(peer, bytes) or taken(peer) ~= before then
    return { 'ok' }
  end
  local doomed = doom(peer)
  peer:store()
  return { doomed and 'gone' or 'full' }
end

function verbs.acknowledge(id, number)
  local peer = load(id)
  if peer then
    acknowledge(peer, tonumber(number))
    peer:store()
  end
  return { 'ok' }
end

-- A member keeps a room or asks for it, as long as that costs no more than a
-- mailbox.
local function enter(peer, room)
  if call('SISMEMBER', key('p:', peer.id .. ':rooms'), room) == 0 then
    local cost = peer:number('rooms') + #room + OVERHEAD
    if cost > BOUND then
      return false
    end
    peer:set_number('rooms', cost)
    peer:store()
    call('SADD', key('p:', peer.id .. ':rooms'), room)
  end
  return true
end

function verbs.keep_room(op, id, room)
  return push_once(op, function()
    local peer = load(id)
    if not peer or not enter(peer, room) then
      return nil, { 'costly' }
    end
    call('SADD', key('r:k:', room), id)
    local askers = call('SMEMBERS', key('r:a:', room))
    call('DEL', key('r:a:', room))
    for _, asker in ipairs(askers) do
      local other = asker ~= id and load(asker)
      if other and call('SREM', key('p:', asker .. ':rooms'), room) == 1 then
        other:add('rooms', -#room - OVERHEAD)
        other:store()
      end
    end
    return push_to(askers, 'r', room)
  end)
end

function verbs.ask_for_room(op, id, room)
  return push_once(op, function()
    local peer = load(id)
    if not peer then
      return nil, { 'costly' }
    end
    if call('EXISTS', key('r:k:', room)) == 1 then
      return push_to({ id }, 'r', room)
    end
    if not enter(peer, room) then
      return nil, { 'costly' }
    end
    call('SADD', key('r:a:', room), id)
    return {}
  end)
end

-- Those who run an application ----------------------------------------------

function verbs.peer_info(id)
  local peer = load(id)
  if not peer or not peer.is.name or peer.is.doomed then
    return {}
  end
  return { info(peer, peer:is_connected()) }
end

function verbs.listed()
  return call('HKEYS', key('listed'))
end

function verbs.peer_infos(...)
  local found = {}
  for _, id in ipairs({ ... }) do
    local peer = load(id)
    if peer and not peer.is.doomed then
      found[#found + 1] = info(peer, peer:is_connected())
    end
  end
  return found
end

-- The events after the one with this number that are still kept (after 0: the
-- last, for a node that is new).
function verbs.events(known)
  local newest = tonumber(call('GET', key('event'))) or 0
  local late = newest - tonumber(known)
  if tonumber(known) == 0 or late < 0 then
    late = EVENTS_KEPT
  end
  late = math.min(late, call('LLEN', key('events')))
  return { string.format('%.0f', newest), late > 0 and call('LRANGE', key('events'), -late, -1) or {} }
end

-- Nodes and the collector ---------------------------------------------------

local BURIED_AT_ONCE = 100

-- What a node had open is open no more: some of it at a time. Returns who is
-- removed, and whether that was all.
local function bury(node, reason)
  -- If it lives after all it has to say anew what is open there.
  call('SREM', key('announced'), node)
  local removed = {}
  local buried, id = 0, nil
  while buried < BURIED_AT_ONCE and pushed < PUSHED_AT_ONCE do
    id = call('SPOP', key('open:', node))
    if not id then
      break
    end
    buried = buried + 1
    local peer = load(id)
    if peer then
      local is_here = peer.is.node == node
      if node_of(peer.is.link) == node then
        peer:set('link', nil)
      end
      if peer.is.lent_by == node then
        peer:unlend()
      end
      if is_here and peer.is.socket then
        local gone = close_socket(peer, peer.is.session, reason)
        if gone then
          removed[#removed + 1] = gone
        else
          peer:store()
        end
      else
        if is_here then
          peer:set_number('seen', now)
          peer:move(nil, peer.is.link)
        end
        peer:store()
      end
    end
  end
  local is_all = not id
  if is_all then
    call('ZREM', key('nodes'), node)
  end
  return removed, is_all
end

-- This node lives, and this is the highest id that it has seen. Returns whether
-- it is new to the others (or was taken for dead), and the time.
function verbs.live(highest)
  mind_standstill()
  mind_ids(highest)
  call('SET', key('awake'), string.format('%.0f', now))
  call('SETNX', key('event'), begin_events())
  local is_new = call('SADD', key('announced'), NODE) == 1
  call('ZADD', key('nodes'), now + NODE_LIFE, NODE)
  return { is_new and '1' or '0', string.format('%.0f', now) }
end

-- Dead nodes. Returns who is removed with one, and whether there is more to do.
function verbs.bury()
  mind_standstill()
  for _, node in ipairs(call('ZRANGEBYSCORE', key('nodes'), '-inf', now, 'LIMIT', 0, 1)) do
    local removed = bury(node, 'closed')
    return { removed, '1' }
  end
  return { {}, '0' }
end

-- In ms. Nodes say each minute which library they use. One that nobody has used
-- for a day is of a version that is gone.
local LIBRARY_USED = 2 * 60 * 1000
local LIBRARY_LIFE = 24 * 60 * 60 * 1000

-- This node uses this library. Returns whether others use another now, and the
-- libraries that nobody has used for long.
function verbs.uses_library()
  local libraries = key('libraries')
  call('ZADD', libraries, now, NAME)
  local in_use = call('ZCOUNT', libraries, now - LIBRARY_USED, 'inf')
  local old = call('ZRANGEBYSCORE', libraries, '-inf', now - LIBRARY_LIFE)
  if #old > 0 then
    call('ZREM', libraries, unpack(old))
  end
  return { in_use > 1 and '1' or '0', old }
end

-- This node stops. Returns who is removed with it, and whether there is more.
function verbs.stop()
  local removed, is_all = bury(NODE, 'shutdown')
  return { removed, is_all and '0' or '1' }
end

-- Whether this server can do its work, which is to write and to tell.
function verbs.ready()
  call('SET', key('ready'), '1')
  call('PUBLISH', key(DB .. ':ready'), '')
  return { 'ok' }
end

-- The number of the last event that the webhook was sent ('': none).
function verbs.webhook_sent_last()
  return { call('GET', key('webhook:sent')) or '' }
end

local COLLECTED_AT_ONCE = 100

function verbs.collect()
  local removed = {}
  mind_standstill()
  if call('EXISTS', key('grace')) == 1 then
    return removed
  end
  local stale = call('ZRANGEBYSCORE', key('stale'), '-inf', now, 'LIMIT', 0, COLLECTED_AT_ONCE)
  for _, id in ipairs(stale) do
    if pushed >= PUSHED_AT_ONCE then
      return removed
    end
    local peer = load(id)
    if peer then
      local leaves = peer.is.leaving and tonumber(peer.is.leaving) <= now
      if leaves and peer:is_open() then
        peer:set('leaving', nil)
        peer:store()
      else
        removed[#removed + 1] = remove(peer, leaves and 'signed_out' or 'timed_out')
      end
    else
      call('ZREM', key('stale'), id)
    end
  end
  local kept = current() - call('LLEN', key('log'))
  local late = call('ZRANGEBYSCORE', key('bare'), '-inf', '(' .. string.format('%.0f', kept),
    'LIMIT', 0, COLLECTED_AT_ONCE)
  for _, id in ipairs(late) do
    local peer = load(id)
    if peer then
      removed[#removed + 1] = remove(peer, 'timed_out')
    else
      call('ZREM', key('bare'), id)
    end
  end
  return removed
end

-- The grace of one that signs out later is over.
function verbs.leave(id)
  local peer = load(id)
  if peer and peer.is.leaving and tonumber(peer.is.leaving) <= now then
    if not peer:is_open() then
      return { remove(peer, 'signed_out') }
    end
    -- A page that was loaded anew came before the farewell of the one before.
    peer:set('leaving', nil)
    peer:store()
  end
  return {}
end

-- Whether this node is to send the webhook this event: one node does, the next
-- when that is dead.
function verbs.webhook(number)
  local sent = call('GET', key('webhook:sent'))
  if sent and tonumber(sent) >= tonumber(number) then
    return { 'sent' }
  end
  local sender = call('GET', key('webhook'))
  if sender and sender ~= NODE and is_alive(sender) then
    return { 'wait' }
  end
  call('SET', key('webhook'), NODE)
  return { 'mine' }
end

function verbs.webhook_sent(number)
  -- One whose turn is over may say it late.
  if tonumber(number) > (tonumber(call('GET', key('webhook:sent'))) or 0) then
    call('SET', key('webhook:sent'), number)
  end
  return { 'ok' }
end

local function carry_out(keys, args)
  P = keys[1]
  NODE = args[2]
  time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
  pushed = 0
  return verbs[args[1]](unpack(args, 3))
end

-- Out of memory, what makes room must still be done.
redis.register_function({ function_name = NAME, callback = carry_out, flags = { 'allow-oom' } })
redis.register_function(GROWING, carry_out)
