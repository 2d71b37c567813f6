-- What the scripts begin with. A key holds the time of its write in milliseconds of 13 digits, a space, and the contents. A script is
-- one step: nothing happens between its lines.

-- Milliseconds by Redis's own clock, or so many before, as text: a number would be rounded.
local function now(before)
  local time = redis.call('TIME')
  return string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) - (before or 0))
end

-- What a key holds, or false. Something else's key of another type is read as its dump, so that it can be quarantined.
local function read(key)
  local kind = redis.call('TYPE', key)['ok']
  if kind == 'none' or kind == 'string' then
    return redis.call('GET', key)
  end
  return redis.call('DUMP', key)
end
