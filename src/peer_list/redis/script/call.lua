-- How a verb is called.

local function carry_out_in(named_room, verb, ...)
  local room, copy = string.match(named_room, '^(%S+) (%d+)$')
  enter(room or '')
  COPY = copy
  pushed = 0
  return verbs[verb](...)
end

-- Several verbs, each given as its name, the room, the number of its arguments, and these. One
-- that fails does not hold up the others. When enough bytes are moved, the others are not begun.
local function carry_out_all(args)
  local answers = {}
  local at = 4
  while args[at] do
    local last = at + 2 + args[at + 2]
    if moved > MOVED_AT_ONCE then
      answers[#answers + 1] = redis.error_reply('TURN not begun')
    else
      local ok, answer = pcall(carry_out_in, args[at + 1], args[at], unpack(args, at + 3, last))
      answers[#answers + 1] = ok and answer or redis.error_reply(answer.err or tostring(answer))
    end
    at = last + 1
  end
  return answers
end

local function carry_out(keys, args)
  P = keys[1]
  NODE = args[2]
  time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
  NOW = string.format('%.0f', now)
  moved = 0
  if args[1] == 'all' then
    return carry_out_all(args)
  end
  return carry_out_in(args[3], args[1], unpack(args, 4))
end

-- Verbs that make room must work while the server is out of memory.
redis.register_function({ function_name = NAME, callback = carry_out, flags = { 'allow-oom' } })
redis.register_function(GROWING, carry_out)
