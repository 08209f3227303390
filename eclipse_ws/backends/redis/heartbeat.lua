-- Check both of a node's connections in one command: renew its lease, and publish what it has to hear.
-- Returns Redis's time in milliseconds, and how many connections of this server hear the node.
-- KEYS: the node's lease, which is also the name of its channel; ARGV: seconds of the lease, what it has to hear,
-- and if there is a beacon the channel of all nodes and the beacon
redis.call('SET', KEYS[1], '1', 'EX', ARGV[1])
local hearers = redis.call('PUBLISH', KEYS[1], ARGV[2])
if ARGV[3] then redis.call('PUBLISH', ARGV[3], ARGV[4]) end
local time = redis.call('TIME')
return {time[1] .. string.format('%03d', math.floor(time[2] / 1000)), hearers}
