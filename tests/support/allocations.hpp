// Counts what operator new is asked for. A test that includes this is linked with allocations.cpp.
#pragma once

namespace test {

/// Allocations of the whole program so far.
long allocations();

}  // namespace test
