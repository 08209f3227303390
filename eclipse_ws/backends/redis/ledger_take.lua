-- Become the ledger's holder if nobody is, or if the one that is given is. Returns the present holder's name.
-- KEYS: holder (string), records (hash of bytes by chat id)
-- ARGV: who wants to be the holder, the holder to replace ("": none), seconds that all of it is kept
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] and holder ~= ARGV[2] then
  return holder
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[3])
return ARGV[1]
