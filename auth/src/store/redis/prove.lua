-- KEYS: the lease, the profile, a key beside it. ARGV: who should have the lease; the fingerprint of the refresh token
-- that should be stored; something of the record's size.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return {'lost', false, false, false, false}
end
local stored = read(KEYS[2])
if stored[3] ~= ARGV[2] then
  return stored
end
write(KEYS[3], ARGV[3], '', 1000, 0)
redis.call('DEL', KEYS[3])
return done
