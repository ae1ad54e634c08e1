-- What waits for a peer.

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

-- Numbers from this on are none that this script gave; as many may follow it.
local LARGEST = 2 ^ 52

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
    return
  end
  if number > peer:number('delivered') then
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

function verbs.acknowledge(id, number)
  local peer = find(id)
  if peer then
    acknowledge(peer, tonumber(number))
    peer:store()
  end
  return { 'ok' }
end

-- Nobody can be refused that sends to a socket, nor may one that is away miss
-- a part: it is to go.
local function doom(peer)
  if not peer.is.socket and not (peer.is.by_socket_only and peer.is.resumes) then
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
  local peer = find(id)
  if not peer or has_room(peer, bytes) then
    return { 'ok' }
  end
  local is_away = peer.is.by_socket_only and peer.is.resumes and not peer.is.socket
  return { is_away and 'away' or 'full', taken(peer) }
end

-- A peer has made no room since it had taken so many messages. Returns whether
-- it is to go for that.
function verbs.give_up(id, bytes, before)
  local peer = find(id)
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
