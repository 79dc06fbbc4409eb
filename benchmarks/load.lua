-- Posts the file named by BODY_FILE, over and over, and ends with one line of JSON.

wrk.method = "POST"
wrk.headers["Content-Type"] = "application/octet-stream"

local file = assert(io.open(os.getenv("BODY_FILE"), "rb"))
wrk.body = file:read("*a")
file:close()

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"num_requests": %d, "num_errors": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d}\n',
    summary.requests,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    summary.duration,
    latency:percentile(50),
    latency:percentile(99)
  ))
end
