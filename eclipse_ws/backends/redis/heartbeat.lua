-- Prove both of a node's connections in one command: its lease is renewed, and it must hear itself.
-- Answers Redis's time in milliseconds, and how many connections of this very server hear the node.
-- KEYS: the node's lease, which is its channel's name too; ARGV: seconds of the lease, what it must hear
redis.call('SET', KEYS[1], '1', 'EX', ARGV[1])
local hearers = redis.call('PUBLISH', KEYS[1], ARGV[2])
local time = redis.call('TIME')
return {time[1] .. string.format('%03d', math.floor(time[2] / 1000)), hearers}
