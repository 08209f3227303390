-- Ask for the right to save a message under its key. The time is Redis's own: nodes' clocks may differ.
-- KEYS: attempt (string); ARGV: token, milliseconds that one may take, seconds that it is remembered, 1 if an
--       unknown outcome may be tried again
-- Answers "new", "released" (new, and an earlier one surely saved nothing), "unknown", "pending", or
-- "done <cursor> <id>"
local value = redis.call('GET', KEYS[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local state = value and string.match(value, '^%a+') or 'none'
if state == 'done' then
  return value
end
if state == 'pending' then
  local token, began = string.match(value, '^pending (%S+) (%d+)')
  if token == ARGV[1] then
    return 'new'
  end
  if now - tonumber(began) <= tonumber(ARGV[2]) then
    return 'pending'
  end
  state = 'unknown' -- whoever began it is gone, and took the outcome along
end
if state == 'unknown' and ARGV[4] ~= '1' then
  return 'unknown'
end
redis.call('SET', KEYS[1], 'pending ' .. ARGV[1] .. ' ' .. string.format('%.0f', now), 'EX', ARGV[3])
return state == 'released' and state or 'new'
