// The page to chat with: the files of page/, which use the same API as everyone. page.cpp.in becomes page.cpp with their text.
#pragma once

#include <array>

#include "dsv3/core/isa.hpp"

namespace serve::inline DSV3_ISA {

struct PageFile {
  const char *path, *type, *text;
};
extern const std::array<PageFile, 4> page_files;

}  // namespace serve::inline DSV3_ISA
