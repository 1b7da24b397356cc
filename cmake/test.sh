#!/bin/sh
# Builds and runs the tests: sh cmake/test.sh [preset [arguments of cmake]]
set -eu
. "$(dirname -- "$0")/setup.sh"
install_missing tests

preset=${1:-dev}
[ $# -eq 0 ] || shift
quietly cmake --preset "$preset" -S "$root" "$@"
cmake --build "$root/build/$preset"
ctest --test-dir "$root/build/$preset" --output-on-failure --no-tests=error --parallel "$(nproc)"
