-- What the operator's API and the webhook ask for.

function verbs.peer_info(id)
  local peer = find(id)
  if not peer or not peer.is.name or peer.is.doomed then
    return {}
  end
  return { info(peer, peer:is_connected()) }
end

-- Some ids of the list. The first value is where to go on; '0' is the end.
function verbs.listed(cursor)
  local some = call('HSCAN', key('listed'), cursor, 'COUNT', TOLD_AT_ONCE)
  local ids = {}
  for at = 1, #some[2], 2 do
    ids[#ids + 1] = some[2][at]
  end
  return { some[1], ids }
end

function verbs.peer_infos(...)
  local found = {}
  for _, id in ipairs({ ... }) do
    local peer = find(id)
    if peer and not peer.is.doomed then
      found[#found + 1] = info(peer, peer:is_connected())
    end
  end
  return found
end

-- The asking node has no copy of the current room's list any more.
function verbs.forget_room()
  local known = call('HGET', key('copies'), NODE)
  -- Not another copy that the node has made since. (If none is known, the room has ended.)
  if not known or known == COPY then
    call('HDEL', key('copies'), NODE)
    call('SREM', shard('copies:', NODE), ROOM)
  end
  return { 'ok' }
end

-- How many rooms there are, and for each door its name and its number of peers.
function verbs.tally()
  local answer = { string.format('%d', call('HLEN', shard('rooms'))) }
  for _, value in ipairs(call('HGETALL', shard('doors'))) do
    answer[#answer + 1] = value
  end
  return answer
end

local ROOMS_AT_ONCE = 100

-- Some of the rooms: of each its name, the number of peers in its list, and when it began.
-- The first value is where to go on; '0' is the end.
function verbs.rooms(cursor)
  local some = call('HSCAN', shard('rooms:since'), cursor, 'COUNT', ROOMS_AT_ONCE)
  local rooms = {}
  for at = 1, #some[2], 2 do
    enter(some[2][at])
    rooms[#rooms + 1] = ROOM
    rooms[#rooms + 1] = call('HLEN', key('listed'))
    rooms[#rooms + 1] = some[2][at + 1]
  end
  return { some[1], rooms }
end

-- The kept events after the one with this number (after 0: the last ones, for a node that
-- begins to listen), up to EVENTS_KEPT of them; the number of the last of these, and whether
-- there are more. The node is told of events from now on.
function verbs.events(known)
  call('SADD', shard('listeners'), NODE)
  -- If this node dies before its first report, others find out.
  call('ZADD', shard('nodes'), 'NX', now + NODE_LIFE, NODE)
  local newest = tonumber(call('GET', shard('event'))) or 0
  local missing = newest - tonumber(known)
  if tonumber(known) == 0 or missing < 0 then
    missing = EVENTS_KEPT
  end
  missing = math.min(missing, call('LLEN', shard('events')))
  local left = math.max(missing - EVENTS_KEPT, 0)
  local lines = missing > 0 and call('LRANGE', shard('events'), -missing, -left - 1) or {}
  return { string.format('%.0f', newest - left), lines, left > 0 and '1' or '0' }
end

-- Nobody at this node wants to hear of events any more.
function verbs.hear_no_events()
  call('SREM', shard('listeners'), NODE)
  return { 'ok' }
end

-- The number of the last event that the webhook was sent ('': none).
function verbs.webhook_sent_last()
  return { call('GET', shard('webhook:sent')) or '' }
end

-- Whether this node should send the webhook this event. One node sends; when it dies,
-- another takes over.
function verbs.webhook(number)
  local sent = call('GET', shard('webhook:sent'))
  if sent and tonumber(sent) >= tonumber(number) then
    return { 'sent' }
  end
  local sender = call('GET', shard('webhook'))
  if sender and sender ~= NODE and is_alive(sender) then
    return { 'wait' }
  end
  call('SET', shard('webhook'), NODE)
  return { 'mine' }
end

function verbs.webhook_sent(number)
  -- A node whose turn is over may report late.
  if tonumber(number) > (tonumber(call('GET', shard('webhook:sent'))) or 0) then
    call('SET', shard('webhook:sent'), number)
  end
  return { 'ok' }
end
