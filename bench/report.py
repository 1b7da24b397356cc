"""Writes the page of this kind of processor, performance/KIND.md with KIND.svg, and performance.md, which lists the pages, from the figures
that bench/report.sh collected: report.py RESULTS DOCS."""

import json
import sys
from pathlib import Path

from roofline import svg

# ik_llama.cpp's prefill in tokens/s (August 2026, Q8_0, its best flags) and AMX peak in GFLOP/s, on the kind of machine that the targets were set on.
PEER_PREFILL, PEER_PEAK = 55, 5095
FLAGS = "avx2 fma f16c avx512f avx512bw avx512vl avx512vbmi avx512_vbmi2 avx512_vnni avx512_bf16 avx512_fp16 amx_tile amx_bf16 amx_int8".split()

results, docs = Path(sys.argv[1]), Path(sys.argv[2])


def load(name):
    file = results / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


def load_kernels(name):
    """{(name, arguments...): figures}"""
    found = load(name)
    parts = lambda b: tuple(p for p in b["run_name"].split("/") if ":" not in p and p != "manual_time")
    return {parts(b): b for b in found["benchmarks"]} if found else {}


def table(header, rows):
    return "\n".join("| " + " | ".join(r) + " |" for r in [header, ["---"] * len(header), *rows]) + "\n"


def percent(fraction):
    return f"{100 * fraction:.0f}%"


kernels, avx2, onednn = load_kernels("kernels"), load_kernels("avx2"), load("onednn")
RUNS = ("moonlight", "v3", "v3_moe", "bf16")
models = {name: m for name in RUNS if (m := load(name))}
missing = [name for name in RUNS if name not in models]
command = {name: (results / f"{name}.txt").read_text().splitlines()[0].removeprefix("dsv3-bench ") for name in models}
COMPARED = {"rows2_same": "two rows of one token", "rows2": "two rows of two tokens", "depth": "depth 4096"}
for name, m in models["moonlight"].get("compare", {}).items():
    models[name] = m
    command[name] = "in moonlight's process, " + COMPARED[name]
models = {name: models[name] for name in ["moonlight", *COMPARED, *RUNS[1:]] if name in models}
product = lambda rows, of=kernels: of[("decode_product_8192x8192", str(rows))]
base = models["moonlight"]
amx = base["peak"] == "AMX"


def read_units(m):
    """A step's time as the bytes that could have been read in it, so that runs of different minutes are comparable."""
    return m["decode_seconds_per_step"] * m["read_ceiling_gb_s"] * 1e9


def moe_layer(m):
    """Attention, router and experts of DeepSeek-V3's layer: bytes, seconds, fraction of the read ceiling, and that ceiling, from the breakdown of a
    model that has no other layer. The ceiling is at least the rate of the head's product, which streams its weights in the same steps."""
    fp8 = lambda n, k: n * k + 4 * -(-n // 128) * -(-k // 128)
    attention = fp8(1536, 7168) + fp8(24576, 1536) + fp8(576, 7168) + fp8(32768, 512) + fp8(7168, 16384)
    bytes_read = attention + 9 * (2 * fp8(2048, 7168) + fp8(7168, 2048)) + 2 * 256 * 7168
    time = sum(m["decode_breakdown"][part] for part in ("attention", "router", "feed-forward"))
    ceiling = max(m["read_ceiling_gb_s"] * 1e9, 2 * 129280 * 7168 / m["decode_breakdown"]["logits"])
    return bytes_read, time, bytes_read / time / ceiling, ceiling


def machine():
    facts = dict(line.split(":", 1) for line in (results / "machine.txt").read_text().splitlines() if ":" in line)
    facts = {k.strip(): v.strip() for k, v in facts.items()}
    flags = [f for f in FLAGS if f in facts["Flags"].split()]
    caches = ", ".join(f"{c} {facts[c + ' cache']}" for c in ("L1d", "L2", "L3") if c + " cache" in facts)
    virtual = f" (virtual: {facts['Hypervisor vendor']})" if "Hypervisor vendor" in facts else ""
    rows = [
        ["processor", facts["Model name"] + virtual + f", {facts['CPU(s)']} processors"],
        ["caches, as reported", caches],
        ["instruction sets", " ".join(flags)],
        ["memory", f"{int(facts['MemTotal'].split()[0]) / 2**20:.0f} GiB"],
        ["compiler", facts["Compiler"] + ", `-O3 -DNDEBUG -march=native`"],
        ["threads", str(base["threads"])],
        ["date", facts["Date"]],
        [f"read ceiling, {base['peak']} peak, FMA peak", f"{base['read_ceiling_gb_s']:.1f} GB/s, {base['peak_gflop_s']:,.0f} GFLOP/s, "
         f"{base['fma_peak_gflop_s']:,.0f} GFLOP/s (in the first model run)"],
    ]
    return table(["", ""], rows)


def targets():
    rows = []

    def row(work, figure, target, reached):
        rows.append([work, figure, target, "yes" if reached else "**no**"])

    def fraction(work, value, target):
        row(work, f"{100 * value:.1f}% of reading", f"{percent(target)}", value >= target)

    fraction("FP8 decode product, 8192 x 8192 from memory, 1 row", product(1)["fraction"], 0.85)
    fraction("Moonlight, FP8, decode at depth 0", base["decode_fraction_of_read"], 0.8)
    ratio = product(2)["median_us"] * product(2)["read_GB/s"] / (product(1)["median_us"] * product(1)["read_GB/s"])
    row("the same product, 2 rows against 1", f"{ratio:.2f} x the time", "1.15 x", ratio <= 1.15)
    for p in onednn["products"]:
        if p["rows"] == 512:
            target = 1.3 if amx else 0.95
            row(f"prefill product {p['rows']} x {p['n']} x {p['k']} against oneDNN's in bf16", f"{p['ratio']:.2f} x as fast", f"{target} x",
                p["ratio"] >= target)
    if amx:
        target = 3.5 * PEER_PREFILL * base["peak_gflop_s"] / PEER_PEAK
        row("Moonlight, FP8, prefill of 512", f"{base['prefill_tokens_per_s']:.0f} tokens/s", f"{target:.0f} tokens/s",
            base["prefill_tokens_per_s"] >= target)
    if "v3_moe" in models:
        fraction("DeepSeek-V3's MoE layer in true size, decode", moe_layer(models["v3_moe"])[2], 0.8)
    if avx2:
        fraction("the FP8 decode product built for AVX2 alone, 1 row", product(1, avx2)["fraction"], 0.6)
    if "depth" in models:
        lost = 1 - read_units(base) / read_units(models["depth"])
        row("Moonlight, decode at depth 4096 against depth 0", f"{percent(lost)} slower", "at most 10%", lost <= 0.1)
    small, share = small_kernels()
    row("norms, rotation, router, SwiGLU and combination, of Moonlight's decode step", f"{small:.2f} ms, {100 * share:.1f}%", "at most 5%",
        share <= 0.05)
    return table(["work", "reached", "target", "met"], rows)


def small_kernels():
    """Milliseconds of the small kernels in Moonlight's 27 layers, 26 of them sparse, from times of single rows, and their share of a step."""
    us = lambda *key: kernels[key]["median_us"]
    time = 27 * (2.25 * us("rms_norm_2048", "1") + us("rope_17x64", "1"))
    time += 26 * (us("router", "1", "64") + 8 * us("swiglu_1408", "1") + us("combine_6x2048", "1")) + 8 * us("swiglu_1408", "1")
    return time * 1e-3, time * 1e-6 / base["decode_seconds_per_step"]


def kernel_table(of):
    rows = []
    for key, b in of.items():
        ceiling = f"{b['read_GB/s']:.1f} GB/s" if b["label"] in ("memory", "cache") else f"{b['peak_GFLOP/s']:,.0f} GFLOP/s"
        rows.append([f"{key[0]} {' x '.join(key[1:])}", f"{b['median_us']:,.{0 if b['median_us'] >= 10 else 2}f}", f"{b['GB/s']:.1f}",
                     f"{b['GFLOP/s']:,.0f}", b["label"] + ", " + ceiling, percent(b["fraction"])])
    return table(["kernel, rows (x shape)", "µs", "GB/s", "GFLOP/s", "ceiling that binds", "of it"], rows)


def named(run):
    return f"{run}: " + (f"`{command[run]}`" if command[run].startswith("--") else command[run])


def decode_table():
    rows = []
    for name, m in models.items():
        rows.append([named(name), f"{1e3 * m['decode_seconds_per_step']:.1f}", f"{m['decode_tokens_per_s']:.1f}",
                     f"{1e-9 * m['decode_bytes_per_step']:.2f}", f"{m['decode_gb_s']:.1f}", f"{m['read_ceiling_gb_s']:.1f}",
                     percent(m["decode_fraction_of_read"])])
    return table(["run: arguments of dsv3-bench", "ms a step", "tokens/s", "GB a step", "GB/s", "read ceiling", "of it"], rows)


def prefill_table():
    rows = []
    for name, m in models.items():
        if "prefill_seconds" in m:
            peak = m["peak_gflop_s"]
            rows.append([named(name), f"{m['prefill_seconds']:.2f}", f"{m['prefill_tokens_per_s']:.0f}",
                         f"{m['prefill_gflop_s']:,.0f}", f"{peak:,.0f}", percent(m["prefill_gflop_s"] / peak),
                         f"{m['prefill_bound_by']}, {percent(m['prefill_fraction_of_bound'])}"])
    return table(["run: arguments of dsv3-bench", "s", "tokens/s", "GFLOP/s", f"{base['peak']} peak", "of it", "binding ceiling, of it"], rows)


def breakdown(kind):
    runs = {name: m[f"{kind}_breakdown"] for name, m in models.items() if f"{kind}_breakdown" in m}
    modules = sorted({part for b in runs.values() for part in b}, key=lambda part: -runs["moonlight"].get(part, 0))
    cell = lambda b, part: f"{1e3 * b[part]:.2f} ({percent(b[part] / sum(b.values()))})" if part in b else ""
    return table([f"{kind}, ms", *runs], [[part, *(cell(b, part) for b in runs.values())] for part in modules])


def onednn_table():
    rows = [[f"{p['rows']} x {p['n']} x {p['k']}", f"{p['dsv3_gflop_s']:,.0f}", f"{p['onednn_gflop_s']:,.0f}", f"{p['ratio']:.2f}",
             f"{p['peak_gflop_s']:,.0f}"] for p in onednn["products"]]
    return table(["rows x N x K", "dsv3, FP8 weights, GFLOP/s", f"oneDNN {onednn['onednn']}, bf16 weights, GFLOP/s", "dsv3 / oneDNN", f"{onednn['products'][0]['peak']} peak"],
                 rows)


def roofline():
    points = []
    for key, b in kernels.items():
        kind = {"decode": "decode", "expert": "decode", "prefil": "prefill", "absorb": "attention"}.get(key[0][:6])
        if kind:
            points.append((f"{key[0].replace('_', ' ')}, {' x '.join(key[1:])}", kind, b["flop"] / b["bytes"], b["GFLOP/s"]))
    for name, m in models.items():
        points.append((f"dsv3-bench, {name}: decode", "decode", m["decode_gflop_s"] / m["decode_gb_s"], m["decode_gflop_s"]))
        if "prefill_seconds" in m:
            flop = m["prefill_gflop_s"] * 1e9 * m["prefill_seconds"]
            points.append((f"dsv3-bench, {name}: prefill", "prefill", flop / m["prefill_bytes"], m["prefill_gflop_s"]))
    middle = lambda values: sorted(values)[len(values) // 2]
    peaks = {"FMA": middle([b["peak_GFLOP/s"] for k, b in kernels.items() if k[0].startswith("decode")])}
    if base["peak"] != "FMA":
        peaks[base["peak"]] = base["peak_gflop_s"]
    return svg(middle([m["read_ceiling_gb_s"] for m in models.values()]), peaks, points)


def text():
    parts = [f"""# Performance

<!-- Written by bench/report.sh. Do not edit. -->
`sh bench/report.sh` built and ran everything on this page on one machine; its parts, kernels and models, can run separately. Weights are random;
speed does not depend on them. Figures are medians, except the breakdowns: means for decoding, the last run for prefill. Every ceiling was
measured in the same process, in alternation with the work. A shared machine drifts by tens of percent within minutes, so only fractions of a
ceiling and ratios to a peer carry over to other machines.

{machine()}
## Targets

{targets()}
Ratios between model runs compare times multiplied by the read ceiling of their own run, all in one process."""]
    parts.append("""The prefill target is 3.5 times what ik_llama.cpp (August 2026, Q8_0, its best flags) reached on a similar machine, relative to AMX peak:
55 tokens/s at 5,095 GFLOP/s.""" if amx else "This machine has no AMX: prefill is compared with " + base["peak"] + " peak.")
    parts.append(f"""
![Roofline]({kind()}.svg)

## Whole models

Bytes count the cache and every weight that a step reads (of routed experts, only the chosen ones). A prompt is memory-bound if reading its
weights once would take longer than its arithmetic at peak. More than 100% of reading means that the ceiling of that run was measured too
low.{f" Not finished, and so left out: {', '.join(missing)}." if missing else ""}

{decode_table()}
{prefill_table()}
### By module

Columns are the runs above. "feed-forward" holds experts, gather and combination; "logits" the head.

{breakdown("decode")}
{breakdown("prefill")}""")
    if "v3_moe" in models:
        bytes_read, time, value, ceiling = moe_layer(models["v3_moe"])
        parts.append(f"""DeepSeek-V3's MoE layer, from run v3_moe, whose model has no other layer: {bytes_read * 1e-6:.0f} MB of weights in
{time * 1e3:.2f} ms, {percent(value)} of {ceiling * 1e-9:.1f} GB/s. The head is left out, because it would dominate so small a model. That ceiling is
the run's read rate or the rate at which the head's weights were streamed in the same steps, whichever is higher.
""")
    parts.append(f"""## Kernels

`build/report/bin/dsv3-bench-kernels`: each kernel is checked against double precision, then timed. Products, experts and attention stream
4 GiB or the caches of 64 layers, so their data is never in cache; their ceiling is reading other parts of the same memory. The other kernels
work on activations in cache; their ceiling is reading these, with one thread for a single row (which is repeated).
`experts` is the feed-forward part of a Moonlight layer (six experts of 1408 and the shared one), `absorbed_attention_4096` one token over a
latent cache, with the heads of Moonlight (16) and of DeepSeek-V3 (128); `tiled_attention_4096` the same in bf16 tiles over a cache in bf16.

{kernel_table(kernels)}
With enough rows, decode products are bound by float32 arithmetic, not by memory. The router compares and branches, so no ceiling of this
table says what it could reach.
""")
    if avx2:
        parts.append(f"""The same built with `-march=x86-64-v3` (AVX2 and FMA, no AVX-512), `build/report/avx2/bin/dsv3-bench-kernels`:

{kernel_table(avx2)}""")
    parts.append(f"""## Prefill products beside oneDNN

`build/report/bin/dsv3-bench-onednn`: both in alternation, on as many OpenMP threads. oneDNN is not handicapped: its weights are bf16, twice
the bytes, packed beforehand in the layout it prefers, and its activations bf16 beforehand. dsv3 takes FP8 codes as they lie in the
checkpoint, and rounds and packs float32 activations within its time. Weights of both stay in cache. Activations and results of both lie in
huge pages and are aligned to cache lines, as in a model.

{onednn_table()}""")
    parts += [curve_table(), training_table(), serving_table()]
    return "\n".join(parts)


def curve_table():
    """Tokens per second of batches and of prompts, for six layers of Moonlight."""
    batches = {n: m for n in (1, 2, 4, 8, 16, 17, 32, 64, 128) if (m := load(f"batch_{n}"))}
    prompts = {n: m for n in (16, 17, 32, 64, 128, 256, 512, 1024) if (m := load(f"prompt_{n}"))}
    if not batches or not prompts:
        return ""
    total = {n: n / m["decode_seconds_per_step"] for n, m in batches.items()}
    one = total[1]
    return f"""## From one row to many

Six layers of Moonlight, `Fast`. Sequences decoded together: tokens per second of all, and as a multiple of one sequence alone:

{table(["sequences", *map(str, total)], [["tokens/s", *(f"{t:.0f}" for t in total.values())], ["x 1", *(f"{t / one:.2f}" for t in total.values())]])}
Prompts: tokens per second, and the fraction of that run's arithmetic peak:

{table(["tokens", *map(str, prompts)], [["tokens/s", *(f"{m['prefill_tokens_per_s']:.0f}" for m in prompts.values())],
       [base["peak"], *(percent(m["prefill_gflop_s"] / m["peak_gflop_s"]) for m in prompts.values())]])}
{exact_line()}"""


def exact_line():
    m = load("exact")
    if not m:
        return ""
    return (f"In float32 (`--compute exact`) a prompt of 512 takes {m['prefill_seconds']:.2f} s, {m['prefill_tokens_per_s']:.0f} tokens/s: "
            f"{percent(m['prefill_gflop_s'] / m['fma_peak_gflop_s'])} of the FMA peak.\n")


def training_table():
    rows = []
    for name in ("small_exact_1", "small_bf16_1", "small_fp8_1", "small_exact_2", "small_bf16_2", "small_fp8_2", "moonlight_exact", "moonlight_bf16",
                 "moonlight_fp8"):
        if m := load(f"training_{name}"):
            rows.append([m["case"], m["compute"], str(m["threads"]), f"{m['step']:.3f}", f"{m['tokens_per_second']:,.0f}", f"{m['gflops']:,.0f}",
                         percent(m["gflops"] / m["peak_gflops"]), f"{m['needed_gb']:.2f}", f"{m['rss_gb']:.2f}"])
    if not rows:
        return ""
    return f"""## Training

`build/report/bin/dsv3-bench-training` times whole steps. `small` is the embedded model's configuration, 16 rows of 192 tokens; `moonlight` two layers
at Moonlight's true width, one dense and one sparse, vocabulary 8,192, 1,024 tokens. Needed: weights, gradients and both moments.

{table(["case", "arithmetic", "threads", "s a step", "tokens/s", "GFLOP/s", "of the peak", "needed, GB", "largest resident set, GB"], rows)}"""


def serving_table():
    figures = load("serve")
    if not figures:
        return ""
    one = figures[0]["tokens_per_second"]
    rows = [[str(f["clients"]), f"{f['tokens_per_second']:,.0f}", f"{f['tokens_per_second'] / one:.2f}"] for f in figures]
    return f"""## Serving

`build/report/bin/dsv3-bench-serve` asks dsv3-serve, with its defaults and the embedded model, for streamed answers of 200 tokens. All clients are one
thread, on the same processors as the server.

{table(["clients", "tokens/s", "x 1"], rows)}"""


def kind():
    """The kind of processor, as a file name."""
    facts = dict(line.split(":", 1) for line in (results / "machine.txt").read_text().splitlines() if ":" in line)
    flags = facts["Flags"].split()
    units = next((name for name, flag in (("amx", "amx_bf16"), ("avx512-bf16", "avx512_bf16"), ("avx512", "avx512bw"), ("avx2", "avx2"))
                  if flag in flags), "baseline")
    vendor = {"GenuineIntel": "intel", "AuthenticAMD": "amd"}.get(facts["Vendor ID"].strip(), "other")
    return f"{vendor}-{units}"


def index():
    pages = sorted((docs / "performance").glob("*.md"))
    rows = [[f"[{page.stem}](performance/{page.name})", next((l.split("|")[2].strip() for l in page.read_text().splitlines() if l.startswith("| date")), "")]
            for page in pages]
    return f"""# Performance

<!-- Written by bench/report.sh. Do not edit. -->
A page for each kind of processor that `sh bench/report.sh` has run on. Figures on one page are comparable with each other; those on two pages are
from different machines.

{table(["processor", "measured"], rows)}"""


(docs / "performance").mkdir(exist_ok=True)
(docs / "performance" / f"{kind()}.svg").write_text(roofline())
(docs / "performance" / f"{kind()}.md").write_text(text())
(docs / "performance.md").write_text(index())
