-- One JSON POST for each write.
package.path = os.getenv("BENCH_WRK") .. "/?.lua;" .. package.path
require("common")

wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local value = string.rep("abcdefghijklmnopqrstuvwxyz", 10):sub(1, 256)

function request()
  return wrk.format(nil, "/v1/kv/put", nil, '{"key":"' .. next_key() .. '","value":"' .. value .. '"}')
end
