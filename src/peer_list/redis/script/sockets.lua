-- Peers that get their news through a socket.

-- `opening`: the name of this attempt. `acknowledged`: the number of the last message that the
-- client has ('': it does not acknowledge).
verbs.open_socket = in_time(function(_, opening, id, resumes, acknowledged)
  local peer = find(id)
  if not peer or peer.is.doomed then
    return { 'unknown' }
  end
  peer:begin_session()
  peer:come_back_by_socket()
  peer:set('socket', '1')
  peer:set('opening', opening)
  if acknowledged ~= '' then
    peer:set('acks', '1')
    acknowledge(peer, tonumber(acknowledged))
  elseif not peer.is.by_socket_only then
    peer:set('acks', nil)
  end
  if resumes == '1' then
    peer:set('resumes', '1')
  end
  peer:move(NODE, nil)
  peer:set('seen', NOW)
  peer:store()
  return { 'ok', peer.is.session, peer.is.dialect == 's' and '-' or peer.is.heard }
end)

-- The socket of a session is closed. The peer is removed, unless it may come back and the
-- network is the reason.
local function close_socket(peer, session, reason)
  local is_ours = peer.is.session == session
  if peer.is.doomed then
    return remove(peer, reason)
  end
  local lost = reason == 'closed' or reason == 'timed_out' or reason == 'shutdown'
  if not is_ours then
    -- The socket was taken for closed before its node could report the reason.
    local is_late = peer.is.closed == session and not lost
    return is_late and remove(peer, reason) or false
  end
  if not (peer.is.resumes and lost) then
    return remove(peer, reason)
  end
  peer:set('socket', nil)
  peer:set('closed', session)
  -- Calls of the closed socket that are still on their way are now of an earlier session.
  peer:add('session', 1)
  peer:unlend()
  peer:set('handed', nil)
  peer:set('seen', NOW)
  if peer.is.beat then
    peer:set('beat', NOW)
  end
  peer:move(nil, nil)
  peer:store()
  return false
end

function verbs.close_socket(id, session, reason)
  local peer = find(id)
  local removed = peer and close_socket(peer, session, reason)
  return { removed or false }
end

-- The node never learned whether this attempt to open a socket succeeded.
function verbs.drop_socket(id, opening)
  local peer = find(id)
  local is_open = peer and peer.is.socket and peer.is.opening == opening
  return { is_open and close_socket(peer, peer.is.session, 'closed') or false }
end
