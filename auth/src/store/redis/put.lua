-- KEYS: the profile, what is set aside, a key to write to first, a name for a key that is no sign-in.
-- ARGV: the type and the record that the caller has seen, and what to do with it ('replace', 'set aside',
-- 'rename'); the fingerprint and the record to store; how long to keep it; how
-- many milliseconds ago the store was asked.
local stored = read(KEYS[1])
if stored[1] ~= ARGV[1] or (stored[2] or '') ~= ARGV[2] then
  return stored
end
if ARGV[3] == 'rename' then
  write(KEYS[3], ARGV[5], ARGV[4], ARGV[6], ARGV[7])
  redis.call('RENAME', KEYS[1], KEYS[4])
  redis.call('PEXPIRE', KEYS[4], ARGV[6])
  redis.call('RENAME', KEYS[3], KEYS[1])
  return done
end
if ARGV[3] == 'set aside' then
  set_aside(KEYS[2], stored[2], ARGV[6])
end
write(KEYS[1], ARGV[5], ARGV[4], ARGV[6], ARGV[7])
return done
