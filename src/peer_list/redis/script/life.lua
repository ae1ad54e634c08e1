-- Which nodes live, and what follows when this server stood still.

-- While this server stood still or was away, no peer or node could show that it lives;
-- the same holds when its clock was set forward. Then the nodes that lived until then
-- live on, and no peer is collected for a while.
local function notice_standstill()
  local awake = tonumber(call('GET', shard('awake')))
  if not awake or now - awake <= STANDSTILL then
    return
  end
  local nodes = shard('nodes')
  call('SET', shard('grace'), '1', 'PX', TIMEOUT)
  for _, node in ipairs(call('ZRANGEBYSCORE', nodes, '(' .. string.format('%.0f', awake), 'inf')) do
    call('ZADD', nodes, now + NODE_LIFE, node)
  end
  call('SET', shard('awake'), NOW)
end

local function is_alive(node)
  notice_standstill()
  local until_when = call('ZSCORE', shard('nodes'), node)
  return until_when and tonumber(until_when) > now
end
