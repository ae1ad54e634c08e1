-- The mailbox of a peer.

-- How many bytes the current call has moved to mailboxes, or from them; and about how many
-- one call moves at most: other calls wait meanwhile.
local moved
local MOVED_AT_ONCE = 64 * 1024

-- Puts a message last in line. False if there is no room.
local function push(peer, kind, from, needs, body)
  local bytes = peer:number('bytes') + #body + OVERHEAD
  if bytes > BOUND then
    return false
  end
  call('RPUSH', key('m:', peer.id), string.format('%s %s %s\n', kind, from, needs) .. body)
  peer:set_number('bytes', bytes)
  moved = moved + #body
  if not peer.is.lent then
    peer:wake()
  end
  return true
end

-- Takes off the oldest message. False if there is none.
local function pop(peer)
  local raw = call('LPOP', key('m:', peer.id))
  if raw then
    local _, header = string.find(raw, '\n', 1, true)
    peer:add('bytes', header - #raw - OVERHEAD)
    peer:add('gone', 1)
  end
  return raw
end

-- The script gives no numbers this high, and ignores acknowledgements of them: numbers
-- are exact up to twice this, so that any lower number can be continued from.
local LARGEST = 2 ^ 52

-- The peer has all messages up to this number.
local function acknowledge(peer, number)
  if number >= LARGEST or peer.is.doomed then
    return
  end
  if number > peer:number('offered') then
    -- The number was never given: Redis has lost the messages, and would give the same
    -- numbers to new messages, which the peer would take for repeats. The messages that
    -- wait may be new. They stay, and get new numbers.
    for _, field in ipairs({ 'gone', 'delivered', 'offered' }) do
      peer:set_number(field, number)
    end
    peer:set('handed', nil)
    peer:unlend()
    peer:wake()
    return
  end
  if number > peer:number('delivered') then
    -- The client has the reply before its node has reported that.
    peer:set_number('delivered', number)
    if peer.is.lent_number and peer:number('lent_number') <= number then
      peer:unlend()
    end
  end
  while peer:number('gone') < number and pop(peer) do
    peer:set_number('handed', math.max(peer:number('handed') - 1, 0))
  end
  -- Messages that are taken off stay off, whatever happens to the rest.
  peer:store()
end

function verbs.acknowledge(id, number)
  local peer = find(id)
  if peer then
    acknowledge(peer, tonumber(number))
    peer:store()
  end
  return { 'ok' }
end

-- A peer has made no room in its mailbox. One with an open socket does not read, and one
-- that is away must not miss a part: it is removed. A peer that polls stays, and the
-- sender is refused.
local function doom(peer)
  if not peer.is.socket and not (peer.is.by_socket_only and peer.is.resumes) then
    return false
  end
  peer:set('doomed', peer.is.doomed or 'not_reading')
  call('DEL', key('m:', peer.id))
  peer:set('handed', nil)
  if peer.is.node then
    tell(peer.is.node, 'r' .. peer:member() .. ' ' .. peer.is.doomed)
  end
  return true
end

local function has_space(peer, bytes)
  return peer.is.doomed or peer:number('bytes') + tonumber(bytes) + OVERHEAD <= BOUND
end

-- How many messages a peer has taken.
local function taken(peer)
  return string.format('%.0f', peer:number('gone') + peer:number('handed'))
end

-- Whether a mailbox has room for this many bytes, or has no reader; and how many messages
-- its peer has taken.
function verbs.has_space(id, bytes)
  local peer = find(id)
  if not peer or has_space(peer, bytes) then
    return { 'ok' }
  end
  local is_away = peer.is.by_socket_only and peer.is.resumes and not peer.is.socket
  return { is_away and 'away' or 'full', taken(peer) }
end

-- A peer has made no room since it had taken this many messages. Returns whether it
-- should be removed.
function verbs.give_up(id, bytes, before)
  local peer = find(id)
  if not peer then
    return { 'gone' }
  end
  if has_space(peer, bytes) or taken(peer) ~= before then
    return { 'ok' }
  end
  local doomed = doom(peer)
  peer:store()
  return { doomed and 'gone' or 'full' }
end
