-- Channels and announcements, and how they reach peers.

local function sets_of(channels)
  local sets = {}
  for at, channel in ipairs(channels) do
    sets[at] = key('c:', channel)
  end
  return sets
end

-- The peers in some channels, each once, without this one.
local function audience(id, channels)
  local found = {}
  for _, other in ipairs(#channels > 0 and call('SUNION', unpack(sets_of(channels))) or {}) do
    if other ~= id then
      found[#found + 1] = other
    end
  end
  return found
end

-- The same, as a set of its own: for 20,000 peers, a copy of one channel takes 3 ms.
local function store_audience(into, id, channels)
  call('DEL', into)
  if #channels == 1 then
    call('COPY', key('c:', channels[1]), into)
  elseif #channels > 1 then
    call('SUNIONSTORE', into, unpack(sets_of(channels)))
  end
  call('SREM', into, id)
end

local function channels_of(id)
  return call('SMEMBERS', key('p:', id .. ':channels'))
end

-- At most about this many peers are pushed to at once: other calls wait meanwhile.
local PUSHED_AT_ONCE = 250
local pushed

-- To how many more a message can be pushed in this call.
local function can_push(body)
  local by_bytes = math.ceil((MOVED_AT_ONCE - moved) / (#body + 1))
  return math.max(math.min(PUSHED_AT_ONCE - pushed, by_bytes), 0)
end

-- Pushes to all of them, except peers that are about to be removed. Returns those that have
-- no room, and whether there was none to push to.
local function push_to(peers, kind, body)
  local full, none = {}, true
  pushed = pushed + #peers
  for _, id in ipairs(peers) do
    local peer = find(id)
    if peer and not peer.is.doomed then
      none = false
      if push(peer, kind, '0', '0', body) then
        peer:store()
      else
        full[#full + 1] = id
      end
    end
  end
  return full, none
end

-- The peers to which a peer owes its last message, or its last numbered one, as they had no
-- room; and those to which it is still to be pushed.
local function owed_by(id, number)
  return key('p:', id .. (number == '' and ':owed' or ':owed:numbered'))
end

local function rest_of(id, number)
  return key('p:', id .. (number == '' and ':rest' or ':rest:numbered'))
end

-- The answer to a peer that says something: to whom it is owed, and whether there is more to
-- push before that is known.
local function owes(id, number)
  local is_more = call('EXISTS', rest_of(id, number)) == 1
  return { 'ok', call('SMEMBERS', owed_by(id, number)), is_more and '1' or false }
end

local function note_owed(id, number, full)
  for _, other in ipairs(full) do
    call('SADD', owed_by(id, number), other)
  end
end

-- Carries out an operation of a peer once: a peer begins one after the other, and only
-- the last may be repeated. `work` is given where to put the peers to which the message is
-- still to be pushed, and returns those that had no room; or nil, and another answer.
local function say(op, id, number, work)
  local peer = find(id)
  if not peer then
    return { 'unknown' }
  end
  if peer.is.op == op then
    return owes(id, number)
  end
  local full, answer = work(peer, rest_of(id, number))
  if not full then
    return answer
  end
  peer = find(id)
  if peer then
    peer:set('op', op)
    peer:store()
  end
  call('DEL', owed_by(id, number))
  note_owed(id, number, full)
  return owes(id, number)
end

-- A peer holds one more name, in this set of its own, if all its names cost no more than
-- a mailbox.
local function hold(peer, set, name)
  local held = key('p:', peer.id .. set)
  if call('SISMEMBER', held, name) == 0 then
    local cost = peer:number('names') + #name + OVERHEAD
    if cost > BOUND then
      return false
    end
    peer:set_number('names', cost)
    peer:store()
    call('SADD', held, name)
  end
  return true
end

-- A peer no longer holds a name.
local function drop(peer, set, name)
  if call('SREM', key('p:', peer.id .. set), name) == 1 then
    -- The name may have cost nothing.
    peer:set_number('names', math.max(peer:number('names') - #name - OVERHEAD, 0))
    peer:store()
  end
end

-- Pushes a message to some of those in `rest`. Returns those that have no room. One that has
-- waited for an announcement waits no more.
local function push_rest(rest, from, kind, body)
  local some = call('SPOP', rest, can_push(body))
  for _, id in ipairs(kind == 'a' and some or {}) do
    local watcher = id ~= from and find(id)
    if watcher then
      drop(watcher, ':announcements', body)
    end
  end
  return (push_to(some, kind, body))
end

-- Publishes farewells in this room that many are to hear. Returns whether that was all: what
-- is said in channels afterwards is heard after them.
local function say_farewells()
  while true do
    local id = call('LINDEX', key('farewells'), 0)
    if not id then
      return true
    end
    local text, rest = key('farewell:', id), key('farewell:', id .. ':rest')
    local farewell = call('GET', text)
    if can_push(farewell) == 0 then
      return false
    end
    for _, other_id in ipairs(push_rest(rest, id, 'p', farewell)) do
      local other = find(other_id)
      if other and doom(other) then
        other:store()
      end
    end
    if call('EXISTS', rest) == 0 then
      call('DEL', text)
      call('LPOP', key('farewells'))
      if call('EXISTS', key('farewells')) == 0 then
        call('SREM', shard('farewell_rooms'), ROOM)
      end
    end
  end
end

-- Publishes farewells of any room. Returns whether that was all.
local function say_all_farewells()
  local room = call('SRANDMEMBER', shard('farewell_rooms'))
  while room do
    enter(room)
    if not say_farewells() then
      return false
    end
    room = call('SRANDMEMBER', shard('farewell_rooms'))
  end
  return true
end

-- Publishes in channels: to all at once; or if they are many, later.
local function push_to_channels(rest, id, channels, kind, body)
  local count = 0
  for _, set in ipairs(sets_of(channels)) do
    count = count + call('SCARD', set)
  end
  call('DEL', rest)
  if say_farewells() and count <= can_push(body) then
    return (push_to(audience(id, channels), kind, body))
  end
  store_audience(rest, id, channels)
  return {}
end

-- The channel of the group with this name that is being filled: if there is none, this peer
-- begins one.
local function open_group(id, name)
  return call('GET', key('g:', name)) or (name .. ' ' .. id)
end

-- If a channel is that of a group that is being filled, and nobody is in it any more, the group
-- ends.
local function forget_empty_group(channel)
  local name = string.match(channel, '^(.*) %d+$')
  if name and call('EXISTS', key('c:', channel)) == 0 and call('GET', key('g:', name)) == channel then
    call('DEL', key('g:', name))
  end
end

-- A peer is removed, and its names with it. If `list_peer` listed it, its farewell is
-- published.
local function drop_names(peer)
  local is, id = peer.is, peer.id
  local channels = channels_of(id)
  for _, channel in ipairs(channels) do
    call('SREM', key('c:', channel), id)
    forget_empty_group(channel)
  end
  for _, name in ipairs(call('SMEMBERS', key('p:', id .. ':announcements'))) do
    call('SREM', key('a:by:', name), id)
    call('SREM', key('a:for:', name), id)
  end
  call('DEL', key('p:', id .. ':channels'), key('p:', id .. ':announcements'))
  -- The owed messages may be on their way.
  for _, number in ipairs({ '', '1' }) do
    call('PEXPIRE', owed_by(id, number), OP_LIFE)
    call('PEXPIRE', rest_of(id, number), OP_LIFE)
  end
  if is.key and call('HGET', key('keys'), is.key) == id then
    call('HDEL', key('keys'), is.key)
  end
  if is.alias then
    call('HDEL', key('aliases:', is.scope), is.alias)
  end
  if is.farewell then
    call('HDEL', key('cards'), id)
    local rest = key('farewell:', id .. ':rest')
    store_audience(rest, id, channels)
    local count = call('SCARD', rest)
    if count > 0 then
      call('SET', key('farewell:', id), is.farewell)
      call('RPUSH', key('farewells'), id)
      call('SADD', shard('farewell_rooms'), ROOM)
    end
    if count > can_push(is.farewell) or not say_farewells() then
      tell(NODE, 'f' .. ROOM)
    end
  end
end

-- Publishes farewells in this room. Returns whether there are more.
function verbs.say_farewells()
  return { say_farewells() and '0' or '1' }
end

-- `size`: the channel is that of a group of this many peers ('': of none). `hello`: published to the
-- others in it ('': nothing is).
function verbs.join(op, id, name, size, hello)
  local answer = say(op, id, '', function(peer, rest)
    if peer.is.doomed then
      return nil, { 'unknown' }
    end
    local channel = size == '' and name or open_group(id, name)
    if not hold(peer, ':channels', channel) then
      return nil, { 'costly' }
    end
    peer:set('joined_last', channel)
    peer:store()
    local full = {}
    call('DEL', rest)
    if hello ~= '' then
      full = push_to_channels(rest, id, { channel }, 'p', hello)
    end
    call('SADD', key('c:', channel), id)
    if size ~= '' then
      if call('SCARD', key('c:', channel)) >= tonumber(size) then
        call('DEL', key('g:', name))
      else
        call('SET', key('g:', name), channel)
      end
    end
    return full
  end)
  if answer[1] == 'ok' then
    answer[4] = find(id).is.joined_last
  end
  return answer
end

function verbs.count_in(channel)
  return { call('SCARD', key('c:', channel)) }
end

function verbs.leave_channel(id, channel)
  local peer = find(id)
  if not peer or peer.is.doomed then
    return { 'unknown' }
  end
  drop(peer, ':channels', channel)
  call('SREM', key('c:', channel), id)
  forget_empty_group(channel)
  return { 'ok' }
end

-- `number`: the sender's number of the message ('': none). If the sender has sent that
-- number before, nothing is pushed, and only the peers are returned to which the message
-- is still owed. `echoes`: the sender hears it too. The other arguments are the channels.
function verbs.publish(op, id, number, echoes, body, ...)
  local channels = { ... }
  return say(op, id, number, function(peer, rest)
    if number ~= '' then
      local sent = peer.is.sent or '0'
      if number == sent then
        return nil, owes(id, number)
      end
      if not is_after(number, sent) then
        return nil, { 'ok', {} }
      end
      peer:set('sent', number)
      peer:store()
    end
    return push_to_channels(rest, echoes == '1' and '' or id, channels, 'p', body)
  end)
end

-- Whether a message of a peer that is not with all yet is still to be pushed. The kind of a
-- hello is `h`: it is not published after the farewell.
local function is_still_said(op, from, number, kind)
  local sender = find(from)
  if not sender then
    return kind ~= 'h'
  end
  -- The sender may have come back by another socket, and gone on.
  return number == '' and sender.is.op == op or number ~= '' and sender.is.sent == number
end

-- Pushes to more of those to which the message is still to be pushed.
function verbs.push_more(op, from, number, kind, body)
  if not is_still_said(op, from, number, kind) then
    return { 'ok', {} }
  end
  if say_farewells() then
    local rest = rest_of(from, number)
    note_owed(from, number, push_rest(rest, from, kind == 'h' and 'p' or kind, body))
  end
  return owes(from, number)
end

-- Pushes to a peer that had no room, and to which the message is still owed. Returns
-- whether it still has no room, or is gone.
function verbs.push_owed(op, from, number, id, kind, body)
  local owed = owed_by(from, number)
  if not is_still_said(op, from, number, kind) or call('SISMEMBER', owed, id) == 0 then
    return { 'ok' }
  end
  local full, none = push_to({ id }, kind == 'h' and 'p' or kind, body)
  if #full > 0 then
    return { 'full' }
  end
  call('SREM', owed, id)
  return { none and 'unknown' or 'ok' }
end

function verbs.announce(op, id, name)
  return say(op, id, '', function(peer, rest)
    if not hold(peer, ':announcements', name) then
      return nil, { 'costly' }
    end
    call('SADD', key('a:by:', name), id)
    call('DEL', rest)
    if call('EXISTS', key('a:for:', name)) == 1 then
      call('RENAME', key('a:for:', name), rest)
    end
    return push_rest(rest, id, 'a', name)
  end)
end

function verbs.watch_for(op, id, name)
  return say(op, id, '', function(peer, rest)
    call('DEL', rest)
    if call('EXISTS', key('a:by:', name)) == 1 then
      return push_to({ id }, 'a', name)
    end
    if not hold(peer, ':announcements', name) then
      return nil, { 'costly' }
    end
    call('SADD', key('a:for:', name), id)
    return {}
  end)
end
