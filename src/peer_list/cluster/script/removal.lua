-- How a peer goes: removed, signed out, or collected.

local function remove(peer, reason)
  local is = peer.is
  reason = is.doomed or reason
  call('DEL', key('p:', peer.id), key('m:', peer.id))
  call('ZREM', key('stale'), peer.id)
  call('ZREM', key('linger'), peer.id)
  call('ZREM', key('bare'), peer.id)
  for _, node in ipairs(peer:nodes()) do
    call('SREM', key('open:', node), peer.id)
  end
  tell_all('r' .. peer.id .. ' ' .. reason)
  if is.member then
    leave_group(peer)
  end
  if is.name then
    change('-', peer)
    event('disconnect', reason, peer)
  end
  return { peer.id, reason, is.name or false }
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
  if peer then
    peer:set_number('leaving', math.min(now + tonumber(grace), tonumber(peer.is.leaving) or math.huge))
    peer:store()
  end
  return { 'ok' }
end

-- The grace of one that signs out later is over.
function verbs.leave(id)
  local peer = find(id)
  if peer and peer.is.leaving and tonumber(peer.is.leaving) <= now then
    if not peer:is_open() then
      return { remove(peer, 'signed_out') }
    end
    -- A page that was loaded anew came before the farewell of the one before.
    peer:set('leaving', nil)
    peer:store()
  end
  return {}
end

local COLLECTED_AT_ONCE = 100

function verbs.collect()
  local removed = {}
  mind_standstill()
  if call('EXISTS', key('grace')) == 1 then
    return removed
  end
  local stale = call('ZRANGEBYSCORE', key('stale'), '-inf', now, 'LIMIT', 0, COLLECTED_AT_ONCE)
  for _, id in ipairs(stale) do
    if pushed >= PUSHED_AT_ONCE then
      return removed
    end
    local peer = find(id)
    if peer then
      local leaves = peer.is.leaving and tonumber(peer.is.leaving) <= now
      if leaves and peer:is_open() then
        peer:set('leaving', nil)
        peer:store()
      else
        removed[#removed + 1] = remove(peer, leaves and 'signed_out' or 'timed_out')
      end
    else
      call('ZREM', key('stale'), id)
    end
  end
  local kept = current() - call('LLEN', key('log'))
  local fell_behind = call('ZRANGEBYSCORE', key('bare'), '-inf', '(' .. string.format('%.0f', kept),
    'LIMIT', 0, COLLECTED_AT_ONCE)
  for _, id in ipairs(fell_behind) do
    local peer = find(id)
    if peer then
      removed[#removed + 1] = remove(peer, 'timed_out')
    else
      call('ZREM', key('bare'), id)
    end
  end
  return removed
end
