-- Returns all kept events after a cursor, or false.
-- KEYS: meta (hash), events (stream); ARGV: epoch, offset, offset that this node knows in this epoch, or 0
local at = redis.call('HMGET', KEYS[1], 'epoch', 'offset')
local after = tonumber(ARGV[2])
if at[1] ~= ARGV[1] or after > tonumber(at[2]) or tonumber(ARGV[3]) > tonumber(at[2]) then
  return false
end
local missed = {}
if after < tonumber(at[2]) then
  local found = redis.call('XRANGE', KEYS[2], string.format('%.0f', after + 1) .. '-0', '+')
  for i = 1, #found do
    missed[i] = found[i][2][2]
  end
end
if #missed ~= tonumber(at[2]) - after then
  return false
end
return missed
