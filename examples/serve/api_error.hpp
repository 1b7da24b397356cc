// Errors as OpenAI's API tells them: a status and {"error": {"message", "type", "param", "code"}}.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>

#include "dsv3/core/isa.hpp"

namespace serve::inline DSV3_ISA {

using Json = nlohmann::json;

struct ApiError : std::runtime_error {
  /// `param`: the field at fault; empty if it is none.
  ApiError(int http_status, const std::string& message, std::string field = {}, std::string error_code = {})
      : std::runtime_error(message), status(http_status), param(std::move(field)), code(std::move(error_code)) {}

  const char* type() const {
    if (status == 401) return "authentication_error";
    if (status == 429) return "rate_limit_error";
    return status >= 500 ? "server_error" : "invalid_request_error";
  }

  Json json() const {
    const auto or_null = [](const std::string& s) { return s.empty() ? Json() : Json(s); };
    return {{"error", {{"message", what()}, {"type", type()}, {"param", or_null(param)}, {"code", or_null(code)}}}};
  }

  int status;
  std::string param, code;
};

/// Text of a response; invalid UTF-8, which no part of it should hold, is replaced rather than thrown about.
inline std::string text_of(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

}  // namespace serve::inline DSV3_ISA
