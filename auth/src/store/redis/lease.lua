-- KEYS: the lease, who has not released it. ARGV: who asks; for how long; from now, how long it may still save.
-- Returns who else has it, and whether a former owner may still save.
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then
  return {owner, 0}
end
-- `owner`, who had it last and has not released it, may save until `until`; those before, until `formerly_until`.
local unreleased = redis.call('HMGET', KEYS[2], 'owner', 'until', 'formerly_until')
local formerly_until = tonumber(unreleased[3]) or 0
-- An earlier try of the same owner, whose answer was lost, takes nothing over.
if unreleased[1] ~= ARGV[1] then
  formerly_until = math.max(formerly_until, tonumber(unreleased[2]) or 0)
end
local left = formerly_until - now()
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('HSET', KEYS[2], 'owner', ARGV[1], 'until', now(-ARGV[3]),
  'formerly_until', string.format('%.0f', formerly_until))
redis.call('PEXPIRE', KEYS[2], string.format('%.0f', math.max(ARGV[3], left)))
return {false, left > 0 and 1 or 0}
