"""Small tokenizers with every supported feature, random texts, and the ids that Hugging Face's tokenizers and tiktoken give for them.

usage: make_vectors.py [TEXTS [SEED]] > features.json   (needs pip install tokenizers tiktoken)

All tokenizers share one model, trained here on random texts cut nowhere, so that merges reach across whatever a splitter must cut.
"""

import base64
import json
import random
import sys

import tiktoken
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CHARACTERS = [
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "aeinorst",
    "ÀÉÎÕÜßàéîõüñçøÅåŁłĐđſK",
    "\u0300\u0301\u0302\u0303\u0308\u030a\u0316\u0323\u0327\u0328\u0345\u093c",
    "ἀἁᾳῶώΑΒΓαβγДЖИйжиё",
    "的一是不了人我在有他这中大来上国〇々㐀𠀀\uf900\ufa1e\U0002f800",
    "あいうかがきぎぱアイウカガパー、。「」",
    "한국어각힣가\u1100\u1161\u11a8\u1112\u1173",
    "אבגשׁאَبتثकखगज़",
    "0123456789",
    "٠١٢३४५Ⅷⅻ²³½①⑴",
    " ",
    "  \t\n\r\n\u00a0\u0085\u2003\u3000\u2028\u200b\u180e\v\f",
    ".,;:!?'\"()[]{}<>|/\\@#$%^&*-_=+~`",
    "😀🎉👩\u200d👧❤\ufe0f🇩🇪€£→∑✓…—“”",
    "ǅǈᾈʰˀªºⓐⒶ🅰\u203f",
]
PHRASES = ["'s", "'T", "'re", "'LL", "'ve", "don't", "HTTPServer", "camelCase", "caf\u0065\u0301", "  \n", "\r\n\r\n", " the", "ﬁﬀ", "ſt", "1,234.5"]


def random_text(rng, controls):
    parts = []
    for _ in range(rng.randint(0, 14)):
        kind = rng.random()
        if kind < 0.12:
            parts.append(rng.choice(PHRASES))
        elif kind < 0.35 and controls:
            parts.append(rng.choice(controls))
            parts.append(rng.choice(["", "", " ", "  ", "\n", "x", "\u3000", "é", "_", ".", "9"]))
        else:
            parts.append("".join(rng.choices(rng.choice(CHARACTERS), k=rng.randint(1, 6))))
    return "".join(parts)


def train():
    rng = random.Random(20)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(vocab_size=640, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    words = ["".join(rng.choices(rng.choice(CHARACTERS), k=3)) for _ in range(150)] + PHRASES
    tokenizer.train_from_iterator(("".join(rng.choices(words, k=12)) for _ in range(3000)), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return {"type": "BPE", "vocab": model["vocab"], "merges": [" ".join(m) if isinstance(m, list) else m for m in model["merges"]]}


def byte_level(prefix=False, regex=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def steps(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


def added(*tokens):
    out = []
    for i, (content, flags) in enumerate(tokens):
        token = {"id": 640 + i, "content": content, "single_word": "w" in flags, "lstrip": "l" in flags, "rstrip": "r" in flags}
        out.append(token | {"normalized": "n" in flags, "special": "s" in flags})
    return out


def replace(pattern, content, kind="String"):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


MOONSHOT = "|".join([
    r"[\p{Han}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
    r"\s+",
])
POSSESSIVE = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
CLASSES = [
    r"[\p{L}&&[^\p{Greek}\p{Cyrillic}]&&[^a-f]]+",
    r"[^\p{L}&&[^\p{Han}]]+",
    r"[a-z[0-9][^\S\p{Hiragana}]]{2,3}",
    r"[^[\p{Lu}[0-4]]\s]+?\p{Ll}",
    r"(?<=[\p{L}&&[^aeiou]])[\S&&[^\p{P}]]",
    r"[\p{Script_Name}]".replace("Script_Name", "Hangul") + r"|\P{Katakana}{3}",
]
PLAIN = added(("<|a|>", "s"), ("<|b|>", "s"), ("<|a|><|b|>", ""), ("|>", ""))
FLAGS = added(("<|l|>", "ls"), ("<|r|>", "r"), ("<|lr|>", "lr"), ("<|w|>", "w"), ("ab", "w"), ("qz", "wln"), ("é★", "n"), ("<|n|>", "nr"), ("|>", "lr"),
              ("\u3000", ""), ("  ", "r"))
SHORT = added(("<|l|>", "ls"), ("｜é｜", "n"), ("e\u0323\u0302", "n"), ("e\u0301", ""))


def variants():
    """Name, normalizer, pre-tokenizer, decoder, added tokens."""
    plain = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    strip = {"type": "Sequence", "decoders": [plain, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    other = {"type": "Sequence", "decoders": [plain, {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                                              {"type": "Strip", "content": " ", "start": 3, "stop": 0}]}
    normalizers = [{"type": "NFD"}, replace(" ", "▁"), {"type": "Sequence", "normalizers": [replace("\\s+", "▁", "Regex")]},
                   {"type": "Strip", "strip_left": True, "strip_right": False}, {"type": "Prepend", "prepend": "▁"}]
    yield "moonshot", None, steps(split(MOONSHOT), byte_level()), plain, PLAIN
    yield "possessive", None, steps(split(POSSESSIVE), byte_level()), plain, PLAIN
    yield "NFC", {"type": "NFC"}, byte_level(regex=True), plain, SHORT
    yield "NFD", {"type": "Sequence", "normalizers": [{"type": "NFD"}]}, byte_level(), plain, SHORT
    yield "normalizers", {"type": "Sequence", "normalizers": normalizers}, byte_level(), other, PLAIN
    yield "strip", {"type": "Strip", "strip_left": False, "strip_right": True}, byte_level(), plain, FLAGS
    yield "prefix", None, byte_level(True, True), strip, PLAIN
    yield "prefix pieces", None, steps(split(r"\p{N}+|[aeiou]"), byte_level(True, True)), plain, FLAGS
    yield "flags", {"type": "NFC"}, byte_level(), plain, FLAGS
    yield "digits", None, steps({"type": "Digits", "individual_digits": False}, byte_level(True, False)), plain, FLAGS
    patterns = [r"\s+", r"[aeiou]|\d*", r"(?=\p{Lu})|$", r"\p{L}"]
    for i, behavior in enumerate(["Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous", "Isolated"]):
        for invert in (False, True):
            pattern = patterns[(i + invert) % 4]
            yield f"{behavior} {invert}", None, steps(split(pattern, behavior, invert), byte_level()), plain, []
    yield "literal", None, steps(split(" ", "MergedWithNext", False, "String"), byte_level()), plain, []
    for i, pattern in enumerate(CLASSES):
        yield f"class {i}", None, steps(split(pattern, "Isolated"), byte_level()), plain, []


def normalized(tokenizer, text):
    return tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text


def tokenizer_json(model, normalizer, pre_tokenizer, decoder, tokens):
    return {"version": "1.0", "added_tokens": tokens, "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "decoder": decoder,
            "post_processor": None, "model": model}


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 24
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    model = train()
    out = {"model": model, "variants": []}
    for number, (name, *parts) in enumerate(variants()):
        tokenizer = Tokenizer.from_str(json.dumps(tokenizer_json(model, *parts)))
        rng = random.Random(1000 * seed + number)
        cases = []
        for _ in range(count):
            text = random_text(rng, [token["content"] for token in parts[3]])
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            # What an added token decodes to that the normalizer would change differs by version: its content in 0.21, changed in 0.23.
            changed = any(t["normalized"] and normalized(tokenizer, t["content"]) != t["content"] and t["id"] in ids for t in parts[3])
            cases.append([text, ids, None if changed else tokenizer.decode(ids, skip_special_tokens=False)])
        out["variants"].append({"name": name, **dict(zip(["normalizer", "pre_tokenizer", "decoder", "added_tokens"], parts)), "cases": cases})

    to_byte = {char: byte for byte, char in byte_characters().items()}
    tokens = [bytes(to_byte[c] for c in token) for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    names = {640: "[BOS]", 641: "[EOS]", 642: "<|im_end|>", 895: "[PAD]"}
    specials = {names.get(i, f"<|reserved_token_{i}|>"): i for i in range(640, 896)}
    encoding = tiktoken.Encoding("small", pat_str=MOONSHOT, mergeable_ranks={t: i for i, t in enumerate(tokens)}, special_tokens=specials)
    rng = random.Random(1000 * seed - 1)
    cases = []
    for _ in range(4 * count):
        text = random_text(rng, ["[BOS]", "<|im_end|>", "<|reserved_token_650|>", "<|reserved_token_1|>"])
        cases.append([text, encoding.encode(text, allowed_special="all"), encoding.encode(text, disallowed_special=())])
    out["tiktoken"] = {"model": [base64.b64encode(t).decode() for t in tokens], "cases": cases, "added_tokens_decoder": {
        str(i): {"content": name, "special": True} for i, name in names.items()}}
    json.dump(out, sys.stdout, ensure_ascii=False, separators=(",", ":"))


def byte_characters():
    """GPT-2's table of printable characters for bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        if byte not in table:
            table[byte] = chr(256 + len(table) - len(printable))
    return table


if __name__ == "__main__":
    main()
