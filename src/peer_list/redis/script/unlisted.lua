-- How unlisted peers come in, come back, and are listed.

-- The answer about a peer that came in unlisted: its id, whether it was known, its alias
-- if it is in the list, and its channels.
local function answer_with(peer, was_known)
  local answer = { 'ok', peer.id, was_known, peer.is.name and peer.is.alias or false }
  for _, channel in ipairs(channels_of(peer.id)) do
    answer[#answer + 1] = channel
  end
  return answer
end

local function returned(op, before, peer, token, user, address, ice_servers)
  local refused = peer:refuses_user(user)
  if refused then
    return refused
  end
  if not done_before(op) then
    peer:set('seen', NOW)
    peer:set_number('linger', now + LINGER)
    peer:identify(user, address, ice_servers)
    if peer.is.name then
      event('reconnect', '-', peer)
    end
    peer:set('token', token)
    peer:store()
    remember(op, peer.id .. ' 1', before)
  end
  return answer_with(peer, '1')
end

-- `secret`: the key by which it may come back ('': none). The last arguments are the
-- channels that it is in from the start.
verbs.add_unlisted = in_time(function(before, op, secret, door, token, highest, user, address, ice_servers,
  network, ...)
  local done = done_before(op)
  if done == GIVEN_UP then
    return { 'given up' }
  end
  local added, was_known = string.match(done or '', '^(%d+) (%d)$')
  local peer = added and find(added)
  if peer then
    return answer_with(peer, was_known)
  end
  local known_id = secret ~= '' and call('HGET', key('keys'), secret)
  local known = known_id and find(known_id)
  if known and not known.is.doomed then
    return returned(op, before, known, token, user, address, ice_servers)
  end
  local full = refused_as_full(network)
  if full then
    return full
  end
  peer = new_peer(door, 's', token, highest, network)
  peer:identify(user, address, ice_servers)
  peer:set('by_socket_only', '1')
  peer:set_number('linger', now + LINGER)
  if secret ~= '' then
    peer:set('acks', '1')
    peer:set('resumes', '1')
    peer:set('key', secret)
    call('HSET', key('keys'), secret, peer.id)
  end
  peer:set_number('names', 0)
  peer:store()
  -- At no cost: its door chose them.
  for _, channel in ipairs({ ... }) do
    call('SADD', key('p:', peer.id .. ':channels'), channel)
    call('SADD', key('c:', channel), peer.id)
  end
  -- Kept for as long as it may be given up.
  remember(op, peer.id .. ' 0')
  return answer_with(peer, '0')
end)

verbs.resume_unlisted = in_time(function(before, op, id, token, user, address, ice_servers)
  local peer = find(id)
  if not peer or not peer.is.by_socket_only or peer.is.doomed then
    return { 'gone' }
  end
  local refused = peer:refuses(token)
  if refused then
    return refused
  end
  return returned(op, before, peer, token, user, address, ice_servers)
end)

-- The cards of these peers, in order, each after the name of its door and a space: false for
-- peers that did not come in unlisted, '' for peers that show no card.
function verbs.cards_of(...)
  local shown = {}
  for at, id in ipairs({ ... }) do
    local card = call('HGET', key('cards'), id)
    local is_hidden = not card and call('HEXISTS', key('p:', id), 'by_socket_only') == 1
    shown[at] = card or (is_hidden and '') or false
  end
  return shown
end

function verbs.list_peer(op, id, name, card, hello, farewell)
  local answer = say(op, id, '', function(peer, rest)
    if peer.is.doomed then
      return nil, { 'unknown' }
    end
    if peer.is.name then
      return nil, { 'taken' }
    end
    call('HSET', key('cards'), id, peer.is.door .. ' ' .. card)
    peer:set('farewell', farewell)
    peer:set('name', name)
    set_heard(peer, change('+', peer))
    event('connect', '-', peer)
    peer:store()
    return push_to_channels(rest, id, channels_of(id), 'p', hello)
  end)
  if answer[1] == 'ok' then
    answer[4], answer[5] = moment()
  end
  return answer
end
