-- How members of the group come, come back, and are shown under their names.

local function returned(op, before, peer, token)
  if not done_before(op) then
    peer:set_number('seen', now)
    peer:set_number('linger', now + LINGER)
    if peer.is.name then
      event('reconnect', '-', peer)
    end
    peer:set('token', token)
    peer:store()
    remember(op, peer.id .. ' 1', before)
  end
  return { 'ok', peer.id, '1', peer.is.title or false }
end

-- `secret`: the key by which it may come back ('': none).
verbs.add_member = in_time(function(before, op, secret, door, token, highest)
  local done = done_before(op)
  if done == GIVEN_UP then
    return { 'given up' }
  end
  local added, is_known = string.match(done or '', '^(%d+) (%d)$')
  if added then
    return { 'ok', added, is_known, call('HGET', key('p:', added), 'title') }
  end
  local known_id = secret ~= '' and call('HGET', key('g:keys'), secret)
  local known = known_id and find(known_id)
  if known and not known.is.doomed then
    return returned(op, before, known, token)
  end
  if is_full() then
    return { 'full' }
  end
  local peer = new_peer(door, 's', token, highest)
  peer:set('member', '1')
  peer:set_number('linger', now + LINGER)
  if secret ~= '' then
    peer:set('acks', '1')
    peer:set('resumes', '1')
    peer:set('key', secret)
    call('HSET', key('g:keys'), secret, peer.id)
  end
  call('HSET', key('g:members'), peer.id, '')
  peer:store()
  remember(op, peer.id .. ' 0', before)
  return { 'ok', peer.id, '0', false }
end)

verbs.resume_member = in_time(function(before, op, id, token)
  local peer = find(id)
  if not peer or not peer.is.member or peer.is.doomed then
    return { 'gone' }
  end
  local refused = peer:refuses(token)
  if refused then
    return refused
  end
  return returned(op, before, peer, token)
end)

-- What the group shows of these peers, one after the other: false for those that are
-- none of its members, '' for those of whom nothing is shown.
function verbs.cards_of(...)
  local shown = {}
  for at, id in ipairs({ ... }) do
    local card = call('HGET', key('g:cards'), id)
    local is_member = card or call('HEXISTS', key('g:members'), id) == 1
    shown[at] = card or (is_member and '') or false
  end
  return shown
end

-- Whether nobody has this name. Its holder is removed if its socket has been closed
-- for long.
local function is_free(title)
  local id = call('HGET', key('g:names'), title)
  local holder = id and find(id)
  if not holder then
    return true
  end
  local is_gone = not holder.is.socket and now >= holder:number('seen') + NAME_KEPT
  if is_gone then
    remove(holder, 'closed')
  end
  return is_gone
end

function verbs.list_member(op, id, name, title, card, hello, farewell)
  local answer = say(op, id, '', function(peer)
    if peer.is.doomed then
      return nil, { 'unknown' }
    end
    if peer.is.title or not is_free(title) then
      return nil, { 'taken' }
    end
    -- It may have heard a farewell.
    peer = find(id)
    call('HSET', key('g:names'), title, id)
    call('HSET', key('g:cards'), id, card)
    peer:set('title', title)
    peer:set('farewell', farewell)
    peer:set('name', name)
    set_heard(peer, change('+', peer))
    event('connect', '-', peer)
    peer:store()
    local family = call('HGET', key('g:members'), id) or ''
    return push_to(audience(id, family), 'g', hello)
  end)
  if answer[1] == 'ok' then
    answer[3] = current()
  end
  return answer
end
