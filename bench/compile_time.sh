#!/bin/sh
# Compile times of dsv3, as Markdown on stdout: sh bench/compile_time.sh
#
# Processor time, so that other work on the machine matters little: the minimum of RUNS (1) runs. CXX and CXXFLAGS choose compiler and flags.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
compiler=${CXX:-c++}
flags=${CXXFLAGS:--O2}
includes="-I$root/include $(pkg-config --cflags eigen3 xsimd nlohmann_json libpcre2-8)"

# Processor seconds of a command.
seconds() {
  (
    "$@" >&2
    times
  ) | tail -n 1 | awk '{ for (i = 1; i <= 2; ++i) { split($i, t, /[ms]/); sum += 60 * t[1] + t[2] } print sum }'
}

least() {
  for run in $(seq "${RUNS:-1}"); do seconds "$@"; done | sort -n | head -n 1
}

# parse HEADER: a row with the time to parse it alone.
parse() {
  echo "#include \"$1\"" >"$work/header.cpp"
  printf '| %s | %.2f |\n' "$1" "$(least "$compiler" -std=c++20 $flags -fopenmp $includes -fsyntax-only "$work/header.cpp")"
}

# program NAME FILE: a row with the time to compile it and the size of the object file.
program() {
  time=$(least "$compiler" -std=c++20 $flags -fopenmp $includes -c "$2" -o "$work/object.o")
  printf '| %s | %.2f | %d |\n' "$1" "$time" "$(($(wc -c <"$work/object.o") / 1000))"
}

example=$root/examples/01_load_and_generate.cpp
sed '/io\/load.hpp/d; s|dsv3/dsv3.hpp|dsv3/precompiled.hpp|' "$example" >"$work/precompiled.cpp"

echo "$("$compiler" --version | head -n 1), $flags"
echo
echo "| program | compiling, s | object, kB |"
echo "| --- | --- | --- |"
program "one kernel (tests/consume/project/kernel.cpp)" "$root/tests/consume/project/kernel.cpp"
program "a whole model and its tokenizer (examples/01)" "$example"
program "the same with dsv3::precompiled" "$work/precompiled.cpp"
echo
echo "| header, parsed alone | s |"
echo "| --- | --- |"
parse dsv3/dsv3.hpp
(cd "$root/include" && find dsv3 -name '*.hpp' ! -name dsv3.hpp | sort) | while read -r header; do parse "$header"; done
