-- The members of the group, their rooms, and whom their broadcasts reach.

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

-- Returns those that have no room, and whether nobody was there: who is to go is
-- passed over.
local function push_to(members, kind, body)
  local full, none = {}, true
  pushed = pushed + #members
  for _, id in ipairs(members) do
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

-- To whom a member owes what it said last, or broadcast with a number.
local function owed_by(id, number)
  return key('p:', id .. (number == '' and ':owed' or ':owed:numbered'))
end

-- Carries out what a member says, once: it says one thing after the other, and
-- only the last may be asked for again. `work` returns to whom it is owed, as
-- there was no room; or nil, and another answer.
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

local function leave_rooms(id)
  for _, room in ipairs(call('SMEMBERS', key('p:', id .. ':rooms'))) do
    call('SREM', key('r:k:', room), id)
    call('SREM', key('r:a:', room), id)
  end
  call('DEL', key('p:', id .. ':rooms'))
  -- What it still owes may be on its way.
  for _, number in ipairs({ '', '1' }) do
    call('PEXPIRE', owed_by(id, number), OP_LIFE)
  end
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
      local other = find(id)
      if other and doom(other) then
        other:store()
      end
    end
  end
end

function verbs.show_family(id, family)
  if call('HGET', key('g:members'), id) == '' then
    call('HSET', key('g:members'), id, family)
  end
  return { 'ok' }
end

-- `number`: the sender's number of it ('': none). Of one that it has sent before,
-- those are told who are still owed it.
function verbs.broadcast(op, id, number, body)
  return say(op, id, number, function(peer)
    local family = call('HGET', key('g:members'), id)
    if not family then
      return nil, { 'unknown' }
    end
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
    return push_to(audience(id, family), 'g', body)
  end)
end

function verbs.send_to_member(op, id, title, body)
  return say(op, id, '', function()
    local to = call('HGET', key('g:names'), title)
    local full, none = push_to({ to }, 'g', body)
    if none then
      return nil, { 'unknown' }
    end
    return full
  end)
end

-- To a member to whom it is owed, as it had no room. Returns whether it still has
-- none, or is gone.
function verbs.push_owed(op, from, number, id, kind, body)
  local sender = find(from)
  local said = sender and (number == '' and sender.is.op == op or sender.is.sent == number)
  if sender and not said then
    -- It has come back by another socket, and gone on.
    return { 'ok' }
  end
  local owed = owed_by(from, number)
  if call('SISMEMBER', owed, id) == 0 then
    return { 'ok' }
  end
  local full, none = push_to({ id }, kind, body)
  if #full > 0 then
    return { 'full' }
  end
  call('SREM', owed, id)
  return { none and 'unknown' or 'ok' }
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
  return say(op, id, '', function(peer)
    if not enter(peer, room) then
      return nil, { 'costly' }
    end
    call('SADD', key('r:k:', room), id)
    local askers = call('SMEMBERS', key('r:a:', room))
    call('DEL', key('r:a:', room))
    for _, asker in ipairs(askers) do
      local other = asker ~= id and find(asker)
      if other and call('SREM', key('p:', asker .. ':rooms'), room) == 1 then
        other:add('rooms', -#room - OVERHEAD)
        other:store()
      end
    end
    return push_to(askers, 'r', room)
  end)
end

function verbs.ask_for_room(op, id, room)
  return say(op, id, '', function(peer)
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
