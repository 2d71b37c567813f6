-- Shared by the scripts. A value consists of the time of its write in milliseconds (13 digits), a space, and the contents. Scripts are
-- atomic.

-- The time of Redis's clock minus `before`, in milliseconds, as text: a number would be rounded.
local function now(before)
  local time = redis.call('TIME')
  return string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) - (before or 0))
end

-- The value of a key, or false. A key of another type, which another program stored, is read as its dump, so that it can be quarantined.
local function read(key)
  local kind = redis.call('TYPE', key)['ok']
  if kind == 'none' or kind == 'string' then
    return redis.call('GET', key)
  end
  return redis.call('DUMP', key)
end
