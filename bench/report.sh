#!/bin/sh
# Builds the benchmarks for this machine, runs them (about ten minutes; nothing else should run), writes the page of its kind of processor
# under docs/performance, and updates the list of pages, docs/performance.md: sh bench/report.sh. An argument runs one part only: build,
# kernels, models, curves, training, serving, write.
# DSV3_REPORT_BUILD: the build folder (build/report).
set -eu
. "$(dirname -- "$0")/../cmake/setup.sh"
build=${DSV3_REPORT_BUILD:-$root/build/report}
results=$build/results

# configure FOLDER ARGUMENT...
configure() {
  folder=$1
  shift
  quietly cmake -S "$root" -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE='-O3 -DNDEBUG' \
    -DDSV3_BUILD_TESTS=OFF -DDSV3_BUILD_BENCHMARKS=ON "$@"
}

build() {
  install_missing bench
  configure "$build" -DDSV3_NATIVE=ON
  quietly cmake --build "$build" --target dsv3-bench dsv3-bench-kernels dsv3-bench-onednn dsv3-bench-training dsv3-bench-serve dsv3-serve
  if grep -qw avx2 /proc/cpuinfo; then
    configure "$build/avx2" -DCMAKE_CXX_FLAGS=-march=x86-64-v3
    quietly cmake --build "$build/avx2" --target dsv3-bench-kernels
  fi
}

# model NAME ARGUMENT...: one run of dsv3-bench. A run that does not fit into memory fails, and the report leaves it out.
model() {
  name=$1
  shift
  case $wanted in
    "  " | *" $name "*) ;;
    *) return 0 ;;
  esac
  echo "dsv3-bench $*" | tee "$results/$name.txt" >&2
  "$build/bin/dsv3-bench" "$@" --json "$results/$name.json" >>"$results/$name.txt" || {
    rm -f "$results/$name.json"
    echo "dsv3: left out: $name" >&2
  }
}

kernels() {
  mkdir -p "$results"
  {
    lscpu
    grep MemTotal /proc/meminfo
    echo "Compiler: $(${CXX:-c++} --version | head -n 1)"
    echo "Date: $(date -u +%Y-%m-%d)"
  } >"$results/machine.txt"
  echo "kernels" >&2
  quietly "$build/bin/dsv3-bench-kernels" --benchmark_out="$results/kernels.json"
  "$build/bin/dsv3-bench-onednn" --json "$results/onednn.json" >&2 || fail "dsv3-bench-onednn failed"
  rm -f "$results/avx2.json"
  if [ -x "$build/avx2/bin/dsv3-bench-kernels" ]; then
    quietly "$build/avx2/bin/dsv3-bench-kernels" --benchmark_filter='^decode_product|^experts' --benchmark_out="$results/avx2.json"
  fi
}

# models [NAME...]: all of them, or those named.
models() {
  mkdir -p "$results"
  wanted=" $* "
  model moonlight --preset moonlight-16b --prompt 512 --decode 64 --compare
  model v3_moe --preset deepseek-v3 --layers 1 --prompt 0 --decode 48
  model v3 --preset deepseek-v3 --layers 4 --prompt 512 --decode 24
  model bf16 --preset moonlight-16b --layers 6 --storage bf16 --prompt 512 --decode 24
}

# How throughput grows with the number of sequences decoded together, and with the length of a prompt.
curves() {
  mkdir -p "$results"
  wanted="  "
  for n in 1 2 4 8 16 17 32 64 128; do
    model "batch_$n" --preset moonlight-16b --layers 6 --prompt 0 --decode 8 --batch $n
  done
  for n in 16 17 32 64 128 256 512 1024; do
    model "prompt_$n" --preset moonlight-16b --layers 6 --prompt $n --decode 1
  done
  model exact --preset moonlight-16b --layers 6 --prompt 512 --decode 16 --compute exact
}

training() {
  mkdir -p "$results"
  for threads in 1 2; do
    for compute in exact bf16 fp8; do
      "$build/bin/dsv3-bench-training" --case small --compute $compute --threads $threads --steps 8 --json "$results/training_small_${compute}_$threads.json" >&2
    done
  done
  for compute in exact bf16 fp8; do
    "$build/bin/dsv3-bench-training" --case moonlight --compute $compute --threads 2 --steps 3 --json "$results/training_moonlight_$compute.json" >&2 ||
      echo "dsv3: left out: training_moonlight_$compute" >&2
  done
}

# Throughput of dsv3-serve with the embedded model, for 1 to 32 clients.
serving() {
  mkdir -p "$results"
  "$build/bin/dsv3-serve" "$root/examples/models/shakespeare" --port 0 >"$results/serve.txt" 2>&1 &
  server=$!
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    grep -q '^serving' "$results/serve.txt" && break
    sleep 1
  done
  port=$(sed -n 's|^serving .*:\([0-9]*\)$|\1|p' "$results/serve.txt")
  "$build/bin/dsv3-bench-serve" --port "$port" --json "$results/serve.json" >&2 || fail "dsv3-bench-serve failed"
  kill "$server"
  wait "$server" || fail "dsv3-serve failed: $(cat "$results/serve.txt")"
}

write() {
  python3 -B "$root/bench/report.py" "$results" "$root/docs"
}

part=${1:-all}
[ $# -eq 0 ] || shift
case $part in
  build | kernels | models | curves | training | serving | write) "$part" "$@" ;;
  all)
    build
    kernels
    models
    curves
    training
    serving
    write
    ;;
  *) fail "usage: sh bench/report.sh [build | kernels | models [NAME...] | curves | training | serving | write]" ;;
esac
