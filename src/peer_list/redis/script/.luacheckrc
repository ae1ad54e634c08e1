-- What stands before the script's text (library.rs), and what Redis gives it.
std = "lua51"
read_globals = {
  "redis", "NAME", "GROWING", "DB", "SHARDS", "TIMEOUT", "PATIENCE", "ANY_REQUEST", "BOUND",
  "OVERHEAD", "MAX_PEERS", "MAX_ROOM_PEERS", "MAX_OF_NETWORK", "LOG_LENGTH", "EVENTS_KEPT", "EVENTS_QUEUED", "LINGER", "LINGER_FORESEEN",
  "REPEAT_PAUSE", "LEASE", "NODE_LIFE", "STANDSTILL", "OP_LIFE", "REPOLL_PATIENCE",
  "LATE_REQUEST",
}
