-- KEYS: the profile. ARGV: the fingerprint of the refresh token that was read.
local stored = read(KEYS[1])
if stored[3] == ARGV[1] then
  redis.call('DEL', KEYS[1])
  return done
end
return stored
