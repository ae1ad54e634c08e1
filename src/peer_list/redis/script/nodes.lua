-- What nodes report of themselves, and the end of dead ones.

local BURIED_AT_ONCE = 100

-- Closes what a node had open that is dead or stops, some of it at a time. Returns the
-- removed peers, and whether that was all.
local function bury(node, reason)
  -- If the node lives after all, it has to report again what is open there.
  call('SREM', shard('announced'), node)
  call('SREM', shard('listeners'), node)
  local removed = {}
  local buried, whom = 0, nil
  while buried < BURIED_AT_ONCE and pushed < PUSHED_AT_ONCE do
    whom = call('SPOP', shard('open:', node))
    if not whom then
      break
    end
    buried = buried + 1
    local peer = find(enter_for(whom))
    if peer then
      local is_here = peer.is.node == node
      if node_of(peer.is.link) == node then
        peer:set('link', nil)
      end
      if peer.is.lent_by == node then
        peer:unlend()
      end
      if is_here and peer.is.socket then
        local gone = close_socket(peer, peer.is.session, reason)
        if gone then
          removed[#removed + 1] = gone
        else
          peer:store()
        end
      else
        if is_here then
          peer:set('seen', NOW)
          peer:move(nil, peer.is.link)
        end
        peer:store()
      end
    end
  end
  local is_all = not whom
  while is_all and buried < BURIED_AT_ONCE do
    local room = call('SPOP', shard('copies:', node))
    if not room then
      break
    end
    buried = buried + 1
    enter(room)
    call('HDEL', key('copies'), node)
  end
  is_all = is_all and call('EXISTS', shard('copies:', node)) == 0
  if is_all then
    call('ZREM', shard('nodes'), node)
  end
  return removed, is_all
end

-- The number of the stored form. A version that cannot read the earlier form raises it.
local SCHEMA = '5'

-- This node lives, and these are the highest ids that it has seen in the root list and in
-- rooms. `elsewhere`: how many peers the other shards have. Returns whether it is new to the
-- others (or was taken for dead), the time, when the lists were created, and how many peers
-- they have.
function verbs.live(highest, highest_in_rooms, elsewhere)
  notice_standstill()
  skip_lost_ids('', highest)
  skip_lost_ids('any', highest_in_rooms)
  call('SET', shard('awake'), NOW)
  call('SETNX', shard('event'), begin_events())
  call('SETNX', shard('created'), NOW)
  call('SETNX', shard('schema'), SCHEMA)
  call('SETNX', shard('shards'), SHARDS)
  if SHARDS > 1 then
    call('SET', shard('elsewhere'), elsewhere)
  end
  local is_new = call('SADD', shard('announced'), NODE) == 1
  call('ZADD', shard('nodes'), now + NODE_LIFE, NODE)
  return {
    is_new and '1' or '0',
    string.format('%.0f', now),
    call('GET', shard('created')),
    call('ZCARD', shard('stale')),
  }
end

local CLAIMED_AT_ONCE = 100

-- Some of what is open at this node, as far as this server knows: of each peer its id (with
-- its room), and the name of its wait, or `s` and its session. The first value is where to go
-- on; '0' is the end.
function verbs.open_here(cursor)
  local some = call('SSCAN', shard('open:', NODE), cursor, 'COUNT', CLAIMED_AT_ONCE)
  local claimed = {}
  for _, whom in ipairs(some[2]) do
    local peer = find(enter_for(whom))
    if peer and peer.is.node == NODE then
      claimed[#claimed + 1] = whom
      claimed[#claimed + 1] = peer.is.socket and 's' .. peer.is.session or peer.is.wait or ''
    end
  end
  return { some[1], claimed }
end

-- Closes a wait or socket that this server has as open at the node, and that is not.
function verbs.not_open(id, name)
  local peer = find(id)
  if not peer or peer.is.node ~= NODE then
    return { 'ok' }
  end
  if peer.is.socket then
    if name == 's' .. peer.is.session then
      close_socket(peer, peer.is.session, 'closed')
    end
  elseif name == (peer.is.wait or '') then
    end_wait(peer, name, true, '0')
    peer:store()
  end
  return { 'ok' }
end

-- Ends dead nodes. Returns the peers removed with one of them, and whether there is more
-- to do.
function verbs.bury()
  notice_standstill()
  local dead = call('ZRANGEBYSCORE', shard('nodes'), '-inf', now, 'LIMIT', 0, 1)[1]
  if not dead then
    return { {}, '0' }
  end
  local removed = bury(dead, 'closed')
  return { removed, '1' }
end

-- In ms. Nodes report each minute which library they use. A library that no node has used
-- for a day is of a version that is gone.
local LIBRARY_USED = 2 * 60 * 1000
local LIBRARY_LIFE = 24 * 60 * 60 * 1000

-- This node uses this library. Returns whether other nodes use another one now, and the
-- libraries that no node has used for long.
function verbs.uses_library()
  local libraries = shard('libraries')
  call('ZADD', libraries, now, NAME)
  local in_use = call('ZCOUNT', libraries, now - LIBRARY_USED, 'inf')
  local old = call('ZRANGEBYSCORE', libraries, '-inf', now - LIBRARY_LIFE)
  if #old > 0 then
    call('ZREM', libraries, unpack(old))
  end
  return { in_use > 1 and '1' or '0', old }
end

-- This node stops. Returns the peers removed with it, and whether there is more to do.
function verbs.stop()
  local removed, is_all = bury(NODE, 'shutdown')
  return { removed, is_all and '0' or '1' }
end

-- Whether this server can write and publish, and whether this version can read the stored
-- form.
function verbs.ready()
  local stored = call('GET', shard('schema'))
  if not stored and call('EXISTS', shard('created')) == 1 then
    -- The first form had no number.
    stored = '1'
  end
  if stored and stored ~= SCHEMA then
    return { 'schema', stored, SCHEMA }
  end
  local shards = call('GET', shard('shards'))
  if shards and tonumber(shards) ~= SHARDS then
    return { 'shards', shards }
  end
  -- A node that is refused leaves nothing.
  call('SET', shard('ready'), '1')
  call('SPUBLISH', shard(DB .. ':ready'), '')
  return { 'ok' }
end
