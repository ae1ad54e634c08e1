-- Aliases: names that one peer at a time holds in their scope.

-- Whether the alias is free. If its holder lost its socket `kept` ms ago or longer, the holder is
-- removed.
local function is_free(scope, name, kept)
  local id = call('HGET', key('aliases:', scope), name)
  local holder = id and find(id)
  if not holder then
    return true
  end
  local is_gone = not holder.is.socket and now >= holder:number('seen') + kept
  if is_gone then
    remove(holder, 'closed')
  end
  return is_gone
end

function verbs.claim(id, scope, name, kept)
  local peer = find(id)
  if not peer or peer.is.doomed then
    return { 'unknown' }
  end
  if peer.is.alias then
    return { peer.is.scope == scope and peer.is.alias == name and 'ok' or 'taken' }
  end
  if not is_free(scope, name, tonumber(kept)) then
    return { 'taken' }
  end
  -- The peer may have heard a farewell.
  peer = find(id)
  local cost = peer:number('names') + #scope + #name + OVERHEAD
  if cost > BOUND then
    return { 'costly' }
  end
  peer:set_number('names', cost)
  call('HSET', key('aliases:', scope), name, id)
  peer:set('scope', scope)
  peer:set('alias', name)
  peer:store()
  return { 'ok' }
end

function verbs.send_to_alias(op, id, scope, name, body)
  local to = call('HGET', key('aliases:', scope), name)
  local answer = say(op, id, '', function(_, rest)
    call('DEL', rest)
    local full, none = push_to({ to }, 'p', body)
    if none then
      return nil, { 'unknown' }
    end
    return full
  end)
  if answer[1] == 'ok' then
    -- If the call is repeated, the holder may be gone by now.
    local holder = to and find(to)
    answer[4], answer[5] = to, holder and holder.is.socket and '1' or '0'
  end
  return answer
end
