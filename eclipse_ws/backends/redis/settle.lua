-- End an attempt without a message: "release" it (it saved nothing), "forget" it (as if it had never begun), or mark
-- it "unknown". Only its own token can. Returns 1 if done, else 0.
-- KEYS: attempt (string); ARGV: token, release | forget | unknown, seconds that it is kept, fingerprint
local value = redis.call('GET', KEYS[1])
local mark = ARGV[4] == '' and '' or ':' .. ARGV[4]
if not value and ARGV[2] == 'unknown' then
  -- It began while Redis was unavailable; its outcome is unknown nevertheless.
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
