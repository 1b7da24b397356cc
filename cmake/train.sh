#!/bin/sh
# Trains a small DeepSeek-V3 with multi-token prediction from nothing, on a public-domain text, and lets it write:
# sh cmake/train.sh [arguments of dsv3-train]
set -eu
. "$(dirname -- "$0")/setup.sh"
install_missing train

echo "dsv3: building dsv3-train in build/native" >&2
quietly cmake --preset native -S "$root" -DDSV3_BUILD_TESTS=OFF
quietly cmake --build "$root/build/native" --target dsv3-train dsv3-generate

out=$root/build/train
mkdir -p "$out"
# A verse a line; books in order, the last one is not learned.
bible -f gen1:1-jude1:25 </dev/null | sed 's/^[^ ]* //' >"$out/text.txt"
bible -f rev1:1-22:21 </dev/null | sed 's/^[^ ]* //' >"$out/valid.txt"
[ -s "$out/text.txt" ] || fail "the program bible gave no text"

rm -rf "$out/run"
"$root/build/native/bin/dsv3-train" "$root/examples/models/small.json" --tokenizer "$root/examples/models/shakespeare/tokenizer.json" \
  --data "$out/text.txt" --valid "$out/valid.txt" --out "$out/run" --steps 600 --context 192 --lr 2e-3 --compute bf16 --save-as fp8 \
  --sample 'And it came to pass' "$@"
last=$(ls -d "$out"/run/step-* | tail -n 1)
echo "dsv3: the checkpoint is $last, its curves $out/run/index.html" >&2
"$root/build/native/bin/dsv3-generate" "$last" --prompt 'In the beginning' --max-new 120 --temperature 0.8 --seed 1
