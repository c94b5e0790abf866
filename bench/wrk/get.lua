-- One GET for each linearizable read.
package.path = os.getenv("BENCH_WRK") .. "/?.lua;" .. package.path
require("common")

function request()
  return wrk.format("GET", "/v1/kv/get?key=" .. next_key())
end
