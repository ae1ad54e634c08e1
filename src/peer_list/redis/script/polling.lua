-- Sign-ins and requests of peers.

-- The peer that a request acts as, if its token ('': none) allows it. Else the refusal, and
-- the peer, if there is one.
local function polled(id, token)
  local peer = find(id)
  if not peer or peer.is.by_socket_only or peer.is.doomed then
    return nil, { 'unknown' }
  end
  local refused = peer:refuses(token)
  if refused then
    return nil, refused, peer
  end
  return peer
end

verbs.add_peer = in_time(function(_, op, name, door, dialect, token, highest, protected, user, address, ice_servers,
  network)
  local known_id = done_before(op)
  if known_id == GIVEN_UP then
    return { 'given up' }
  end
  local peer = known_id and find(known_id)
  if peer then
    return { 'ok', peer.id, moment() }
  end
  local full = refused_as_full(network)
  if full then
    return full
  end
  peer = new_peer(door, dialect, token, highest, network)
  peer:identify(user, address, ice_servers)
  peer:set('protected', protected == '1' and '1' or nil)
  peer:set('name', name == '' and 'peer_' .. peer.id or name)
  -- Connected until its sign-in is answered.
  peer:set_number('linger', now + LINGER)
  set_heard(peer, change('+', peer))
  event('connect', '-', peer)
  peer:store()
  -- Kept for as long as it may be given up.
  remember(op, peer.id)
  return { 'ok', peer.id, moment() }
end)

-- The client of this sign-in was refused: the sign-in is undone, or never done.
function verbs.give_up_sign_in(op)
  local id, was_known = string.match(done_before(op) or '', '^(%d+) ?(%d?)$')
  local peer = id and was_known ~= '1' and find(id)
  if peer then
    remove(peer, 'closed')
  end
  remember(op, GIVEN_UP)
  return { 'ok' }
end

verbs.resume_peer = in_time(function(before, op, id, token, name, door, dialect, user, address, ice_servers, has_socket)
  local peer = find(id)
  if not peer or peer.is.by_socket_only or peer.is.doomed then
    return { 'gone' }
  end
  local refused = peer:refuses(token) or peer:refuses_user(user)
  if refused then
    return refused
  end
  if done_before(op) then
    return { 'ok', id, moment() }
  end
  peer:begin_session()
  if has_socket == '1' then
    peer:come_back_by_socket()
  else
    peer:come_back()
  end
  peer:identify(user, address, ice_servers)
  call('ZREM', key('bare'), id)
  peer:move(nil, peer.is.link)
  peer:set('socket', nil)
  if peer.is.counted then
    count_of_door(peer.is.door, -1)
  end
  count_of_door(door, 1)
  peer:set('counted', '1')
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
  set_heard(peer, current())
  peer:set_number('linger', now + LINGER)
  peer:set('seen', NOW)
  if peer.is.beat then
    -- Counts as a heartbeat.
    peer:set('beat', NOW)
  end
  event('reconnect', '-', peer)
  peer:store()
  remember(op, '1', before)
  return { 'ok', id, moment() }
end)

function verbs.check_token(id, token)
  local peer = find(id)
  local refused = peer and peer:refuses(token)
  if peer and not refused then
    peer:store()
  end
  return refused or { 'ok' }
end

local function address(from, to)
  local sender = find(from)
  if not sender or not sender.is.name then
    return nil, nil, { 'sender' }
  end
  local receiver = from == to and sender or find(to)
  if not receiver or not receiver.is.name or receiver.is.doomed then
    return sender, nil, { 'receiver' }
  end
  return sender, receiver
end

-- `sequence`: the sender's number of this message ('': none). `polls`: whether it came in
-- a request.
verbs.send = in_time(function(before, op, from, token, to, link, lingers, sequence, polls, body)
  local sender, receiver, refused = address(from, to)
  if not sender then
    return refused
  end
  local unproved = polls == '1' and sender:refuses(token)
  if unproved then
    return unproved
  end
  if polls == '1' and not sender.is.by_socket_only then
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
end)

-- A request of a peer has come. `act` is given the peer, unless the request is refused.
local function answer_request(id, token, link, lingers, act)
  local peer, refused = polled(id, token)
  if not peer then
    return refused
  end
  peer:request(link, lingers)
  act(peer)
  peer:store()
  return { 'ok' }
end

function verbs.heartbeat(id, token, link, lingers)
  return answer_request(id, token, link, lingers, function(peer)
    peer:set('beat', NOW)
    if peer:belies_farewell() then
      peer:come_back()
    end
  end)
end

function verbs.ice_servers(id, token, link, lingers)
  local kept
  local answer = answer_request(id, token, link, lingers, function(peer)
    kept = peer.is.ice_servers
  end)
  return kept and { 'ok', kept } or answer
end

function verbs.set_capacity(id, token, link, lingers, capacity)
  return answer_request(id, token, link, lingers, function(peer)
    peer:set('capacity', capacity)
  end)
end

-- The request asks for nothing, and only shows that its peer is connected.
function verbs.seen(id, token, link, lingers)
  return answer_request(id, token, link, lingers, function() end)
end

-- The sign-in of a peer is answered: from now on what it has open decides whether it is
-- connected.
function verbs.signed_in(id, link, lingers)
  local peer = find(id)
  if peer and not peer.is.by_socket_only then
    peer:set('linger', NOW)
    peer:request(link, lingers)
    peer:store()
  end
  return { 'ok' }
end

function verbs.unlink(id, link)
  local peer = find(id)
  if peer and peer.is.link == NODE .. ' ' .. link then
    peer:move(peer.is.node, nil)
    peer:store()
  end
  return { 'ok' }
end
