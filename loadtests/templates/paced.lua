-- wrk script: POST one fixed body (file named by LOADTEST_BODY), each connection waiting LOADTEST_PAUSE_MS (give or
-- take half) between a reply and its next request, and print one JSON line at the end.
local file = assert(io.open(os.getenv("LOADTEST_BODY"), "rb"))
local pause = tonumber(os.getenv("LOADTEST_PAUSE_MS"))
wrk.method = "POST"
wrk.body = file:read("*a")
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer client-key"
file:close()

function delay()
  return math.floor(pause * (0.5 + math.random()) + math.random())
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\nJSON {"requests":%d,"seconds":%.6f,"bad_status":%d,"socket_errors":%d,"p50_ms":%.4f,"p99_ms":%.4f}\n',
    summary.requests, summary.duration / 1e6, e.status, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
