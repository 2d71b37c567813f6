-- KEYS: the key, and one that never holds anything. Returns what the key holds, its version, and Redis's time.

-- A replica may lag behind its primary, and tells itself by refusing writes. Other refusals are no concern of a reader.
local refused = redis.pcall('DEL', KEYS[2])
if type(refused) == 'table' and string.find(refused['err'], 'READONLY', 1, true) then
  return refused
end
local value = read(KEYS[1])
return {value, value and redis.sha1hex(value), now()}
