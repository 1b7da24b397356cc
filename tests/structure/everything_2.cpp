// Links with everything_1.cpp, which includes the same headers.
#include "all_headers.hpp"

int everything_2();

int everything_2() { return 0; }
