-- Take one request of a backend from all of its limits, or from none (GCRA). Times are in microseconds.
--
-- KEYS[1]  hash of times {pause, requests, tokens}: the end of the pause, and for each limit the time when the amount
--          taken so far will have been earned again (the theoretical arrival time of GCRA)
-- ARGV     a pause to begin now; the longest wait; cost and burst of requests; cost and burst of tokens.
--          Costs and bursts are the times in which they are earned.
-- returns  the time to wait. Above the longest wait nothing was taken; otherwise the request may start after it.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local times = redis.call('HMGET', KEYS[1], 'pause', 'requests', 'tokens')
for at = 1, 3 do
  times[at] = math.max(tonumber(times[at] or 0), now)
end

local pause, wait = tonumber(ARGV[1]), 0
if pause > 0 then
  times[1] = math.max(times[1], now + pause)
else
  wait = times[1] - now
  for at = 2, 3 do
    wait = math.max(wait, times[at] + ARGV[2 * at - 1] - ARGV[2 * at] - now)
  end
  if wait > tonumber(ARGV[2]) then
    return wait
  end
  for at = 2, 3 do
    times[at] = math.max(times[at], now + wait) + ARGV[2 * at - 1]
  end
end

local text = {}
for at = 1, 3 do
  text[at] = string.format('%.0f', times[at])
end
redis.call('HSET', KEYS[1], 'pause', text[1], 'requests', text[2], 'tokens', text[3])
redis.call('PEXPIRE', KEYS[1], math.ceil((math.max(unpack(times)) - now) / 1000) + 60000)
return wait
