#!/bin/sh
# Tests of core, simd, quant, kernels, modules and golden for 64-bit ARM, cross-compiled and run under QEMU; with arguments only those named:
# sh .ci/aarch64.sh quant. Debian's packages: g++-aarch64-linux-gnu, qemu-user. Not part of .ci/run, in which there is no time for it.
set -eu
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- core quant kernels modules golden
cmake -S . -B build/aarch64 -G Ninja -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64.cmake "-Dxsimd_DIR=/usr/lib/$(gcc -print-multiarch)/cmake/xsimd" \
  -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE=-O1 -DDSV3_WITH_IO=OFF -DDSV3_BUILD_EXAMPLES=OFF \
  "-DDSV3_SKIP_TESTS=structure;compile_fail;consume;docs;cli;serve;generate;train;io;variants" >/dev/null
targets=$(printf 'test_%s ' "$@")
cmake --build build/aarch64 --target $targets
ctest --test-dir build/aarch64 --output-on-failure --no-tests=error -R "^($(echo "$@" | tr ' ' '|'))\$"
