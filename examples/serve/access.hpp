// Who may ask, and which requests are read at all.
#pragma once

#include "api_error.hpp"
#include "connection.hpp"
#include "dsv3/core/isa.hpp"
#include "service.hpp"

namespace serve::inline DSV3_ISA {

void send_json(httplib::Response& response, int status, const Json& json);
void send_error(httplib::Response& response, const ApiError& error);

/// Throws: ApiError with status 401 if the server has keys and the request has none of them.
void check_key(const Service& service, const httplib::Request& request);

/// Answers, before any route is looked for, what browsers ask of servers of another origin (CORS) and OPTIONS, and refuses requests whose
/// end is not certain. Their connections end: behind a proxy, what follows might be taken for the next client's request.
void guard(Server& server, const Service& service);

}  // namespace serve::inline DSV3_ISA
