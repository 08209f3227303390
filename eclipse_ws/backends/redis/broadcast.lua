-- Publish ephemeral events, each on its chat's channel. Returns how many of them Redis has refused.
-- ARGV: channel, body, channel, body, and so on
local refused = 0
for i = 1, #ARGV, 2 do
  if type(redis.pcall('PUBLISH', ARGV[i], ARGV[i + 1])) == 'table' then
    refused = refused + 1
  end
end
return refused
