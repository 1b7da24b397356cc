#include "access.hpp"

#include <algorithm>
#include <cctype>

namespace serve::inline DSV3_ISA {
namespace {

using httplib::Request;
using httplib::Response;

/// Whether they are equal, in a time that does not depend on where they differ.
bool same_secret(const std::string& a, const std::string& b) {
  unsigned difference = a.size() != b.size();
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    difference |= static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i]);
  return difference == 0;
}

std::string lower_case(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

/// Throws: ApiError with status 400 or 411 if the request does not say, in one way, where it ends.
void check_length(const Request& request) {
  const auto malformed = [](const std::string& what) { throw ApiError(400, "The request is malformed: " + what, {}, "malformed_request"); };
  const auto lengths = request.get_header_value_count("Content-Length"), codings = request.get_header_value_count("Transfer-Encoding");
  if (lengths > 1) malformed("Content-Length is given " + std::to_string(lengths) + " times.");
  if (lengths > 0 && codings > 0) malformed("both Content-Length and Transfer-Encoding are given.");
  if (codings > 1 || (codings == 1 && lower_case(request.get_header_value("Transfer-Encoding")) != "chunked"))
    malformed("Transfer-Encoding: expected 'chunked'.");
  const std::string length = request.get_header_value("Content-Length");
  if (lengths > 0 && (length.empty() || length.find_first_not_of("0123456789") != length.npos))
    malformed("Content-Length: expected digits.");
  if (request.method == "POST" && lengths + codings == 0) throw ApiError(411, "A POST needs Content-Length.", {}, "length_required");
  if (request.method != "POST" && (codings > 0 || length.find_first_not_of('0') != length.npos))
    malformed(request.method + " has no body here.");
}

/// Headers that let a page of `origin` read the answer; none if it may not.
void allow_origin(const Service& service, const Request& request, Response& response) {
  const auto& origins = service.allowed_origins;
  if (origins.empty()) return;
  response.set_header("Vary", "Origin");
  const std::string origin = request.get_header_value("Origin");
  const bool any = std::find(origins.begin(), origins.end(), "*") != origins.end();
  if (origin.empty() || (!any && std::find(origins.begin(), origins.end(), origin) == origins.end())) return;
  response.set_header("Access-Control-Allow-Origin", any ? "*" : origin);
  if (request.method != "OPTIONS" || !request.has_header("Access-Control-Request-Method")) return;
  response.set_header("Access-Control-Allow-Methods", "GET, HEAD, POST, OPTIONS");
  const std::string wanted = request.get_header_value("Access-Control-Request-Headers");
  response.set_header("Access-Control-Allow-Headers", wanted.empty() ? "Authorization, Content-Type" : wanted);
  response.set_header("Access-Control-Max-Age", "86400");
}

}  // namespace

void send_json(Response& response, int status, const Json& json) {
  response.status = status;
  response.set_content(text_of(json), "application/json");
}

void send_error(Response& response, const ApiError& error) {
  if (error.status == 429 || error.status == 503) response.set_header("Retry-After", "1");
  if (error.status == 401) response.set_header("WWW-Authenticate", "Bearer");
  send_json(response, error.status, error.json());
}

void check_key(const Service& service, const Request& request) {
  if (service.api_keys.empty()) return;
  const std::string given = request.get_header_value("Authorization");
  bool known = false;
  if (const auto space = given.find(' '); space != given.npos && lower_case(given.substr(0, space)) == "bearer")
    for (const std::string& key : service.api_keys) known |= same_secret(given.substr(space + 1), key);
  if (!known) throw ApiError(401, "Incorrect API key provided.", {}, "invalid_api_key");
}

void guard(Server& server, const Service& service) {
  server.set_pre_routing_handler([&service](const Request& request, Response& response) {
    try {
      check_length(request);
    } catch (const ApiError& e) {
      if (Connection::current() != nullptr) Connection::current()->close_after_answer();
      send_error(response, e);
      return httplib::Server::HandlerResponse::Handled;
    }
    allow_origin(service, request, response);
    if (request.method != "OPTIONS") return httplib::Server::HandlerResponse::Unhandled;
    response.status = 204;
    response.set_header("Allow", "GET, HEAD, POST, OPTIONS");
    return httplib::Server::HandlerResponse::Handled;
  });
}

}  // namespace serve::inline DSV3_ISA
