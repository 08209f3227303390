-- Sequence, keep and fan out one event, once per identity; settle its attempt. Returns {cursor, 1 if new}.
-- KEYS: meta (hash), events (stream), seen:0, seen:1 (hashes), [attempt (string)]
-- ARGV: channel, body, identity, epoch to begin if there is none, events kept, seconds that they are
--       kept, seconds that the position is kept, name of this node's connection ("" if it doesn't hear the chat),
--       receipt's id, bytes kept, the attempt's fingerprint ("" if it has none), epoch and offset that this node
--       knows, PUBLISH or SPUBLISH, id of the message that the event deletes ("" if none), identity of the deletion
--       after which the event must not be kept ("" if none)
local meta, events = KEYS[1], KEYS[2]
local kept = tonumber(ARGV[5])
local at = redis.call('HMGET', meta, 'epoch', 'offset', 'bytes', 'deleted')
local epoch, offset, bytes = at[1], tonumber(at[2]), tonumber(at[3])
local cursor = redis.call('HGET', KEYS[3], ARGV[3]) or redis.call('HGET', KEYS[4], ARGV[3])
if at[4] and not cursor and ARGV[16] ~= '' then
  cursor = redis.call('HGET', KEYS[3], ARGV[16]) or redis.call('HGET', KEYS[4], ARGV[16])
end
-- A node knows a later position than Redis only if Redis has gone back in time (see join.lua).
if not epoch or (not cursor and epoch == ARGV[12] and offset < tonumber(ARGV[13])) then
  epoch, offset = ARGV[4], 0
  redis.call('DEL', events)
  redis.call('HSET', meta, 'epoch', epoch, 'offset', 0)
  redis.call('EXPIRE', meta, ARGV[7])
  if ARGV[8] ~= '' then
    local time = redis.call('TIME')
    redis.call('HSET', meta, 'guard:' .. ARGV[8], time[1] .. string.format('%03d', math.floor(time[2] / 1000)))
  end
end
if ARGV[15] ~= '' then
  -- What has the content of a deleted message becomes the deletion, in its own place. A stream has no entries changed,
  -- so it is written again. Also for a deletion that is known: earlier servers don't do this.
  local found, changed = redis.call('XRANGE', events, '-', '+'), false
  for i = 1, #found do
    local body = found[i][2][2]
    local _, event = pcall(cjson.decode, body)
    local data = type(event) == 'table' and event.data
    if type(data) == 'table' and data.id == ARGV[15] and (event.type == 'message' or event.type == 'message_updated') then
      local own = epoch .. '.' .. string.match(found[i][1], '^%d+')
      found[i][2][2] = string.sub(ARGV[2], 1, -2) .. ',"cursor":"' .. own .. '"}'
      bytes, changed = bytes and bytes + #found[i][2][2] - #body, true
    end
  end
  if changed then
    redis.call('DEL', events)
    for i = 1, #found do
      redis.call('XADD', events, found[i][1], 'e', found[i][2][2])
    end
    redis.call('EXPIRE', events, ARGV[6])
    if bytes then
      redis.call('HSET', meta, 'bytes', bytes)
    end
  end
  redis.call('HSET', meta, 'deleted', 1)
  redis.call('EXPIRE', meta, ARGV[7])
end
local fresh = 0
if not cursor then
  fresh = 1
  offset = offset + 1
  local place = string.format('%.0f', offset)
  cursor = epoch .. '.' .. place
  local body = string.sub(ARGV[2], 1, -2) .. ',"cursor":"' .. cursor .. '"}'
  local room, longest = tonumber(ARGV[10]), kept
  bytes = (offset == 1 and 0 or bytes or room) + #body
  if bytes > room then
    -- What XADD drops is not subtracted, and earlier servers don't count bytes, so the sum is recomputed here.
    -- A quarter is then freed, so that this happens rarely.
    local found = redis.call('XRANGE', events, '-', '+')
    bytes, longest = #body, 1
    for i = #found, 1, -1 do
      local more = bytes + #found[i][2][2]
      if longest >= kept or more > room * 3 / 4 then
        break
      end
      bytes, longest = more, longest + 1
    end
  end
  -- The stream comes first: if Redis refuses a command in mid-script, the writes before it stay.
  redis.call('XADD', events, 'MAXLEN', longest, place .. '-0', 'e', body)
  redis.call('HSET', meta, 'offset', place, 'bytes', bytes, 'last', cursor .. ' ' .. ARGV[3])
  -- Identities are kept in two halves, and the older half is deleted as a whole: one to two histories' worth
  -- of them are kept, and none needs its own expiry.
  local half = KEYS[3 + math.floor(offset / kept) % 2]
  if offset % kept == 0 then
    redis.call('DEL', half)
  end
  redis.call('HSET', half, ARGV[3], cursor)
  redis.call('EXPIRE', meta, ARGV[7])
  redis.call('EXPIRE', events, ARGV[6])
  redis.call('EXPIRE', KEYS[3], ARGV[6])
  redis.call('EXPIRE', KEYS[4], ARGV[6])
  redis.call(ARGV[14], ARGV[1], body)
end
if KEYS[5] then
  local mark = ARGV[11] == '' and '' or ':' .. ARGV[11]
  redis.call('SET', KEYS[5], 'done' .. mark .. ' ' .. cursor .. ' ' .. ARGV[9], 'EX', ARGV[6])
end
return {cursor, fresh}
