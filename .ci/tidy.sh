#!/bin/sh
# clang-tidy 14 on all headers, in two translation units of about equal length; the checks are those of .clang-tidy.
set -eu
cd "$(dirname "$0")/.."
mkdir -p build/tidy
headers() { (cd include && find dsv3 -name '*.hpp' ! -name precompiled.hpp ! -name openmp.hpp | sort); }
headers | grep -E '^dsv3/(io|train)/' | sed 's/.*/#include "&"/' >build/tidy/optional.cpp
headers | grep -vE '^dsv3/(io|train)/' | sed 's/.*/#include "&"/' >build/tidy/inference.cpp
printf '%s\n' optional inference | xargs -P "$(nproc)" -I{} \
  clang-tidy-14 --quiet --config-file=.clang-tidy "build/tidy/{}.cpp" -- -std=c++20 -Iinclude -isystem /usr/include/eigen3
