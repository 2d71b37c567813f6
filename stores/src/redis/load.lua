-- KEYS: the key, and a key that never exists. Returns the value of the key, its version, and Redis's time.

-- A replica may lag behind its primary, so it must not be read. It is detected by its refusal of a write. Other errors of the write do
-- not matter to a reader.
local refused = redis.pcall('DEL', KEYS[2])
if type(refused) == 'table' and string.find(refused['err'], 'READONLY', 1, true) then
  return refused
end
local value = read(KEYS[1])
return {value, value and redis.sha1hex(value), now()}
