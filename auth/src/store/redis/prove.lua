-- KEYS: the lease, a key beside the profile's. ARGV: who should have the lease; something of the record's size.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
write(KEYS[2], ARGV[2], '', 1000)
redis.call('DEL', KEYS[2])
return 1
