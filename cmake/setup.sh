# Sourced by demo.sh, test.sh and bench/report.sh: finds the source tree ($root) and installs what building it needs. On Debian it works
# with sh and apt alone. If nothing is missing, it needs neither root nor network.

fail() {
  echo "dsv3: $*" >&2
  exit 1
}

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd) || exit 1
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT

# Runs a command, shows what it printed only if it fails.
quietly() {
  "$@" >"$log" 2>&1 </dev/null || {
    cat "$log" >&2
    fail "failed: $*"
  }
}

compiles() {
  echo "$1" | ${CXX:-c++} -std=c++20 -fsyntax-only -x c++ - 2>/dev/null
}

# Prints the Debian packages that provide what is missing. With "tests", "bench" or "train", looks for what these need too.
missing() {
  compiles '#include <concepts>' || echo g++
  command -v cmake >/dev/null || echo cmake
  command -v ninja >/dev/null || echo ninja-build
  if command -v pkg-config >/dev/null; then
    pkg-config --exists eigen3 || echo libeigen3-dev
    pkg-config --exists xsimd || echo libxsimd-dev
    pkg-config --exists nlohmann_json || echo nlohmann-json3-dev
    pkg-config --exists libpcre2-8 || echo libpcre2-dev
    pkg-config --exists cpp-httplib || echo libcpp-httplib-dev
    pkg-config --exists libedit || echo libedit-dev
  else
    echo pkg-config libeigen3-dev libxsimd-dev nlohmann-json3-dev libpcre2-dev libcpp-httplib-dev libedit-dev
  fi
  if [ "$1" = tests ]; then
    compiles '#include <doctest/doctest.h>' || echo doctest-dev
    command -v xz >/dev/null || echo xz-utils
    command -v python3 >/dev/null || echo python3
  fi
  if [ "$1" = train ]; then
    command -v bible >/dev/null || echo bible-kjv
  fi
  if [ "$1" = bench ]; then
    compiles '#include <benchmark/benchmark.h>' || echo libbenchmark-dev
    compiles '#include <oneapi/dnnl/dnnl.hpp>' || echo libdnnl-dev
    command -v python3 >/dev/null || echo python3
  fi
}

# install_missing [tests | bench | train]
install_missing() {
  packages=$(missing "${1:-}" | tr '\n' ' ')
  [ -n "$packages" ] || return 0
  command -v apt-get >/dev/null || fail "missing: $packages(these are Debian's names, and there is no apt-get here to install them)"
  as_root=
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "missing: $packages- run this as root, or as root: apt-get install $packages"
    as_root=sudo
  fi
  echo "dsv3: installing $packages" >&2
  $as_root true || fail "sudo was refused; as root: apt-get install $packages"
  quietly $as_root apt-get -qq update
  quietly $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $packages
  packages=$(missing "${1:-}" | tr '\n' ' ')
  [ -z "$packages" ] || fail "still missing after installation: $packages"
}
