-- What every script begins with. A profile's key holds a hash: `record` (the JSON), `sum` (the SHA-1 of that), `refresh`
-- (the fingerprint of the refresh token in it) and `saved_at` (milliseconds). A script is one step: nothing happens
-- between its lines.

-- Milliseconds by Redis's own clock, as text: a number would be rounded.
local function now()
  local time = redis.call('TIME')
  return string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
end

-- The type of the key, and if it is a hash, what is in it. A record that somebody else has changed holds no refresh
-- token, so that no save can replace it.
local function read(key)
  local kind = redis.call('TYPE', key)['ok']
  if kind ~= 'hash' then
    return {kind, false, false, false, now()}
  end
  local stored = redis.call('HMGET', key, 'record', 'refresh', 'saved_at', 'sum')
  local is_whole = stored[1] and redis.sha1hex(stored[1]) == stored[4]
  return {kind, stored[1], is_whole and stored[2], stored[3], now()}
end

-- The write that may fail for want of memory comes first, so that a script that fails has changed nothing.
local function write(key, record, refresh, ttl)
  local sum = redis.sha1hex(record)
  redis.call('HSET', key, 'record', record, 'refresh', refresh, 'saved_at', now(), 'sum', sum)
  redis.call('PEXPIRE', key, ttl)
end

-- The newest first. A script that is run again, because its answer was lost, sets aside nothing twice.
local function set_aside(key, record, ttl)
  for _, kept in ipairs(redis.call('LRANGE', key, 0, -1)) do
    if kept == record then
      return
    end
  end
  redis.call('LPUSH', key, record)
  redis.call('LTRIM', key, 0, 7)
  redis.call('PEXPIRE', key, ttl)
end

local done = {'done', false, false, false, false}
