-- What the operator's API and the webhook ask for.

function verbs.peer_info(id)
  local peer = find(id)
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
    local peer = find(id)
    if peer and not peer.is.doomed then
      found[#found + 1] = info(peer, peer:is_connected())
    end
  end
  return found
end

-- The kept events after the one with this number (after 0: the last ones, for a new
-- node).
function verbs.events(known)
  local newest = tonumber(call('GET', key('event'))) or 0
  local missing = newest - tonumber(known)
  if tonumber(known) == 0 or missing < 0 then
    missing = EVENTS_KEPT
  end
  missing = math.min(missing, call('LLEN', key('events')))
  local lines = missing > 0 and call('LRANGE', key('events'), -missing, -1) or {}
  return { string.format('%.0f', newest), lines }
end

-- The number of the last event that the webhook was sent ('': none).
function verbs.webhook_sent_last()
  return { call('GET', key('webhook:sent')) or '' }
end

-- Whether this node should send the webhook this event. One node sends; when it dies,
-- another takes over.
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
  -- A node whose turn is over may report late.
  if tonumber(number) > (tonumber(call('GET', key('webhook:sent'))) or 0) then
    call('SET', key('webhook:sent'), number)
  end
  return { 'ok' }
end
