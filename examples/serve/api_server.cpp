#include "api_server.hpp"

#include <algorithm>
#include <charconv>
#include <iomanip>
#include <iostream>
#include <limits>

#include "access.hpp"
#include "page.hpp"
#include "responses.hpp"

namespace serve::inline DSV3_ISA {
namespace {

using httplib::Request;
using httplib::Response;
using std::chrono::milliseconds;

constexpr milliseconds poll_time{200};  // between looks at whether the client is still there
constexpr milliseconds first_poll_time = Connection::half_close_time / 2;
constexpr std::chrono::seconds quiet_time{15};  // after which a stream says that it is alive

/// What the client says that it sends; 0 if it does not say.
std::uint64_t content_length(const Request& request) {
  const std::string text = request.get_header_value("Content-Length");
  std::uint64_t n = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
  return error == std::errc::result_out_of_range ? std::numeric_limits<std::uint64_t>::max() : n;
}

/// The whole body, decompressed if need be. Throws: ApiError with status 413 or 400.
std::string read_body(const Service& service, const Request& request, const Response& response, const httplib::ContentReader& reader) {
  const std::size_t most = service.limits.body_bytes;
  const auto refuse = [&](int status, const std::string& message, const char* code) {
    if (Connection::current() != nullptr) Connection::current()->close_after_answer();
    throw ApiError(status, message, {}, code);
  };
  const std::string too_large = "The request body is larger than " + std::to_string(most) + " bytes.";
  if (request.is_multipart_form_data()) refuse(400, "The request body: expected JSON, found a form.", "invalid_json");
  if (content_length(request) > most) refuse(413, too_large, "request_too_large");
  std::string body;
  bool over = false;
  const bool whole = reader([&](const char* bytes, std::size_t count) {
    over = count > most - body.size();
    if (!over) body.append(bytes, count);
    return !over;
  });
  // Newer versions of httplib count chunks themselves.
  if (over || response.status == 413) refuse(413, too_large, "request_too_large");
  if (!whole) refuse(400, "The request body did not arrive whole.", "incomplete_body");
  return body;
}

/// One request on its way through the engine.
struct Run {
  Run(Service& service, ApiRequest parsed)
      : request(std::move(parsed)), answers(service, request), writer(service, request, answers.count()) {}

  ApiRequest request;
  Answers answers;
  ResponseWriter writer;
  bool begun = false;
  milliseconds patience = first_poll_time;
  std::chrono::steady_clock::time_point last_write = std::chrono::steady_clock::now();
};

/// Writes what has come since the last call. False if the client has left.
bool stream_more(Run& run, httplib::DataSink& sink) {
  std::string text;
  bool done = false;
  const auto say = [&](const Json& json) { text += "data: " + text_of(json) + "\n\n"; };
  try {
    if (!run.begun)
      for (const Json& chunk : run.writer.first_chunks()) say(chunk);
    run.begun = true;
    for (auto event = run.answers.next(text.empty() ? std::exchange(run.patience, poll_time) : milliseconds(0)); event;
         event = run.answers.next(milliseconds(0)))
      if (const Json chunk = run.writer.take(*event); !chunk.is_null()) say(chunk);
    done = run.answers.all_ended();
    if (done && run.request.include_usage) say(run.writer.usage_chunk(run.answers));
  } catch (const ApiError& e) {
    say(e.json());
    done = true;
  }
  if (done) text += "data: [DONE]\n\n";
  const auto now = std::chrono::steady_clock::now();
  if (text.empty() && now - run.last_write > quiet_time) text = ": still there\n\n";
  if (!text.empty()) run.last_write = now;
  if (!sink.is_writable() || (!text.empty() && !sink.write(text.data(), text.size()))) return false;
  if (done) sink.done();
  return true;
}

void answer_whole(Run& run) {
  for (auto looked = std::chrono::steady_clock::now(); !run.answers.all_ended();) {
    if (const auto event = run.answers.next(run.patience)) run.writer.take(*event);
    if (std::chrono::steady_clock::now() - looked < run.patience) continue;
    run.patience = poll_time;
    looked = std::chrono::steady_clock::now();
    if (Connection::current() != nullptr && !Connection::current()->alive()) throw ApiError(499, "The client has left.");
  }
}

using Parse = ApiRequest (*)(const Service&, const std::string&);

/// The body of a request that may be answered.
std::string admit(const Service& service, const Request& request, const Response& response, const httplib::ContentReader& reader) {
  try {
    check_key(service, request);
  } catch (const ApiError&) {
    if (Connection::current() != nullptr) Connection::current()->close_after_answer();  // its body was not read
    throw;
  }
  return read_body(service, request, response, reader);
}

void complete(Service& service, Parse parse, const Request& request, Response& response, const httplib::ContentReader& reader) {
  try {
    const std::string body = admit(service, request, response, reader);
    if (service.draining) throw ApiError(503, "The server is shutting down.", {}, "shutting_down");
    if (!service.engine->healthy()) throw ApiError(503, "The engine has failed.", {}, "engine_failed");
    auto run = std::make_shared<Run>(service, parse(service, body));
    if (!run->request.stream) {
      answer_whole(*run);
      return send_json(response, 200, run->writer.whole(run->answers));
    }
    response.set_header("Cache-Control", "no-cache");
    response.set_chunked_content_provider("text/event-stream", [&service, run](std::size_t, httplib::DataSink& sink) {
      const bool there = stream_more(*run, sink);
      if (!there) service.metrics.count_disconnect();
      return there;
    });
  } catch (const ApiError& e) {
    if (e.status == 499) service.metrics.count_disconnect();
    send_error(response, e);
  }
}

Json model_json(const Service& service) {
  return {{"id", service.name},
          {"object", "model"},
          {"created", service.started},
          {"owned_by", "dsv3"},
          {"max_model_len", service.engine->options().max_tokens}};
}

void log_request(const Request& request, const Response& response) {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  std::ostringstream line;  // written at once, as other threads write too
  line << std::put_time(&utc, "%FT%TZ") << ' ' << request.remote_addr << ' ' << request.method << ' '
       << Json(request.path).dump(-1, ' ', true) << ' ' << response.status;
  if (Connection::current() != nullptr) line << ' ' << Connection::current()->duration() << " ms";
  std::cerr << line.str() + '\n' << std::flush;
}

/// Clients of proxies may send the whole address.
std::string route(const char* path) { return std::string("(?:https?://[^/]*)?") + path; }

}  // namespace

void add_routes(Server& server, Service& service) {
  guard(server, service);
  const auto post = [&](const char* path, Parse parse) {
    server.Post(route(path), [&service, parse](const Request& request, Response& response, const httplib::ContentReader& reader) {
      complete(service, parse, request, response, reader);
    });
  };
  post("/v1/completions", parse_completion);
  post("/v1/chat/completions", parse_chat_completion);
  const auto post_text = [&](const char* path, Json (*answer)(const Service&, const std::string&)) {
    server.Post(route(path), [&service, answer](const Request& request, Response& response, const httplib::ContentReader& reader) {
      try {
        send_json(response, 200, answer(service, admit(service, request, response, reader)));
      } catch (const ApiError& e) {
        send_error(response, e);
      }
    });
  };
  post_text("/tokenize", tokenize);
  post_text("/detokenize", detokenize);

  const auto with_key = [&](auto answer) {
    return [&service, answer](const Request& request, Response& response) {
      try {
        check_key(service, request);
        answer(request, response);
      } catch (const ApiError& e) {
        send_error(response, e);
      }
    };
  };
  server.Get(route("/v1/models"), with_key([&](const Request&, Response& response) {
               send_json(response, 200, {{"object", "list"}, {"data", Json::array({model_json(service)})}});
             }));
  server.Get(route("/v1/models/(.+)"), with_key([&](const Request& request, Response& response) {
               const std::string name = request.matches[1];
               if (name != service.name) throw ApiError(404, "The model '" + name + "' does not exist.", "model", "model_not_found");
               send_json(response, 200, model_json(service));
             }));
  server.Get(route("/health"), [&](const Request&, Response& response) {
    const bool healthy = service.engine->healthy();
    send_json(response, healthy && !service.draining ? 200 : 503,
              {{"status", !healthy           ? "failed"
                          : service.draining ? "shutting down"
                                             : "ok"}});
  });
  server.Get(route("/metrics"), [&](const Request&, Response& response) {
    response.set_content(service.metrics.text(service.engine->stats()), "text/plain; version=0.0.4");
  });
  for (const PageFile& file : page_files)
    server.Get(route(file.path), [&file](const Request&, Response& response) {
      response.set_header("Content-Security-Policy",
                          "default-src 'none'; connect-src 'self'; img-src data:; script-src 'self'; style-src 'self'; "
                          "base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
      response.set_header("X-Content-Type-Options", "nosniff");
      response.set_header("Referrer-Policy", "no-referrer");
      response.set_header("Cache-Control", "no-cache");  // a newer server's page is not the old one
      response.set_content(file.text, file.type);
    });

  server.set_payload_max_length(service.limits.body_bytes);
  server.set_exception_handler([](const Request&, Response& response, std::exception_ptr thrown) {
    std::string what = "unknown";
    try {
      std::rethrow_exception(thrown);
    } catch (const std::exception& e) {
      what = e.what();
    } catch (...) {
    }
    send_error(response, ApiError(500, "Internal error: " + what));
  });
  server.set_error_handler([](const Request& request, Response& response) {  // httplib's own errors have no body
    if (!response.body.empty()) return;
    const bool unknown = response.status == 404;
    if ((!unknown || request.method == "POST") && Connection::current() != nullptr) Connection::current()->close_after_answer();  // unread
    send_error(response,
               ApiError(response.status,
                        unknown ? "Unknown request URL: " + request.method + " " + request.path + "." : "The request is malformed.", {},
                        unknown ? "unknown_url" : ""));
  });
  server.set_post_routing_handler([](const Request&, Response& response) {
    if (Connection::current() == nullptr || !Connection::current()->closing()) return;
    response.headers.erase("Keep-Alive");
    response.headers.erase("Connection");
    response.set_header("Connection", "close");
  });
  server.set_logger([&](const Request& request, const Response& response) {
    if (service.log_requests) log_request(request, response);
    constexpr std::array known{
        "/v1/completions", "/v1/chat/completions", "/v1/models", "/tokenize", "/detokenize", "/health", "/metrics", "/"};
    const bool is_known = std::find(known.begin(), known.end(), request.path) != known.end();
    service.metrics.count_response(is_known ? request.path : "other", response.status);
  });
}

}  // namespace serve::inline DSV3_ISA
