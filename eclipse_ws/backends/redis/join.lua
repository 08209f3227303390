-- Join a chat whose channel this node already hears: is its continuity guarded, and what came after?
-- A Redis that has gone back in time (a snapshot was restored, or a replica that lagged behind was promoted) has lost
-- events that nodes know: its offset is below theirs, or it has another event at the same offset. Then a new epoch
-- begins.
-- KEYS: meta (hash), events (stream), seen:0, seen:1, marks (hashes)
-- ARGV: node, its connection's name, last millisecond at which the chat was certainly heard ("" if never),
--       epoch known ("" if none), offset known, 1 if the chat was heard without a gap since that position (if
--       none is known: since this connection joined), epoch to begin, seconds that the position is kept, prefix of the
--       nodes' channels and leases, 1 if raw events need a guard, milliseconds of a lease, identity of the event
--       at the known position ("" if not known)
-- Returns {epoch, offset, bodies after the known position or false, 1 if other nodes may be in the old epoch, identity of
--          the event at the offset ("" if not known), marks: names and texts in turn}
local function leased(key)
  local found = redis.pcall('EXISTS', key)
  if type(found) == 'table' and not string.find(found.err, 'non local key', 1, true) then
    error(found.err)
  end
  return found == 1 -- in a cluster a lease may have moved to another server than its node's connection
end
local meta, events = KEYS[1], KEYS[2]
local node, connection, known = ARGV[1], ARGV[2], ARGV[4]
local time = redis.call('TIME')
local now = time[1] .. string.format('%03d', math.floor(time[2] / 1000))
local fields = redis.call('HGETALL', meta)
local epoch, offset, since, guarded, others, last = redis.call('HGET', meta, 'epoch'), 0, now, false, 0, ''
-- A node that knows another epoch has no gap in this one: like a newcomer, it needs any guard. ("0": a new epoch.)
local gap = ARGV[3] ~= '' and (epoch == known or ARGV[3] == '0')
for i = 1, #fields, 2 do
  local name, value = fields[i], fields[i + 1]
  if name == 'offset' then
    offset = tonumber(value)
  elseif name == 'last' then
    last = value
  elseif string.sub(name, 1, 6) == 'guard:' then
    local other = string.sub(name, 7)
    if other == connection then
      since = value
    elseif string.match(other, '^[^:]*') == node then
      redis.call('HDEL', meta, name) -- an earlier connection of this node no longer guards anything
    else
      local channel = ARGV[9] .. other
      -- Subscribed now, which ends with its connection, and with a lease or a recent join, which end with
      -- its machine.
      local lately = now - value < tonumber(ARGV[11]) or leased(channel)
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
if epoch and (ARGV[10] == '0' or (ARGV[6] == '1' and (epoch == known or known == ''))) then
  guarded = true
end
local at = (epoch or '') .. '.' .. string.format('%.0f', offset) .. ' '
last = string.sub(last, 1, #at) == at and string.sub(last, #at + 1) or '' -- earlier servers don't update it
local missed, back = false, false
if epoch and epoch == known then
  local after, place = tonumber(ARGV[5]), ARGV[5] .. '-0'
  missed = {}
  if offset > after then
    local found = redis.call('XRANGE', events, string.format('%.0f', after + 1) .. '-0', '+')
    for i = 1, #found do
      missed[i] = found[i][2][2]
    end
  end
  if offset < after then
    back = true
  elseif #missed ~= offset - after then
    missed = false
  elseif ARGV[12] ~= '' then
    local cursor = redis.call('HGET', KEYS[3], ARGV[12]) or redis.call('HGET', KEYS[4], ARGV[12])
    if cursor then
      back = cursor ~= epoch .. '.' .. ARGV[5]
    elseif #redis.call('XRANGE', events, place, place) > 0 then
      back = true -- an identity is kept as long as its event, so this is another event
    else
      back = offset == after and last ~= '' and last ~= ARGV[12]
    end
  end
end
local again = 0
if back or not guarded then
  if epoch then
    again = back and 1 or others -- the other nodes' guards may be lost, too
  end
  epoch, offset, last, missed = ARGV[7], 0, '', false
  redis.call('DEL', events)
  redis.call('HSET', meta, 'epoch', epoch, 'offset', 0)
end
redis.call('HSET', meta, 'guard:' .. connection, since)
redis.call('EXPIRE', meta, ARGV[8])
return {epoch, offset, missed, again, last, redis.call('HGETALL', KEYS[5])}
