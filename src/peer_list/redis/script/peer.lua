-- A peer: its fields, and its entries in the sets.

local Peer = {}
Peer.__index = Peer

local function find(id)
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

function Peer:member()
  return member(self.id)
end

function Peer:set(field, value)
  if value ~= nil and type(value) ~= 'string' then
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

-- Whether a living node has something of it open.
function Peer:is_open()
  return self.is.node ~= nil
end

function Peer:stale_at()
  if self.is.socket then
    return math.huge
  end
  if self.is.doomed then
    -- No door is left that could remove it.
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

-- Whether a node that has asked for the STATUS of all peers within the last LINGER_FORESEEN ms knows
-- that of this one all the same, when its entry in the set `linger` changes: such a node
-- shows peers as connected that it was told nothing of.
local function is_foreseen(before, after)
  local was_connected = not before or before == 'none' or tonumber(before) > now
  return was_connected and (after == 'none' or tonumber(after) >= now + LINGER_FORESEEN)
end

-- Writes what has changed, and the entries of the peer in the sets.
function Peer:store()
  local stale = self:stale_at()
  stale = stale == math.huge and 'inf' or string.format('%.0f', stale)
  self:set('stale', stale)
  local linger = 'none'
  if self.is.name and not (self:is_open() or self.is.link) then
    linger = self.is.linger or '0'
  end
  local shown = self.is.shown
  self:set('shown', linger)
  if self.changed.stale then
    call('ZADD', shard('stale'), stale, self:member())
  end
  if self.changed.shown then
    if self.is.name and not is_foreseen(shown, linger) then
      call('INCR', key('statuses'))
    end
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

-- The node of a link.
local function node_of(link)
  return string.match(link or '', '^%S+')
end

-- The nodes that have something of it.
function Peer:nodes()
  local nodes = {}
  if self.is.node then
    nodes[#nodes + 1] = self.is.node
  end
  local linked = node_of(self.is.link)
  if linked and linked ~= self.is.node then
    nodes[#nodes + 1] = linked
  end
  return nodes
end

function Peer:has_at(node)
  return self.is.node == node or node_of(self.is.link) == node
end

-- Changes where it is open, and by which link. Keeps the set of each node (`open:NODE`),
-- which tells what the node had when it dies.
function Peer:move(node, link)
  local before = self:nodes()
  self:set('node', node)
  self:set('link', link)
  for _, was in ipairs(before) do
    if not self:has_at(was) then
      call('SREM', shard('open:', was), self:member())
    end
  end
  if node == NODE then
    note_copy()
  end
  for _, is in ipairs(self:nodes()) do
    if is ~= before[1] and is ~= before[2] then
      call('SADD', shard('open:', is), self:member())
      -- If this node dies before its first report, others find out.
      call('ZADD', shard('nodes'), 'NX', now + NODE_LIFE, is)
    end
  end
end

-- A request of it has come, on this link ('': its connection does not stay open).
-- `lingers`: its client closes the connection, and will be back. `node`: where the request
-- waits, if it does.
function Peer:request(link, lingers, node)
  self:move(node or self.is.node, link ~= '' and NODE .. ' ' .. link or nil)
  self:set('seen', NOW)
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

-- Its open wait or socket looks again.
function Peer:wake()
  if self.is.node then
    tell(self.is.node, 'w' .. self:member())
  end
end

-- Its wait is given nothing any more. If the list has changed since the peer was last known to
-- have heard of it, the node of the wait is asked: it tells waits of the list by itself.
function Peer:take_over()
  if not self.is.wait or not self.is.node then
    return
  end
  local asks = self.is.dialect == 'l' and self:number('heard') < current()
  tell(self.is.node, (asks and 'q' or 'o') .. self:member() .. ' ' .. self.is.wait)
  -- Of several, the first may have told more: the others have asked it.
  if asks and not self.is.previous then
    self:set('previous', self.is.wait)
    self:set('previous_at', NOW)
  end
end

-- Begins a session: its earlier waits are given nothing any more.
function Peer:begin_session()
  if self.is.socket then
    -- Ends the sockets of earlier sessions.
    tell(self.is.node, string.format('x%s %.0f', self:member(), self:number('session') + 1))
  else
    self:take_over()
  end
  -- Not even a server that has lost its last data gives a session number twice.
  self:set_number('session', math.max(self:number('session') + 1, now))
  self:set('closed', nil)
  self:set('wait', nil)
  self:unlend()
  self:set('handed', nil)
end

-- It said that it signs out later, and still runs.
function Peer:come_back()
  self:set('leaving', nil)
  self:set('said', nil)
  self:set('asked', nil)
  self:set('late', nil)
  self:set('goodbye', nil)
  self:set('late_socket', nil)
end

-- Whether a request that comes now shows that a peer that signs out later still runs: one that
-- comes soon after the farewell may have been sent before it.
function Peer:belies_farewell()
  return now >= self:number('said') + LATE_REQUEST
end

-- It is back, unless the request for its socket may have been overtaken by the farewell of its
-- page, and the socket is closed before the grace ends.
function Peer:come_back_by_socket()
  if self:belies_farewell() then
    self:come_back()
  elseif self.is.leaving then
    self:set('late_socket', '1')
  end
end

-- Ends its wait: if it polls again, it still runs.
function Peer:ask()
  self:set('goodbye', self.is.wait)
  self:set('asked', self.is.wait and '1' or nil)
  if self.is.wait and self.is.node then
    tell(self.is.node, 'b' .. self:member())
  end
end

-- Whether a request that shows this token ('': none; '*': none is needed) may act as it.
-- Returns the refusal if not. The right token protects the peer from then on.
function Peer:refuses(token)
  local is = self.is
  if token == '*' then
    return nil
  end
  if token == '' then
    -- A peer that has a socket needs no requests.
    return (is.protected or is.resumes or is.socket) and { 'token' } or nil
  end
  if token ~= is.token then
    return { 'wrong' }
  end
  if not is.protected then
    self:set('protected', '1')
    if self.is.wait and self.is.node then
      -- The wait there may be of somebody who has not shown it.
      tell(self.is.node, 'p' .. self:member())
    end
    -- Before it was protected, anybody may have numbered messages.
    self:set('sent', nil)
  end
  return nil
end

-- Who is behind it ('': not known).
function Peer:identify(user, address, ice_servers)
  self:set('user', user ~= '' and user or nil)
  self:set('address', address ~= '' and address or nil)
  self:set('ice_servers', ice_servers ~= '' and ice_servers or nil)
end

-- The refusal, if it cannot come back for this user.
function Peer:refuses_user(user)
  return (self.is.user or '') ~= user and { 'user' } or nil
end

local LARGEST_ID = 2147483647

-- Rooms share their ids, so that an id does not come again when a room begins again.
local function last_id(room)
  return shard(room == '' and 'id' or 'room_id')
end

-- `highest`: the highest id that the asking node has seen. No id is given twice, not even
-- after this server has lost some: their peers may still ask.
local function skip_lost_ids(room, highest)
  highest = tonumber(highest)
  if highest < LARGEST_ID and (tonumber(call('GET', last_id(room))) or 0) < highest then
    call('SET', last_id(room), highest)
  end
end

local function next_id(highest)
  skip_lost_ids(ROOM, highest)
  -- This ends, because MAX_PEERS is less than the number of ids.
  while true do
    local id = call('INCR', last_id(ROOM))
    if id > LARGEST_ID then
      call('SET', last_id(ROOM), 0)
    elseif call('EXISTS', key('p:', id)) == 0 then
      return string.format('%d', id)
    end
  end
end

-- A room begins with its first peer and ends with its last.
local function count_peer(by)
  if ROOM == '' then
    return
  end
  local peers = call('HINCRBY', shard('rooms'), ROOM, by)
  if peers > 0 then
    call('HSETNX', shard('rooms:since'), ROOM, NOW)
  else
    call('HDEL', shard('rooms'), ROOM)
    call('HDEL', shard('rooms:since'), ROOM)
    -- No version of it comes again when the room does.
    local version = tonumber(call('GET', key('version'))) or 0
    if version > (tonumber(call('GET', shard('room_version'))) or 0) then
      call('SET', shard('room_version'), string.format('%.0f', version))
    end
    call('DEL', key('version'), key('statuses'), key('log'), key('copies'))
  end
end

-- Counts the peers of a network ('': it is not counted).
local function count_of_network(network, by)
  if network ~= '' and call('HINCRBY', shard('networks'), network, by) <= 0 then
    call('HDEL', shard('networks'), network)
  end
end

-- Counts the peers of a door.
local function count_of_door(door, by)
  if call('HINCRBY', shard('doors'), door, by) <= 0 then
    call('HDEL', shard('doors'), door)
  end
end

local function new_peer(door, dialect, token, highest, network)
  local peer = setmetatable({ id = next_id(highest), is = {}, changed = {} }, Peer)
  peer:set('door', door)
  peer:set('dialect', dialect)
  peer:set('token', token)
  peer:set('since', NOW)
  peer:set('seen', NOW)
  -- Above every session of a lost peer with the same id.
  peer:set('session', NOW)
  count_peer(1)
  count_of_door(door, 1)
  peer:set('counted', '1')
  peer:set('network', network ~= '' and network or nil)
  count_of_network(network, 1)
  return peer
end

-- The refusal, if no more peers of this network can come in.
local function refused_as_full(network)
  local elsewhere = SHARDS > 1 and tonumber(call('GET', shard('elsewhere'))) or 0
  if call('ZCARD', shard('stale')) + elsewhere >= MAX_PEERS then
    return { 'full' }
  end
  local peers = ROOM ~= '' and call('HGET', shard('rooms'), ROOM)
  if peers and tonumber(peers) >= MAX_ROOM_PEERS then
    return { 'room full' }
  end
  local of_network = network ~= '' and call('HGET', shard('networks'), network)
  return of_network and tonumber(of_network) >= MAX_OF_NETWORK and { 'network full' } or nil
end
