#!/bin/sh
# Prints how many lines of include/ the tests run, a folder a line: sh cmake/coverage.sh [test...], for example sh cmake/coverage.sh quant core.
# Without names, all tests that need no program. Of a template the lines count that one test instantiates.
set -eu
. "$(dirname -- "$0")/setup.sh"
install_missing tests

build=$root/build/coverage
quietly cmake --preset asan -S "$root" -B "$build" "-DCMAKE_CXX_FLAGS_RELEASE=-O0 --coverage"
find "$build" -name '*.gcda' -delete
if [ $# -gt 0 ]; then
  cmake --build "$build" --target $(printf 'test_%s ' "$@")
  ctest --test-dir "$build" --output-on-failure --no-tests=error -R "^($(echo "$@" | tr ' ' '|'))\$"
else
  cmake --build "$build"
  ctest --test-dir "$build" --output-on-failure --no-tests=error
fi
# gcov writes one report an object; a line is run if it is in any of them.
find "$build" -name '*.gcda' | xargs gcov --stdout --json-format 2>/dev/null | python3 -c '
import collections, json, sys
include = sys.argv[1] + "/include/dsv3/"
lines = collections.defaultdict(bool)
for report in sys.stdin:
    for file in json.loads(report)["files"]:
        if file["file"].startswith(include):
            for line in file["lines"]:
                lines[file["file"][len(include):], line["line_number"]] |= line["count"] > 0
folders = collections.defaultdict(list)
for (file, _), run in lines.items():
    for folder in (file.split("/")[0], "in all"):
        folders[folder].append(run)
for folder, runs in sorted(folders.items(), key=lambda f: (f[0] == "in all", f[0])):
    print(f"{folder:10} {sum(runs):6} of {len(runs):6} lines  {100 * sum(runs) / len(runs):5.1f}%")
' "$root"
