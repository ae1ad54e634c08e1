-- What all parts of the script use: its keys, its call, and operations that are
-- asked for again.
--
-- The script is the peer list in Redis: each verb of the domain as one step that is
-- whole. Its parts stand one after the other (`library.rs`), as if they were one
-- file. A library of one function under two names. Its key: what all keys begin with,
-- their hash tag included. Its arguments: the verb, the node that asks, and what
-- the verb takes.
--
-- Before this text stand the name of the function, NAME, the one by which verbs
-- are called that are refused while the server is out of memory, GROWING, and
-- the settings of the list as constants, times in ms:
-- TIMEOUT, PATIENCE, ANY_REQUEST, BOUND, OVERHEAD, MAX_PEERS, LOG_LENGTH,
-- EVENTS_KEPT, EVENTS_QUEUED, LINGER, REPEAT_PAUSE, ANSWER_PATIENCE,
-- LATE_REQUEST, NAME_KEPT, LEASE, NODE_LIFE, STANDSTILL, OP_LIFE; and DB, the number of the
-- database.
--
-- Keys, after the prefix:
--   id, version, event   counters: the last id, change of the list, event
--   p:ID                 hash: a peer (below)
--   m:ID                 list: its mailbox, each `KIND FROM NEEDS\n` and the body
--   stale                sorted set: when each peer is stale
--   linger               sorted set: until when listed peers that have nothing
--                        open count as connected
--   listed               hash: id to the log's line of its sign-in
--   log                  list: the last changes, `+JOINED ID DIALECT NAME` and
--                        `-JOINED ID DIALECT NAME`; the newest is `version`
--   events               list: the last events; the newest is `event`
--   nodes                sorted set: until when each node counts as alive
--   announced            set: nodes that said that they are there, not buried
--   libraries            sorted set: when a node with a library was last there
--   open:NODE            set: peers that have a wait, socket or link there
--   bare                 sorted set: bare peers and the version that each heard
--   awake                when a node last reached this server
--   created              when a node first did
--   schema               the number of the form of all this
--   grace                there as long as nobody is collected, after that was long ago
--   webhook, webhook:sent
--                        the node that sends the webhook, and the last event sent
--   ready                written to see whether that can be done
--   op:OP                what was done already, for those who ask again; or that it is
--                        not to be done any more
--   gone:ID              why a peer was removed just now
--   keys                 hash: the keys by which unlisted peers come back, to ids
--   cards                hash: ids to what is shown of listed peers that came in unlisted
--   c:CHANNEL            set: the peers in a channel
--   aliases:SCOPE        hash: aliases to the ids of their holders
--   a:by:NAME, a:for:NAME
--                        sets: the peers that announce a name, and that wait for it
--   p:ID:channels, p:ID:announcements
--                        sets: the names that a peer holds
--   p:ID:owed, p:ID:owed:numbered
--                        sets: to whom a peer owes what it said last, or numbered
--
-- A peer's fields: name, joined, door, dialect, token (its SHA-256), since,
-- seen, beat, linger, link (`NODE number`), leaving, session, resumes,
-- node and wait (where its newest wait is open, and its name), socket (what is
-- open is one), lent, lent_by, lent_at and lent_number (the lease of what it is
-- being given, and the message's number), began (when the newest wait did, by its
-- node), opening (the name of the last attempt to open a socket), offered (the
-- highest number that was ever lent), closed (the session whose socket was closed
-- last, if nobody came after it), protected (requests have to show its token),
-- said, asked, goodbye and late (of one that signs out later: when it said so;
-- whether a wait after the next shows that it is there; the name of the wait that was
-- ended to see that; the name of one that may have been sent before), heard, given, acks, gone,
-- handed, delivered, bytes (its mailbox), sent (the last number that it sent), doomed
-- (why its door is to remove it), stale and shown (what the sets of these names
-- have for it), capacity (how many viewers it says that it can serve), by_socket_only
-- (it came in unlisted), key (by which it comes back), scope and alias, farewell
-- (published when it is removed), names (what the names that it holds cost), op (the
-- last that it said to others).

-- Of the call that is carried out: what keys begin with, the node that asks, the
-- time as Redis tells it, and in ms.
local P, NODE, time, now

-- `redis.call` is not there yet when the library is loaded.
local function call(...)
  return redis.call(...)
end

local function key(name, rest)
  return P .. name .. (rest or '')
end

-- Tells a node, or all of them. Channels know no databases, so theirs is in the
-- name.
local function tell(node, what)
  call('PUBLISH', key(DB .. ':n:', node), what)
end

local function tell_all(what)
  call('PUBLISH', key(DB .. ':all'), what)
end

-- Decimal numbers as large as clients like.
local function is_after(number, other)
  if #number ~= #other then
    return #number > #other
  end
  return number > other
end

local verbs = {}

-- What an operation has become that nobody waits for any more.
local GIVEN_UP = '-'

-- What an operation that may be asked for again has answered before.
local function done_before(op)
  return op ~= '' and call('GET', key('op:', op))
end

-- `before`: it is not asked for again after this time (none: OP_LIFE).
local function remember(op, answer, before)
  if op ~= '' then
    local life = before and math.max(tonumber(before) - now, 0) + 1000 or OP_LIFE
    call('SET', key('op:', op), answer, 'PX', life)
  end
end

-- A verb whose first argument is the time until which it may be done: who asked
-- has been refused by then. (Or the clock was set forward.)
local function in_time(verb)
  return function(before, ...)
    if now > tonumber(before) then
      return { 'late', string.format('%.0f', now) }
    end
    return verb(before, ...)
  end
end
