-- Changes of the list, and events.

local function keep(list, line, length)
  call('RPUSH', list, line)
  if call('LLEN', list) > length then
    call('LTRIM', list, -length, -1)
  end
end

-- A peer as the operator's API shows it.
local function info(peer, connected)
  local is = peer.is
  local seen = peer:is_open() and now or math.max(peer:number('seen'), peer:number('beat'))
  return string.format('%s %s %d %s %.0f %d %s %s %s %s', member(peer.id), is.door,
    connected and 1 or 0, is.since, seen, is.beat and 1 or 0, is.capacity or '-', is.address or '-',
    is.user or '-', is.name)
end

-- The numbers of events begin at a time (in us), as in the list of one process.
local function begin_events()
  return string.format('%.0f', time[1] * 1000000 + time[2])
end

local function event(kind, reason, peer)
  local number = call('INCR', shard('event'))
  if number == 1 then
    call('SET', shard('event'), begin_events())
    number = call('INCR', shard('event'))
  end
  local connected = kind ~= 'disconnect' and peer:is_connected()
  local line = string.format('%.0f %s %s %s', number, kind, reason, info(peer, connected))
  keep(shard('events'), line, EVENTS_QUEUED)
  for _, node in ipairs(call('SMEMBERS', shard('listeners'))) do
    tell(node, 'e')
  end
end

-- The entry of a peer in the log.
local function log_line(sign, peer)
  local is = peer.is
  return string.format('%s%s %s %s %s', sign, is.joined, peer.id, is.dialect, is.name)
end

-- At most this many changes are sent at once. A node that is further behind gets the
-- list.
local CHANGES_AT_ONCE = 1000

-- Bare peers hear each change, so that the log is long if there are any. Those that can no
-- longer be told of all are stale.
local function keep_in_log(version, line)
  if call('EXISTS', key('bare')) == 0 then
    return keep(key('log'), line, CHANGES_AT_ONCE)
  end
  keep(key('log'), line, LOG_LENGTH)
  local kept = string.format('(%.0f', version - LOG_LENGTH)
  for _, id in ipairs(call('ZRANGEBYSCORE', key('bare'), '-inf', kept, 'LIMIT', 0, 100)) do
    call('ZADD', shard('stale'), 0, member(id))
  end
end

-- A peer has joined or left the list.
local function change(sign, peer)
  local version = call('INCR', key('version'))
  if version == 1 then
    -- No version of a lost list comes again, nor of a room that has ended.
    local last = ROOM ~= '' and tonumber(call('GET', shard('room_version'))) or 0
    version = math.max(now, last + 1)
    call('SET', key('version'), string.format('%.0f', version))
  end
  if sign == '+' then
    peer:set_number('joined', version)
  end
  local line = log_line(sign, peer)
  keep_in_log(version, line)
  if sign == '+' then
    call('HSET', key('listed'), peer.id, line)
  else
    call('HDEL', key('listed'), peer.id)
  end
  tell_room('v' .. ROOM)
  return version
end

local function set_heard(peer, version)
  if peer.is.dialect ~= 's' then
    peer:set_number('heard', version)
  end
  if peer.is.dialect == 'b' then
    call('ZADD', key('bare'), version, peer.id)
  end
end

-- The version of the list, and the counter of STATUS that goes with it.
local function moment()
  local found = call('MGET', key('version'), key('statuses'))
  return tonumber(found[1]) or 0, found[2] or '0'
end

-- At most about this many peers are told of at once: other calls wait meanwhile.
local TOLD_AT_ONCE = 500

-- Some of the list, as the lines of sign-ins. Returns where to go on; '0' is the end.
local function listed_from(cursor)
  local some = call('HSCAN', key('listed'), cursor, 'COUNT', TOLD_AT_ONCE)
  local lines = {}
  for at = 2, #some[2], 2 do
    lines[#lines + 1] = some[2][at]
  end
  return some[1], lines
end

-- How the list differs from what a node knows: `known` is the node's version, and
-- `statuses` whether it asks which peers are not connected, or not for long any more. A node
-- that is far behind gets the list. Of the list and of those peers this has the first part,
-- and where to go on.
local function view(known, statuses)
  local version, counter = moment()
  local behind = version - tonumber(known)
  local lines, whole, next_listed
  local reach = math.min(call('LLEN', key('log')), CHANGES_AT_ONCE)
  if tonumber(known) >= 0 and behind >= 0 and behind <= reach then
    whole, next_listed = 0, '0'
    lines = behind > 0 and call('LRANGE', key('log'), -behind, -1) or {}
  else
    whole = 1
    next_listed, lines = listed_from('0')
  end
  local next_lingering, linger = '0', false
  if statuses == '1' then
    local some = call('ZSCAN', key('linger'), '0', 'COUNT', TOLD_AT_ONCE)
    next_lingering, linger = some[1], some[2]
  end
  local micros = string.format('%.0f', time[1] * 1000000 + time[2])
  return { version, whole, lines, micros, linger, counter, next_listed, next_lingering }
end

-- The list from there on: how to go on, and lines. While it changes, a line may come twice.
function verbs.more_listed(cursor)
  return { listed_from(cursor) }
end

-- The peers from there on that are not connected, or not for long any more.
function verbs.more_lingering(cursor)
  return call('ZSCAN', key('linger'), cursor, 'COUNT', TOLD_AT_ONCE)
end

function verbs.view(known, statuses)
  note_copy()
  return view(known, statuses)
end
