-- Waits, and what is on loan to them.

-- In ms: how often to check whether a node that has something on loan is dead.
local LOOK_AGAIN = 1000

-- An earlier wait or socket has something on loan, and its node soon reports what became
-- of it. Returns for how many ms to wait for that; 0: no report will come.
local function lent_for(peer)
  local left = peer:number('lent_at') + LEASE - now
  return left > 0 and is_alive(peer.is.lent_by) and math.min(left, LOOK_AGAIN) or 0
end

local function lend(peer, lease, number)
  peer:set('lent', lease)
  peer:set('lent_by', NODE)
  peer:set('lent_at', NOW)
  peer:set('lent_number', number)
end

-- In ms: a node that is asked what a peer has heard there has answered by then, unless it is
-- dead.
local HEARD_WITHIN = 300

-- The node of an earlier wait may have told more of the list than this server knows. Returns
-- for how many ms to wait for its answer.
local function unheard_for(peer, version)
  if not peer.is.previous then
    return 0
  end
  local left = peer:number('previous_at') + HEARD_WITHIN - now
  -- A time in the future is from before the clock of this server was set back.
  if left <= 0 or left > HEARD_WITHIN or peer:number('heard') >= version then
    peer:set('previous', nil)
    return 0
  end
  return left
end

-- The next thing that a peer should hear, lent under `lease`.
local function next_news(peer, lease, told)
  local is = peer.is
  if is.lent and is.lent ~= lease then
    local left = lent_for(peer)
    if left > 0 then
      return { 'later', string.format('%.0f', left) }
    end
  end
  local handed = is.socket and peer:number('handed') or 0
  if not is.socket then
    peer:set('handed', nil)
  end
  local silent = is.dialect == 's'
  local knows = peer:number('heard')
  -- A node may know versions that this server has lost.
  local version = current()
  told = math.min(tonumber(told), version)
  local raw = peer:number('bytes') > 0 and call('LINDEX', key('m:', peer.id), handed)
  if raw then
    local kind, from, needs, header = string.match(raw, '^(%S+) (%S+) (%S+)()')
    if silent or tonumber(needs) <= knows then
      local number = string.format('%.0f', peer:number('gone') + handed + 1)
      local is_repeat = tonumber(number) <= peer:number('delivered')
      local left = peer:number('given') + REPEAT_PAUSE - now
      if is_repeat and is.acks and not is.socket and left > 0 then
        return { 'later', string.format('%.0f', left) }
      end
      moved = moved + #raw
      lend(peer, lease, number)
      peer:set_number('offered', math.max(peer:number('offered'), tonumber(number)))
      return { 'message', number, kind, from, string.sub(raw, header + 1) }
    end
  elseif silent then
    return { 'none', '-' }
  end
  local unheard = unheard_for(peer, version)
  if unheard > 0 then
    return { 'later', string.format('%.0f', unheard) }
  end
  if not raw and knows >= told then
    return { 'none', string.format('%.0f', knows) }
  end
  if is.dialect ~= 'b' then
    lend(peer, lease)
    -- The list shows that it waits.
    peer:store()
    return { 'list', string.format('%.0f', knows), moment() }
  end
  local behind = version - knows
  local line = behind > 0 and behind <= call('LLEN', key('log')) and call('LINDEX', key('log'), -behind)
  if not line then
    remove(peer, 'timed_out')
    return { 'gone', 'timed_out' }
  end
  lend(peer, lease)
  return { 'line', string.format('%.0f', knows + 1), line }
end

-- A wait is `NODE.NUMBER`. Whether one is of the same node as another, and before it.
local function is_before(wait, other)
  if not wait or not other then
    return false
  end
  local node, number = string.match(wait, '^(.*)%.(%d+)$')
  local same, last = string.match(other, '^(.*)%.(%d+)$')
  return node == same and is_after(last, number)
end

-- `name`: of the wait. `lingers`: the wait was answered. `at`: when its node had told it of the
-- list, in ms (nil: it ends now, and was told nothing from there).
local function answered(peer, name, lingers, at)
  local was_told = at ~= nil
  at = at or now
  if lingers == '1' and name ~= peer.is.goodbye and at >= peer:number('said') then
    if name == peer.is.late then
      -- If it polls again, it still runs.
      peer:set('asked', '1')
    else
      peer:come_back()
    end
  elseif was_told and name == peer.is.goodbye then
    -- It was over before it could be ended for that.
    peer:set('asked', nil)
  end
  peer:set_number('seen', math.max(math.min(peer:number('seen'), now), at))
  if lingers == '1' then
    peer:set_number('linger', math.max(math.min(peer:number('linger'), now + LINGER), at + LINGER))
  end
end

local function end_wait(peer, name, is_newest, lingers, at)
  answered(peer, name, lingers, at)
  if is_newest then
    -- Earlier waits of the peer are given nothing any more.
    peer:set('wait', nil)
    if not peer.is.socket then
      peer:move(nil, peer.is.link)
    end
  end
end

-- A peer has heard the list up to this version, which this server may have lost.
local function note_heard(peer, version)
  set_heard(peer, math.max(peer:number('heard'), math.min(tonumber(version), current())))
end

-- A peer has heard this version ('': none) at a wait.
local function note_heard_at(peer, wait, version)
  local is_previous = wait == peer.is.previous
  if version ~= '' and (is_previous or wait == peer.is.wait) then
    note_heard(peer, version)
  end
  if is_previous then
    peer:set('previous', nil)
    peer:wake()
  end
end

-- In ms: the clocks of nodes, which follow this server's, differ by less.
local CLOCKS_DIFFER = 100

-- When the newest wait of a peer began. (A time in the future is from before the clock of
-- this server was set back.)
local function newest_began(peer)
  local began = peer:number('began')
  return began <= now + 1000 and began or 0
end

-- `began`: '' if a newer wait of its node has overtaken it. (Its own end may have, too.)
-- `before`: the last wait of the peer at this node ('': none), where it has heard the version
-- `heard`, if any. `ago`: since when that wait is over, in ms ('': it is not).
function verbs.wait(began, wait, id, token, link, acknowledged, told, before, heard, ago)
  local over_at = ago ~= '' and now - tonumber(ago)
  local peer, refused, of = polled(id, token)
  if not peer then
    if of and before ~= '' and over_at then
      -- This is the node's report, whichever peer asks.
      note_heard_at(of, before, heard)
      end_wait(of, before, of.is.wait == before, '1', over_at)
      of:store()
    end
    return refused
  end
  if before ~= '' then
    if over_at and peer.is.wait == before then
      answered(peer, before, '1', over_at)
    end
    note_heard_at(peer, before, heard)
  end
  if peer.is.socket then
    peer:store()
    return { 'unknown' }
  end
  local is_overtaken = began == '' or wait == peer.is.over or is_before(wait, peer.is.over)
    or peer.is.wait and newest_began(peer) > tonumber(began) + CLOCKS_DIFFER
    or peer.is.wait ~= before and is_before(wait, peer.is.wait)
  if is_overtaken then
    peer:store()
    return { 'ok', { 'outdated' }, peer.is.dialect }
  end
  if peer.is.node ~= NODE then
    peer:take_over()
  end
  peer:set_number('began', math.max(tonumber(began), newest_began(peer)))
  peer:request(link, '0', NODE)
  peer:set('wait', wait)
  peer:set('over', nil)
  if peer.is.leaving and tonumber(began) < peer:number('said') + LATE_REQUEST then
    peer:set('late', wait)
  end
  peer:set('acks', acknowledged ~= '' and '1' or nil)
  if acknowledged ~= '' then
    acknowledge(peer, tonumber(acknowledged))
  end
  local news = next_news(peer, wait, told)
  if not peer.is_removed then
    peer:store()
  end
  return { 'ok', news, peer.is.dialect }
end

-- Looks again for news. `lease` is the name of a wait, or `s` and a session.
-- `acknowledged`: the highest number that its client has acknowledged there. `heard`: of a
-- wait, the version of the list that the peer has heard there ('': none).
function verbs.take(began, id, lease, acknowledged, told, heard)
  local peer = find(id)
  if not peer then
    return { 'gone', why_gone(id) }
  end
  if peer.is.doomed then
    return { 'gone', peer.is.doomed }
  end
  if string.sub(lease, 1, 1) == 's' then
    local session = tonumber(string.sub(lease, 2))
    if session < peer:number('session') then
      if session == peer:number('closed') then
        -- Its node was taken for dead.
        return { 'gone', 'closed' }
      end
      return { 'outdated' }
    end
    -- Its node may have been taken for dead in between, or this server has lost that it
    -- opened.
    peer:set_number('session', session)
    peer:set('socket', '1')
    peer:move(NODE, peer.is.link)
  else
    -- A wait that began after all that this server knows is one that this server has
    -- lost. A wait of a lost peer with the same id began before `since`, and is outdated.
    local is_lost = tonumber(began) > math.max(peer:number('began'), peer:number('since'))
    if peer.is.socket or peer.is.wait ~= lease and not is_lost then
      return { 'outdated' }
    end
    peer:set('wait', lease)
    peer:set_number('began', math.max(tonumber(began), peer:number('began')))
    peer:move(NODE, peer.is.link)
    note_heard_at(peer, lease, heard)
  end
  if acknowledged ~= '' and tonumber(acknowledged) > peer:number('offered') then
    acknowledge(peer, tonumber(acknowledged))
  end
  local news = next_news(peer, lease, told)
  if not peer.is_removed then
    peer:store()
  end
  return news
end

-- The loan was handed over ('message' or 'version') or not (''). `ends`: the wait is over
-- with it.
function verbs.done(id, lease, hears, number, ends, lingers)
  local peer = find(id)
  if not peer then
    return { 'gone' }
  end
  local is_lent = peer.is.lent == lease
  if is_lent then
    peer:unlend()
    if hears == 'message' then
      local up_to = tonumber(number) - peer:number('gone')
      peer:set_number('delivered', math.max(peer:number('delivered'), tonumber(number)))
      peer:set('given', NOW)
      if peer.is.acks then
        peer:set_number('handed', math.max(peer:number('handed'), up_to))
      elseif up_to >= 1 then
        pop(peer)
      end
    elseif hears == 'version' then
      note_heard(peer, number)
    end
  end
  if ends == '1' then
    note_heard_at(peer, lease, '')
    end_wait(peer, lease, peer.is.wait == lease, lingers)
  end
  if is_lent and peer.is.wait ~= lease then
    peer:wake()
  end
  peer:store()
  return { 'ok' }
end

-- Its node has told a wait of the list, up to this version ('': the client has not got it),
-- and the wait is over since `ago` ms.
function verbs.heard(id, wait, version, lingers, ago)
  local peer = find(id)
  if not peer or peer.is.doomed then
    return { 'gone' }
  end
  local is_newest = peer.is.wait == wait
  note_heard_at(peer, wait, version)
  end_wait(peer, wait, is_newest, lingers, now - tonumber(ago))
  peer:store()
  return { 'ok' }
end

-- The wait was taken over from: this is the version that the peer has heard there ('': none).
function verbs.heard_before(id, wait, version)
  local peer = find(id)
  if peer and peer.is.previous == wait then
    note_heard_at(peer, wait, version)
    peer:store()
  end
  return { 'ok' }
end

-- A wait that was given nothing is over, and so are earlier waits of its node. `heard`: the
-- version of the list that the peer has heard there ('': none).
function verbs.end_wait(id, wait, lingers, heard)
  local peer = find(id)
  if not peer or peer.is.doomed then
    return { 'gone', peer and peer.is.doomed or why_gone(id) }
  end
  local was_lent = peer.is.lent == wait
  if was_lent then
    peer:unlend()
  end
  local is_newest = peer.is.wait == wait or is_before(peer.is.wait, wait)
  note_heard_at(peer, wait, heard)
  if is_newest and heard ~= '' then
    note_heard(peer, heard)
  end
  if peer.is.wait ~= wait then
    -- It may come later than this.
    peer:set('over', wait)
  end
  end_wait(peer, wait, is_newest, lingers)
  if was_lent and peer.is.wait ~= wait then
    peer:wake()
  end
  peer:store()
  return { 'ok', moment() }
end
