-- Posts the files named by BODY_FILES, one per line, in turn, and ends with one line of JSON.
-- With TO_LAST_ANSWER the duration is that from the first request to the last answer.

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

local threads = {}

if os.getenv("TO_LAST_ANSWER") then -- costs wrk time, so it is for few and slow requests
  local ffi = require("ffi")
  ffi.cdef("typedef struct { long s; long ns; } moment; int clock_gettime(int clock, moment *now);")
  local now = ffi.new("moment")

  local function now_us()
    ffi.C.clock_gettime(1, now) -- CLOCK_MONOTONIC
    return tonumber(now.s) * 1e6 + tonumber(now.ns) / 1e3
  end

  local ask = request or function() return wrk.format() end
  began_us, ended_us, num_answers = 0, 0, 0

  function request()
    if began_us == 0 then began_us = now_us() end
    return ask()
  end

  function response()
    ended_us = now_us()
    num_answers = num_answers + 1
  end

  function setup(thread)
    threads[#threads + 1] = thread
  end
end

function done(summary, latency)
  local errors = summary.errors
  local num_requests, duration_us = summary.requests, summary.duration
  for _, thread in ipairs(threads) do -- there is one
    num_requests = thread:get("num_answers")
    duration_us = math.max(1, thread:get("ended_us") - thread:get("began_us"))
  end
  io.write(string.format(
    'RESULT {"num_requests": %d, "num_errors": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d}\n',
    num_requests,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    duration_us,
    latency:percentile(50),
    latency:percentile(99)
  ))
end
