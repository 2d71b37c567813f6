-- KEYS: the lock. ARGV: the id of its owner.
local holder = redis.call('GET', KEYS[1])
if holder and string.sub(holder, 1, 32) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
