-- Ask for the right to save a message under its key. The time is Redis's, because nodes' clocks may differ.
-- KEYS: attempt (string); ARGV: token, milliseconds that an attempt may take, seconds that it is kept, 1 if an
--       unknown outcome may be tried again, fingerprint of the key's message ("" if unknown)
-- The value is "<state>[:<fingerprint>] ...": without a fingerprint the key fits any message.
-- Returns "new", "released" (new, and the attempt before it saved nothing), "unknown", "pending", "reused" (the key
-- belongs to another message), or "done <cursor> <id>"
local value = redis.call('GET', KEYS[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local state, kept, rest = 'none', '', ''
if value then
  state, kept, rest = string.match(value, '^(%a+):?(%S*) ?(.*)$')
end
if kept ~= '' and ARGV[5] ~= '' and kept ~= ARGV[5] then
  return 'reused'
end
if state == 'done' then
  return 'done ' .. rest
end
if state == 'pending' then
  local token, began = string.match(rest, '^(%S+) (%d+)')
  if token == ARGV[1] then
    return 'new'
  end
  if now - tonumber(began) <= tonumber(ARGV[2]) then
    return 'pending'
  end
  state = 'unknown' -- its node is gone, so nobody knows the outcome
end
if state == 'unknown' and ARGV[4] ~= '1' then
  return 'unknown'
end
local mark = ARGV[5] == '' and '' or ':' .. ARGV[5]
local begun = 'pending' .. mark .. ' ' .. ARGV[1] .. ' ' .. string.format('%.0f', now)
redis.call('SET', KEYS[1], begun, 'EX', ARGV[3])
return state == 'released' and state or 'new'
