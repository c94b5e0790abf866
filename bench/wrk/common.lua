-- Shared by put.lua and get.lua: the credential from the environment, the key set of the other clients
-- (1 000 keys), and one JSON object on stdout at the end.
wrk.headers["Authorization"] = "Bearer " .. os.getenv("RAFTOS_TOKEN")

turn = 0

function next_key()
  turn = turn + 1
  return string.format("key-%012d", (turn * 104729) % 1000)
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"ops_per_s": %.1f, "p50_ms": %.3f, "p99_ms": %.3f, "errors": %d}\n',
    summary.requests / summary.duration * 1e6,
    latency:percentile(50) / 1000,
    latency:percentile(99) / 1000,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
