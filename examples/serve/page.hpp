// The page to chat with, served at /: HTML and JavaScript without a build step, on the same API as everyone.
#pragma once

#include "dsv3/core/isa.hpp"

namespace serve::inline DSV3_ISA {

extern const char* const page;

}  // namespace serve::inline DSV3_ISA
