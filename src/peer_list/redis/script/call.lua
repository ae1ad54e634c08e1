-- How a verb is called.

local function carry_out(keys, args)
  P = keys[1]
  NODE = args[2]
  local room, copy = string.match(args[3], '^(%S+) (%d+)$')
  enter(room or '')
  COPY = copy
  time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
  pushed = 0
  return verbs[args[1]](unpack(args, 4))
end

-- Verbs that make room must work while the server is out of memory.
redis.register_function({ function_name = NAME, callback = carry_out, flags = { 'allow-oom' } })
redis.register_function(GROWING, carry_out)
