-- Keep a chat's mark, unless it is older than what its name has, and tell all nodes. Returns 1 if it is kept, else 0.
-- KEYS: meta (hash), marks (hash: "<expires> <epoch> <offset> <value>" by name)
-- ARGV: name, the mark's text, seconds since 1970 at which it expires, its epoch ("-" if it has no cursor), its offset,
--       marks at which no new name gets one, channel of all nodes, note
local marks, name, epoch = KEYS[2], ARGV[1], ARGV[4]
if epoch ~= '-' and redis.call('HGET', KEYS[1], 'epoch') ~= epoch then
  return 0
end
local now = tonumber(redis.call('TIME')[1])
local old = redis.call('HGET', marks, name)
if old then
  local expires, old_epoch, offset = string.match(old, '^(%S+) (%S+) (%S+)')
  if tonumber(expires) > now and epoch ~= '-' and old_epoch == epoch and tonumber(offset) >= tonumber(ARGV[5]) then
    return 0
  end
elseif redis.call('HLEN', marks) >= tonumber(ARGV[6]) then
  local found = redis.call('HGETALL', marks)
  for i = 1, #found, 2 do
    if tonumber(string.match(found[i + 1], '^%S+')) <= now then
      redis.call('HDEL', marks, found[i])
    end
  end
  if redis.call('HLEN', marks) >= tonumber(ARGV[6]) then
    return 0
  end
end
local seconds = math.ceil(tonumber(ARGV[3]) - now)
if seconds > 0 then
  redis.call('HSET', marks, name, ARGV[2])
  if redis.call('TTL', marks) < seconds then
    redis.call('EXPIRE', marks, seconds)
  end
else
  redis.call('HDEL', marks, name)
end
redis.call('PUBLISH', ARGV[7], ARGV[8])
return 1
