-- Posts the files named by BODY_FILES, one per line, in turn, and ends with one line of JSON.

wrk.method = "POST"
wrk.headers["Content-Type"] = os.getenv("CONTENT_TYPE")

local bodies = {}
for path in os.getenv("BODY_FILES"):gmatch("[^\n]+") do
  local file = assert(io.open(path, "rb"))
  bodies[#bodies + 1] = file:read("*a")
  file:close()
end
wrk.body = bodies[1]

if #bodies > 1 then -- wrk asks for each request when there is such a function
  local requests, turn = {}, 0

  function init()
    for place, body in ipairs(bodies) do
      requests[place] = wrk.format(nil, nil, nil, body)
    end
  end

  function request()
    turn = turn % #requests + 1
    return requests[turn]
  end
end

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
