-- What every script begins with. A profile's key holds a hash: `record` (the JSON), `sum` (the SHA-1 of that), `refresh`
-- (the fingerprint of the refresh token in it) and `saved_at` (milliseconds). A script is one step: nothing happens
-- between its lines.

-- Milliseconds by Redis's own clock, or so many before, as text: a number would be rounded.
local function now(before)
  local time = redis.call('TIME')
  return string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) - (before or 0))
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

-- The write that may fail for want of memory comes first, so that a script that fails has changed nothing. What is left
-- of the access token's life was measured when the store was asked, so many milliseconds ago.
local function write(key, record, refresh, ttl, asked)
  local sum = redis.sha1hex(record)
  redis.call('HSET', key, 'record', record, 'refresh', refresh, 'saved_at', now(asked), 'sum', sum)
  redis.call('PEXPIRE', key, ttl)
end

local function refresh_token(record)
  local is_json, fields = pcall(cjson.decode, record)
  return is_json and type(fields) == 'table' and fields['refresh_token']
end

-- The newest first. A save that is tried again sets aside nothing twice, or it would push out the others: then what is
-- left of the access token's life differs, and the refresh token (given by a save) tells.
local function set_aside(key, record, ttl, refresh)
  for _, kept in ipairs(redis.call('LRANGE', key, 0, -1)) do
    if kept == record or (refresh and refresh_token(kept) == refresh) then
      return
    end
  end
  redis.call('LPUSH', key, record)
  redis.call('LTRIM', key, 0, 7)
  redis.call('PEXPIRE', key, ttl)
end

local done = {'done', false, false, false, false}
