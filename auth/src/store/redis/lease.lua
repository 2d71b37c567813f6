-- KEYS: the lease. ARGV: who asks, and for how long. Returns who else has it.
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  return false
end
local owner = redis.call('GET', KEYS[1])
if owner == ARGV[1] then
  -- By an earlier try, whose answer was lost.
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return false
end
return owner
