-- What all parts of the script use: keys, calls, and repeated operations.
--
-- The script is the peer list in Redis: each verb of the domain is carried out as a
-- whole. Its parts follow each other (`library.rs`) as if they were one file. They make a
-- library of one function under two names. Its key: what all keys of a shard begin with,
-- including their hash tag. Its arguments: the verb, the node that asks, the room (below), and the
-- arguments of the verb.
--
-- A room is a list of its own, and the root list is one too. The argument is empty for the
-- root list; else it is `NAME COPY`, where COPY is the number of the node's copy of the
-- room's list.
--
-- Before this text stand the name of the function, NAME; the name by which verbs are
-- called that are refused while the server is out of memory, GROWING; and the settings of
-- the list as constants, times in ms: TIMEOUT, PATIENCE, ANY_REQUEST, BOUND, OVERHEAD,
-- MAX_PEERS, MAX_ROOM_PEERS, LOG_LENGTH, EVENTS_KEPT, EVENTS_QUEUED, LINGER, LINGER_FORESEEN,
-- REPEAT_PAUSE,
-- REPOLL_PATIENCE, LATE_REQUEST, LEASE, NODE_LIFE, STANDSTILL, OP_LIFE; and
-- DB, the number of the database; and SHARDS, how many shards there are.
--
-- Keys that all rooms of the shard share, after the prefix:
--   id, room_id          counters: the last id of the root list, and of the rooms
--   event                a counter: the last event
--   stale                sorted set: when each peer (`ID` or `ROOM/ID`) is stale
--   farewell_rooms       set: rooms in which farewells are still to be published
--   rooms                hash: the number of peers of each room, including unlisted ones
--   rooms:since          hash: when each room began
--   doors                hash: the number of peers of each door, including unlisted ones
--   networks             hash: the number of peers of each network, where that is limited
--   events               list: the last events; the newest is `event`
--   listeners            set: the nodes that are told when there are events
--   room_version         the highest version that the list of a room had that has ended
--   copies:NODE          set: the rooms of whose lists a node has a copy
--   nodes                sorted set: until when each node counts as alive
--   announced            set: nodes that have reported, and neither died nor stopped
--   libraries            sorted set: when a node last used each library
--   open:NODE            set: peers (`ID` or `ROOM/ID`) that have a wait, socket or link
--                        there
--   awake                when a node last reached this server
--   created              when a node first reached this server
--   schema               the number of the stored form
--   shards               how many shards there are
--   elsewhere            how many peers the other shards have, as a node last knew
--   grace                exists while no peer is collected, after no node reached this
--                        server for a while
--   webhook, webhook:sent
--                        the node that sends the webhook, and the last event sent
--   ready                written to see whether writing works
--   op:OP                the answer of an operation, for a repeated call; or that it was
--                        given up
--
-- Keys of a room, after the prefix and (not for the root list) `r:ROOM:`:
--   version              a counter: the last change of the list
--   p:ID                 hash: a peer (below)
--   m:ID                 list: its mailbox, each `KIND FROM NEEDS\n` and the body
--   linger               sorted set: until when listed peers that have nothing
--                        open count as connected
--   statuses             a counter: changes of STATUS that nodes cannot foresee
--   listed               hash: id to the log's line of its sign-in
--   log                  list: the last changes, `+JOINED ID DIALECT NAME` and
--                        `-JOINED ID DIALECT NAME`; the newest is `version`
--   bare                 sorted set: bare peers and the version that each heard
--   copies               hash: the nodes that have a copy of the list, each with the
--                        number of the copy (not for the root list, which all have)
--   gone:ID              why a peer was just removed
--   keys                 hash: the keys by which unlisted peers come back, to ids
--   cards                hash: ids to the cards of listed peers that came in unlisted
--   c:CHANNEL            set: the peers in a channel
--   g:NAME               the channel of the group with this name that is being filled
--   aliases:SCOPE        hash: aliases to the ids of their holders
--   a:by:NAME, a:for:NAME
--                        sets: the peers that announce a name, and that wait for it
--   p:ID:channels, p:ID:announcements
--                        sets: the names that a peer holds
--   p:ID:owed, p:ID:owed:numbered
--                        sets: the peers to which a peer owes its last message, or its
--                        last numbered one
--   p:ID:rest, p:ID:rest:numbered
--                        sets: the peers to which that is still to be pushed
--   farewells            list: removed peers whose farewells are still to be published
--   farewell:ID, farewell:ID:rest
--                        the farewell, and a set: the peers that are still to hear it
--
-- The fields of a peer:
--   name, joined, door, dialect, protected, since, capacity
--                        as in the list of one process
--   user, address        who is behind it; the user without spaces (percent-encoded)
--   ice_servers          the ICE servers that only it is told of, as JSON
--   network              the network that it is counted for
--   token, key           the hashes of its token, and of the key by which it comes back
--   seen, beat, linger   its last request, its last heartbeat, and until when it counts
--                        as connected in any case
--   session, resumes     its session, and whether it may come back
--   node, wait, socket   where its newest wait or its socket is open, the name of the
--                        wait, and whether a socket is open
--   began, opening       when the newest wait began, by its node; the name of the last
--                        attempt to open a socket
--   over                 a wait that ended, and may not have begun
--   previous, previous_at
--                        the wait that the newest one, or a session, took over from, and
--                        when: its node soon says what the peer has heard there
--   link                 `NODE number`: the connection of its last request
--   lent, lent_by, lent_at, lent_number
--                        what is on loan: the lease, its node, since when, the number
--   offered              the highest number that was ever lent
--   heard                the version of the list that it has heard
--   given, handed, gone, delivered, acks, bytes
--                        its mailbox
--   sent                 the last number that it sent
--   leaving, said        when it signs out, and when it said so
--   asked                its wait was ended since: the next wait shows that it runs
--   goodbye, late        the name of the wait that was ended for that, and of a wait that
--                        may have been sent before it said so
--   closed               the session whose socket closed last, if none came after it
--   doomed               why its door should remove it
--   stale, shown         its entries in the sets `stale` and `linger`
--   by_socket_only       it came in unlisted
--   scope, alias         its alias
--   farewell             published when it is removed
--   names                the cost of the names that it holds
--   joined_last          the channel that it has joined last
--   op                   the last operation that `say` carried out for it

-- Of the current call: what keys begin with, the node that asks, the time as Redis has
-- it, and the time in ms, as a number and as it is stored.
local P, NODE, time, now, NOW

-- The current room ('': the root list), what its keys begin with, and the number of the
-- asking node's copy.
local ROOM, R, COPY

-- `redis.call` does not exist yet while the library is loaded.
local function call(...)
  return redis.call(...)
end

-- A key that all rooms share.
local function shard(name, rest)
  return P .. name .. (rest or '')
end

-- A key of the current room.
local function key(name, rest)
  return R .. name .. (rest or '')
end

local function enter(room)
  ROOM = room
  R = room == '' and P or P .. 'r:' .. room .. ':'
end

-- The version of the current room's list.
local function current()
  return tonumber(call('GET', key('version'))) or 0
end

-- A peer of the current room, as sets that all rooms share have it.
local function member(id)
  return ROOM == '' and id or ROOM .. '/' .. id
end

-- Enters the room of a member of such a set. Returns the id of the peer.
local function enter_for(whom)
  local room, id = string.match(whom, '^(.*)/(%d+)$')
  enter(room or '')
  return id or whom
end

-- Pushes to a node, or to all. The channels of Redis are shared by all its databases, so
-- the number of the database is in their names.
local function tell(node, what)
  call('SPUBLISH', shard(DB .. ':n:', node), what)
end

local function tell_all(what)
  call('SPUBLISH', shard(DB .. ':all'), what)
end

-- Pushes to the nodes that have a copy of the current room's list. (A node that is silent may
-- live: its copies are forgotten when it is buried.)
local function tell_room(what)
  if ROOM == '' then
    return tell_all(what)
  end
  for _, node in ipairs(call('HKEYS', key('copies'))) do
    tell(node, what)
  end
end

-- The asking node has a copy of the current room's list. If that was not known, nothing was
-- pushed of what has changed before.
local function note_copy()
  if ROOM == '' or call('HGET', key('copies'), NODE) == COPY then
    return
  end
  -- A request for a room that does not exist leaves nothing here.
  if call('HEXISTS', shard('rooms'), ROOM) == 1 then
    call('HSET', key('copies'), NODE, COPY)
    call('SADD', shard('copies:', NODE), ROOM)
    tell(NODE, 'v' .. ROOM)
  end
end

-- Whether one decimal number, of any size, is above another.
local function is_after(number, other)
  if #number ~= #other then
    return #number > #other
  end
  return number > other
end

local verbs = {}

-- The record of an operation that was given up: it must not be carried out any more.
local GIVEN_UP = '-'

-- The recorded answer of an operation that may be repeated.
local function done_before(op)
  return op ~= '' and call('GET', shard('op:', op))
end

-- `before`: the time after which the operation is not repeated (nil: OP_LIFE).
local function remember(op, answer, before)
  if op ~= '' then
    local life = before and math.max(tonumber(before) - now, 0) + 1000 or OP_LIFE
    call('SET', shard('op:', op), answer, 'PX', life)
  end
end

-- A verb whose first argument is the latest time at which it may begin: its client is
-- refused soon after that. (Or the clock was set forward.)
local function in_time(verb)
  return function(before, ...)
    if now > tonumber(before) then
      return { 'late', NOW }
    end
    return verb(before, ...)
  end
end
