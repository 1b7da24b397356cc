// Links with everything_2.cpp, which includes the same headers.
#include "all_headers.hpp"

int everything_2();

int main() { return everything_2(); }
