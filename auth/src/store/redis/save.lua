-- KEYS: the profile, what is set aside. ARGV: the fingerprint of the refresh token that was redeemed; the
-- successor's fingerprint, and the successor; how long to keep it; how many milliseconds ago the store was asked.
local stored = read(KEYS[1])
if stored[3] == ARGV[1] then
  write(KEYS[1], ARGV[3], ARGV[2], ARGV[4], ARGV[5])
  return done
end
if stored[3] == ARGV[2] then
  -- By an earlier try, whose answer was lost.
  return done
end
set_aside(KEYS[2], ARGV[3], ARGV[4], refresh_token(ARGV[3]))
return stored
