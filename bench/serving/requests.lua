-- Sends the bodies of a file in turn, and reports in JSON. Every body is preceded by its length, ten digits and a
-- newline. All requests are built before the first is sent, so that making them costs the measurement nothing.
--   wrk … --script requests.lua URL -- FILE CONTENT_TYPE ACCEPT
local built, last, sent = {}, 0, 0

function init(arguments)
   wrk.method = "POST"
   wrk.headers["Content-Type"] = arguments[2]
   wrk.headers["Accept"] = arguments[3]
   local file = assert(io.open(arguments[1], "rb"))
   local length = file:read(11)
   while length do
      last = last + 1
      built[last] = wrk.format(nil, nil, nil, file:read(tonumber(length)))
      length = file:read(11)
   end
   file:close()
end

function request()
   sent = sent % last + 1
   return built[sent]
end

function done(summary, latency, _)
   local errors = summary.errors
   io.write(string.format(
      '\n{"duration_us": %d, "requests": %d, "bytes": %d, "p50_us": %d, "p99_us": %d, "max_us": %d, ' ..
      '"status": %d, "broken": %d, "timeouts": %d}\n',
      summary.duration, summary.requests, summary.bytes, latency:percentile(50), latency:percentile(99), latency.max,
      errors.status, errors.connect + errors.read + errors.write, errors.timeout))
end
