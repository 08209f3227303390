-- Ask for the right to save a message under its key. The time is Redis's own: nodes' clocks may differ.
-- KEYS: attempt (string); ARGV: token, milliseconds that one may take, seconds that it is remembered, 1 if an
--       unknown outcome may be tried again, fingerprint of what the key stands for ("" if that is not known)
-- The value is "<state>[:<fingerprint>] ...": one without a fingerprint stands for anything.
-- Answers "new", "released" (new, and the one before it saved nothing), "unknown", "pending", "reused" (the key
-- stands for something else), or "done <cursor> <id>"
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
  state = 'unknown' -- its node is gone, and with it the outcome
end
if state == 'unknown' and ARGV[4] ~= '1' then
  return 'unknown'
end
local mark = ARGV[5] == '' and '' or ':' .. ARGV[5]
local begun = 'pending' .. mark .. ' ' .. ARGV[1] .. ' ' .. string.format('%.0f', now)
redis.call('SET', KEYS[1], begun, 'EX', ARGV[3])
return state == 'released' and state or 'new'
