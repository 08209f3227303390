-- Enter a chat whose channel this node hears already: is its continuity guarded, and what came after?
-- KEYS: meta (hash), events (stream)
-- ARGV: node, link, last millisecond at which the chat was surely heard ("" if it never was), epoch known ("" if
--       none), offset known, 1 if the chat was heard without a gap since that position, epoch to begin, seconds
--       that the position is kept, prefix of the nodes' channels and leases, 1 if raw events need a guard,
--       milliseconds of a lease
-- Answers {epoch, offset, bodies after the known position or false, 1 if other nodes have to look again}
local meta, events = KEYS[1], KEYS[2]
local node, link, known = ARGV[1], ARGV[2], ARGV[4]
local time = redis.call('TIME')
local now = time[1] .. string.format('%03d', math.floor(time[2] / 1000))
local fields = redis.call('HGETALL', meta)
local epoch, offset, since, guarded, others = redis.call('HGET', meta, 'epoch'), 0, now, false, 0
-- Whoever knows another epoch has no gap in this one: like a newcomer, it needs any guard. ("0" forces a new one.)
local gap = ARGV[3] ~= '' and (epoch == known or ARGV[3] == '0')
for i = 1, #fields, 2 do
  local name, value = fields[i], fields[i + 1]
  if name == 'offset' then
    offset = tonumber(value)
  elseif string.sub(name, 1, 6) == 'guard:' then
    local other = string.sub(name, 7)
    if other == link then
      since = value
    elseif string.match(other, '^[^:]*') == node then
      redis.call('HDEL', meta, name) -- an earlier connection of this very node guards nothing any more
    else
      local channel = ARGV[9] .. other
      -- Subscribed in this moment, which ends with its connection, and heard of lately, which ends with
      -- its machine.
      local lately = now - value < tonumber(ARGV[11]) or redis.call('EXISTS', channel) == 1
      if lately and redis.call('PUBSUB', 'NUMSUB', channel)[2] > 0 then
        others = 1
        if not gap or tonumber(value) < tonumber(ARGV[3]) then
          guarded = true
        end
      else
        redis.call('HDEL', meta, name)
      end
    end
  end
end
if epoch and (ARGV[10] == '0' or (ARGV[6] == '1' and epoch == known)) then
  guarded = true
end
local again = 0
if not guarded then
  if epoch then
    again = others
  end
  epoch, offset = ARGV[7], 0
  redis.call('DEL', events)
  redis.call('HSET', meta, 'epoch', epoch, 'offset', 0)
end
redis.call('HSET', meta, 'guard:' .. link, since)
redis.call('EXPIRE', meta, ARGV[8])
local missed = false
if epoch == known then
  local after = tonumber(ARGV[5])
  missed = {}
  if offset > after then
    local found = redis.call('XRANGE', events, string.format('%.0f', after + 1) .. '-0', '+')
    for i = 1, #found do
      missed[i] = found[i][2][2]
    end
  end
  if #missed ~= offset - after then
    missed = false
  end
end
return {epoch, offset, missed, again}
