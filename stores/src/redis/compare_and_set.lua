-- KEYS: the key. ARGV: the expected version, empty for none; 1 if this is a retry, whose first response may have been lost; 1 if the key
-- is a quarantine slot; the TTL and the time since the store was called, both in milliseconds; the new contents, absent for a delete.
-- Returns the new version, empty for none; or nil after a conflict.
local expected, repeated, is_slot, ttl, asked, new = unpack(ARGV)
local value = read(KEYS[1])
local version = value and redis.sha1hex(value) or ''
if version ~= expected then
  local is_made = repeated == '1' and (value and string.sub(value, 15) or nil) == new
  return is_made and version
end
if not new then
  redis.call('DEL', KEYS[1])
  return ''
end
local written = now(asked) .. ' ' .. new
-- Out of memory, Redis still completes a script whose first write needs no memory.
if is_slot == '1' or (value and #written <= #value) then
  redis.call('PEXPIRE', KEYS[1], ttl)
end
redis.call('SET', KEYS[1], written, 'PX', ttl)
return redis.sha1hex(written)
