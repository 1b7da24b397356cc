// The HTTP side: routes, bodies, streams, errors.
#pragma once

#include "connection.hpp"
#include "dsv3/core/isa.hpp"
#include "service.hpp"

namespace serve::inline DSV3_ISA {

/// Adds all routes; `service` must outlive the server.
void add_routes(Server& server, Service& service);

}  // namespace serve::inline DSV3_ISA
