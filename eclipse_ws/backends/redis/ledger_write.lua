-- Keep records of the ledger, and remove those that are empty, if the writer is its holder. Returns 1 if so, else 0.
-- KEYS: holder (string), records (hash of bytes by chat id)
-- ARGV: who writes, seconds that all of it is kept, then of each record its chat's id and its bytes
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
for i = 3, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[2], ARGV[i])
  else
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  end
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 1
