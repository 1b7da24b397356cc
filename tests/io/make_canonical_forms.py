"""Writes include/dsv3/io/canonical_forms.hpp from Python's copy of the Unicode Character Database.

usage: make_canonical_forms.py > include/dsv3/io/canonical_forms.hpp   (then clang-format)
"""

import sys
import unicodedata as ucd

pairs, singles, classes = [], [], []
for code in range(0x110000):
    char = chr(code)
    if 0xD800 <= code < 0xE000 or 0xAC00 <= code < 0xD7A4:  # surrogates, and Hangul syllables, which are computed
        continue
    mapping = ucd.decomposition(char)
    if mapping and not mapping.startswith("<"):
        parts = [int(part, 16) for part in mapping.split()]
        if len(parts) == 1:
            singles.append((code, parts[0]))
        else:
            composes = ucd.normalize("NFC", "".join(map(chr, parts))) == char
            pairs.append((code, parts[0], parts[1] if composes else -parts[1]))
    rank = ucd.combining(char)
    if rank and classes and classes[-1][0] + classes[-1][1] == code and classes[-1][2] == rank:
        classes[-1][1] += 1
    elif rank:
        classes.append([code, 1, rank])


def table(name, rows):
    """Each row's first number is written as its difference to that of the row before."""
    numbers, last = [], 0
    for row in rows:
        numbers += [row[0] - last, *row[1:]]
        last = row[0]
    lines, line = [], ""
    for number in numbers:
        if len(line) + len(str(number)) + 1 > 135:
            lines.append("    " + line)
            line = ""
        line += f"{number},"
    lines.append("    " + line[:-1])
    return f"inline constexpr std::int32_t {name}[] = {{  // {len(rows)} rows\n" + "\n".join(lines) + "\n};\n"


sys.stdout.write(f"""\
// Floor 6. Canonical decompositions and combining classes of Unicode {ucd.unidata_version}, for normal_form.hpp. Written by
// tests/io/make_canonical_forms.py.
//
// Derived from the Unicode Character Database, Copyright Unicode, Inc., under the Unicode License (https://www.unicode.org/license.txt).
// In every row the first number is a code point, less the one in the row before. Hangul syllables are not here: they are computed.
#pragma once

#include <cstdint>

#include "dsv3/core/isa.hpp"

namespace dsv3::inline DSV3_ISA::io::detail {{

// clang-format off

/// Code point, first and second part. A negative second part is never composed again.
{table("canonical_pairs", pairs)}
/// Code point, and the one that it stands for.
{table("canonical_singles", singles)}
/// First of a range of code points, how many they are, and their combining class.
{table("combining_classes", classes)}
// clang-format on

}}  // namespace dsv3::inline DSV3_ISA::io::detail
""")
