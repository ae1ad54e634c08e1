-- Channels and announcements, and how they reach peers.

-- The peers of some channels, each once, without the one that publishes.
local function audience(id, channels)
  if #channels == 0 then
    return {}
  end
  local keys = {}
  for at, channel in ipairs(channels) do
    keys[at] = key('c:', channel)
  end
  local found = {}
  for _, other in ipairs(call('SUNION', unpack(keys))) do
    if other ~= id then
      found[#found + 1] = other
    end
  end
  return found
end

local function channels_of(id)
  return call('SMEMBERS', key('p:', id .. ':channels'))
end

-- At most this many peers are pushed to at once: other calls wait meanwhile.
local PUSHED_AT_ONCE = 500
local pushed

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

-- The peers to which a peer owes its last message, or its last numbered one.
local function owed_by(id, number)
  return key('p:', id .. (number == '' and ':owed' or ':owed:numbered'))
end

-- Carries out an operation of a peer once: a peer begins one after the other, and only
-- the last may be repeated. `work` returns the peers to which the message is owed, as
-- they had no room; or nil, and another answer.
local function say(op, id, number, work)
  local owed = owed_by(id, number)
  local peer = find(id)
  if not peer then
    return { 'unknown' }
  end
  if peer.is.op == op then
    return { 'ok', call('SMEMBERS', owed) }
  end
  local full, answer = work(peer)
  if not full then
    return answer
  end
  peer = find(id)
  if peer then
    peer:set('op', op)
    peer:store()
  end
  call('DEL', owed)
  for _, other in ipairs(full) do
    call('SADD', owed, other)
  end
  return { 'ok', full }
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

-- A peer is removed, and its names with it. If `list_peer` listed it, its farewell is
-- published.
local function drop_names(peer)
  local is, id = peer.is, peer.id
  local channels = channels_of(id)
  for _, channel in ipairs(channels) do
    call('SREM', key('c:', channel), id)
  end
  for _, name in ipairs(call('SMEMBERS', key('p:', id .. ':announcements'))) do
    call('SREM', key('a:by:', name), id)
    call('SREM', key('a:for:', name), id)
  end
  call('DEL', key('p:', id .. ':channels'), key('p:', id .. ':announcements'))
  -- The owed messages may be on their way.
  for _, number in ipairs({ '', '1' }) do
    call('PEXPIRE', owed_by(id, number), OP_LIFE)
  end
  if is.key and call('HGET', key('keys'), is.key) == id then
    call('HDEL', key('keys'), is.key)
  end
  if is.alias then
    call('HDEL', key('aliases:', is.scope), is.alias)
  end
  if is.farewell then
    call('HDEL', key('cards'), id)
    for _, other_id in ipairs(push_to(audience(id, channels), 'p', is.farewell)) do
      local other = find(other_id)
      if other and doom(other) then
        other:store()
      end
    end
  end
end

function verbs.join(id, channel)
  local peer = find(id)
  if not peer or peer.is.doomed then
    return { 'unknown' }
  end
  if not hold(peer, ':channels', channel) then
    return { 'costly' }
  end
  call('SADD', key('c:', channel), id)
  return { 'ok' }
end

function verbs.leave_channel(id, channel)
  local peer = find(id)
  if not peer or peer.is.doomed then
    return { 'unknown' }
  end
  drop(peer, ':channels', channel)
  call('SREM', key('c:', channel), id)
  return { 'ok' }
end

-- `number`: the sender's number of the message ('': none). If the sender has sent that
-- number before, nothing is pushed, and only the peers are returned to which the message
-- is still owed. The other arguments are the channels.
function verbs.publish(op, id, number, body, ...)
  local channels = { ... }
  return say(op, id, number, function(peer)
    if number ~= '' then
      local sent = peer.is.sent or '0'
      if number == sent then
        return nil, { 'ok', call('SMEMBERS', owed_by(id, number)) }
      end
      if not is_after(number, sent) then
        return nil, { 'ok', {} }
      end
      peer:set('sent', number)
      peer:store()
    end
    return push_to(audience(id, channels), 'p', body)
  end)
end

-- Pushes to a peer that had no room, and to which the message is still owed. Returns
-- whether it still has no room, or is gone. The kind of a hello is `h`: it is not
-- published after the farewell.
function verbs.push_owed(op, from, number, id, kind, body)
  local sender = find(from)
  local said = sender and (number == '' and sender.is.op == op or sender.is.sent == number)
  if sender and not said then
    -- The sender has come back by another socket, and gone on.
    return { 'ok' }
  end
  local owed = owed_by(from, number)
  if call('SISMEMBER', owed, id) == 0 or kind == 'h' and not sender then
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
  return say(op, id, '', function(peer)
    if not hold(peer, ':announcements', name) then
      return nil, { 'costly' }
    end
    call('SADD', key('a:by:', name), id)
    local watchers = call('SMEMBERS', key('a:for:', name))
    call('DEL', key('a:for:', name))
    for _, watcher in ipairs(watchers) do
      local other = watcher ~= id and find(watcher)
      if other then
        drop(other, ':announcements', name)
      end
    end
    return push_to(watchers, 'a', name)
  end)
end

function verbs.watch_for(op, id, name)
  return say(op, id, '', function(peer)
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
