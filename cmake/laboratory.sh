#!/bin/sh
# Runs every experiment of docs/laboratory.md: sh cmake/laboratory.sh [arguments of dsv3-numerics instead of "all"]
set -eu
. "$(dirname -- "$0")/setup.sh"
install_missing

echo "dsv3: building dsv3-numerics in build/native" >&2
quietly cmake --preset native -S "$root" -DDSV3_BUILD_TESTS=OFF
quietly cmake --build "$root/build/native" --target dsv3-numerics

[ $# -gt 0 ] || set -- all
"$root/build/native/bin/dsv3-numerics" "$@" --out "$root/build/laboratory"
echo "dsv3: tables and plots are in build/laboratory" >&2
