#!/bin/sh
# Builds dsv3-generate for this machine and lets the embedded model write: sh cmake/demo.sh [arguments of dsv3-generate]
set -eu
. "$(dirname -- "$0")/setup.sh"
install_missing

echo "dsv3: building dsv3-generate in build/native" >&2
quietly cmake --preset native -S "$root" -DDSV3_BUILD_TESTS=OFF
quietly cmake --build "$root/build/native" --target dsv3-generate
[ $# -gt 0 ] || set -- --prompt 'ROMEO:
' --max-new 150 --temperature 0.8 --seed 2
"$root/build/native/bin/dsv3-generate" "$root/examples/models/shakespeare" "$@"
