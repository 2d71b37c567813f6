-- KEYS: the lock. ARGV: who asks for it, and for how many milliseconds. Returns who else has it.
local holder = redis.call('GET', KEYS[1])
if holder and string.sub(holder, 1, 32) ~= string.sub(ARGV[1], 1, 32) then
  return holder
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
