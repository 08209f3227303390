-- End an attempt without a message: "release" it (it saved nothing), "forget" it (as if it had never begun), or leave
-- it "unknown". Only its owner can.
-- KEYS: attempt (string); ARGV: token, release | forget | unknown, seconds that it is remembered, fingerprint
local value = redis.call('GET', KEYS[1])
local mark = ARGV[4] == '' and '' or ':' .. ARGV[4]
if not value and ARGV[2] == 'unknown' then
  -- It began while Redis was away; that nobody knows its outcome is true all the same.
  redis.call('SET', KEYS[1], 'unknown' .. mark, 'EX', ARGV[3])
  return 1
end
if not value or string.match(value, '^pending:?%S* (%S+)') ~= ARGV[1] then
  return 0
end
if ARGV[2] == 'forget' then
  return redis.call('DEL', KEYS[1])
end
redis.call('SET', KEYS[1], (ARGV[2] == 'release' and 'released' or 'unknown') .. mark, 'EX', ARGV[3])
return 1
