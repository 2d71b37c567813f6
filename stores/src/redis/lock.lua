-- KEYS: the lock. ARGV: the owner, and the TTL in milliseconds. Returns the holder if it is another owner, else false.
local holder = redis.call('GET', KEYS[1])
if holder and string.sub(holder, 1, 32) ~= string.sub(ARGV[1], 1, 32) then
  return holder
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
