-- KEYS: the lease, who has not released it. ARGV: who should have it.
local released = 0
if redis.call('GET', KEYS[1]) == ARGV[1] then
  released = redis.call('DEL', KEYS[1])
end
local unreleased = redis.call('HMGET', KEYS[2], 'owner', 'formerly_until')
if unreleased[1] ~= ARGV[1] then
  return released
end
if unreleased[2] == '0' then
  redis.call('DEL', KEYS[2])
else
  -- Owners before this one may still save.
  redis.call('HSET', KEYS[2], 'owner', '', 'until', '0')
end
return released
