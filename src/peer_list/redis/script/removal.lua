-- How a peer leaves: removed, signed out, or collected.

-- In ms: the reason of a removal is kept this long. The peer's waits ask for it at once.
local GONE_LIFE = 10000

-- The reason why a peer is gone.
local function why_gone(id)
  return call('GET', key('gone:', id)) or 'timed_out'
end

local function remove(peer, reason)
  local is = peer.is
  reason = is.doomed or reason
  peer.is_removed = true
  call('DEL', key('p:', peer.id), key('m:', peer.id))
  call('SET', key('gone:', peer.id), reason, 'PX', GONE_LIFE)
  call('ZREM', shard('stale'), peer:member())
  call('ZREM', key('linger'), peer.id)
  call('ZREM', key('bare'), peer.id)
  for _, node in ipairs(peer:nodes()) do
    call('SREM', shard('open:', node), peer:member())
  end
  tell_room('r' .. peer:member() .. ' ' .. reason)
  if is.names or is.alias or is.key or is.op then
    drop_names(peer)
  end
  if is.name then
    change('-', peer)
    event('disconnect', reason, peer)
  end
  count_peer(-1)
  if is.counted then
    count_of_door(is.door, -1)
  end
  count_of_network(is.network or '', -1)
  return { peer:member(), reason, is.name or false }
end

function verbs.remove_peer(op, id, reason)
  local peer = find(id)
  if not peer then
    return { done_before(op) and 'ok' or 'gone' }
  end
  remember(op, '1')
  return { 'ok', remove(peer, reason) }
end

function verbs.sign_out_later(id, grace)
  local peer = find(id)
  local at = now + tonumber(grace)
  if peer and (tonumber(peer.is.leaving) or math.huge) > at then
    peer:set('said', NOW)
    peer:set_number('leaving', at)
    peer:set('late_socket', nil)
    -- The page may be frozen, or may have been reloaded before this request came.
    peer:ask()
    peer:store()
  end
  return { 'ok' }
end

-- The grace of a peer that signs out later is over. The peer is removed, unless a socket or a
-- wait is open that came after the farewell. Such a wait is of a page that still runs, or was its
-- last request, which came late. If a wait was ended for this before, the peer still runs
-- and stays; otherwise this wait is ended, and the peer has to wait again.
local function leave(peer)
  if peer.is.socket and peer.is.late_socket then
    peer:come_back()
    peer:store()
    return nil
  end
  if not peer.is.wait or peer.is.wait == peer.is.goodbye then
    return remove(peer, 'signed_out')
  end
  if peer.is.asked then
    peer:come_back()
  else
    peer:ask()
    peer:set_number('leaving', now + REPOLL_PATIENCE)
  end
  peer:store()
  return nil
end

-- Returns the removed peer, and whether to ask again.
function verbs.leave(id)
  notice_standstill()
  local peer = find(id)
  if peer and peer.is.leaving and call('EXISTS', shard('grace')) == 1 then
    return { false, '1' }
  end
  if not peer or not peer.is.leaving then
    return { false, '0' }
  end
  -- The collector may have come first, and have ended its wait.
  local removed = tonumber(peer.is.leaving) <= now and leave(peer)
  return { removed or false, peer.is.leaving and not removed and '1' or '0' }
end

local COLLECTED_AT_ONCE = 100

-- Removes stale peers: of all rooms, or (`here`) of the current one. `skip`: how many stale
-- peers are passed over, because they are of other rooms. Returns the removed peers,
-- whether there is more to do, and how many to pass over then.
function verbs.collect(here, skip)
  local removed, skipped = {}, tonumber(skip)
  local room = ROOM
  notice_standstill()
  if call('EXISTS', shard('grace')) == 1 then
    return { removed, '0', skip }
  end
  if not say_all_farewells() then
    return { removed, '1', skip }
  end
  local stale = call('ZRANGEBYSCORE', shard('stale'), '-inf', now, 'LIMIT', skip, COLLECTED_AT_ONCE)
  for _, whom in ipairs(stale) do
    if can_push('') == 0 then
      return { removed, '1', string.format('%.0f', skipped) }
    end
    local id = enter_for(whom)
    local is_elsewhere = here == '1' and ROOM ~= room
    local peer = not is_elsewhere and find(id)
    if is_elsewhere then
      skipped = skipped + 1
    elseif peer then
      local leaves = peer.is.leaving and tonumber(peer.is.leaving) <= now
      if leaves then
        removed[#removed + 1] = leave(peer)
      else
        removed[#removed + 1] = remove(peer, 'timed_out')
      end
    else
      call('ZREM', shard('stale'), whom)
    end
  end
  local is_more = #stale == COLLECTED_AT_ONCE
  return { removed, is_more and '1' or '0', string.format('%.0f', skipped) }
end
