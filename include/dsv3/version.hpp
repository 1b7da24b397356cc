// The library's version, for the preprocessor and for CMake, which reads it from here.
#pragma once

#define DSV3_VERSION_MAJOR 0
#define DSV3_VERSION_MINOR 1
#define DSV3_VERSION_PATCH 0
