#!/usr/bin/env python3
"""Prints one header with all of ours that it needs: python3 cmake/single_header.py dsv3/kernels/attention.hpp > attention_single.hpp

Eigen, xsimd and the standard library stay includes. Every file stands in the place of its first include, behind a guard, so that single files of
several headers can be included in one program as long as they are of one version.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = ROOT / "include"


def inline(name, done, out):
    """Appends header `name`. A file that is included under a condition is inlined there, and again where it is included without one."""
    path = INCLUDE / name
    if not path.is_file():
        sys.exit(f"single_header.py: {name}: no such header below {INCLUDE}")
    guard = "DSV3_SINGLE_" + re.sub(r"\W", "_", name.removeprefix("dsv3/").removesuffix(".hpp")).upper()
    out += [f"#ifndef {guard}", f"#define {guard}", f"// {name}"]
    depth = 0
    for line in path.read_text().splitlines():
        if re.match(r"\s*#\s*if", line):
            depth += 1
        elif re.match(r"\s*#\s*endif", line):
            depth -= 1
        included = re.match(r'\s*#\s*include "(dsv3/[^"]+)"', line)
        if included and depth == 0 and included[1] not in done:
            done.add(included[1])
            inline(included[1], done, out)
        elif included and depth > 0 and included[1] not in done:
            inline(included[1], set(done), out)
        elif not included and line.strip() != "#pragma once":
            out.append(line)
    out.append(f"#endif  // {guard}")


def main():
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit("usage: python3 cmake/single_header.py dsv3/HEADER.hpp > FILE")
    out = [f"// {sys.argv[1]} of dsv3 in one file, made by cmake/single_header.py. It needs Eigen and xsimd.", "//"]
    out += ["// " + line if line else "//" for line in (ROOT / "LICENSE").read_text().splitlines()]
    out.append("#pragma once")
    inline(sys.argv[1], {sys.argv[1]}, out)
    print("\n".join(out))


main()
