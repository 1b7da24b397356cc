#!/usr/bin/env python3
"""Final validation loss of FP8 training against bf16 training (spec T49), on the embedded model's shape and text.

python3 examples/numerics/fp8_against_bf16.py DSV3_TRAIN TEXT OUT [--steps 1200] [--seeds 1 2 3] [--jobs 1]

DSV3_TRAIN is the program, TEXT the plays of Shakespeare (1,115,394 characters, .txt or .txt.xz), of which the first 95% are learned. OUT gets the runs,
OUT/fp8_against_bf16.json and OUT/fp8_against_bf16.txt. Every run has one thread and keeps the moments of AdamW in bf16; runs that are there already are
not repeated.
"""
import argparse
import array
import concurrent.futures
import json
import lzma
import pathlib
import statistics
import struct
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "examples/models/shakespeare"
KINDS = ("bf16", "fp8")


def write_data(text: pathlib.Path, out: pathlib.Path) -> None:
    """config.json of fresh weights, train.txt, and valid.bin: the ids of 118 rows of the rest as bare uint16."""
    config = json.loads((MODEL / "config.json").read_text())
    config.pop("quantization_config", None)
    (out / "config.json").write_text(json.dumps(config, indent=1))
    data = lzma.decompress(text.read_bytes()) if text.suffix == ".xz" else text.read_bytes()
    characters = data.decode()
    (out / "train.txt").write_bytes(characters[: int(0.95 * len(characters))].encode())
    stored = (ROOT / "tests/data/shakespeare/valid_ids.safetensors").read_bytes()
    ids = array.array("i", stored[8 + struct.unpack("<Q", stored[:8])[0] :])
    (out / "valid.bin").write_bytes(array.array("H", ids).tobytes())


def train(program: str, out: pathlib.Path, steps: int, kind: str, seed: int) -> float:
    """Loss over unseen text after the last step, of the moving average of the weights."""
    run = out / f"{kind}-{seed}"
    log = run / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    if not lines or json.loads(lines[-1])["step"] != steps:
        command = [program, out / "config.json", "--data", out / "train.txt", "--valid", out / "valid.bin", "--tokenizer", MODEL / "tokenizer.json",
                   "--out", run, "--steps", steps, "--context", 192, "--lr", 2.5e-3, "--weight-decay", 0.3, "--average", 0.99, "--compute", kind,
                   "--moments", "bf16", "--seed", seed, "--valid-every", 200, "--threads", 1]
        with open(out / f"{kind}-{seed}.txt", "w") as text:
            subprocess.run([str(c) for c in command], stdout=text, stderr=subprocess.STDOUT, check=True)
        lines = log.read_text().splitlines()
    return json.loads(lines[-1])["valid"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program"), parser.add_argument("text", type=pathlib.Path), parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    write_data(a.text, a.out)
    with concurrent.futures.ThreadPoolExecutor(a.jobs) as pool:
        jobs = {(kind, seed): pool.submit(train, a.program, a.out, a.steps, kind, seed) for seed in a.seeds for kind in KINDS}
        loss = {key: job.result() for key, job in jobs.items()}
    above = [100 * (loss["fp8", s] / loss["bf16", s] - 1) for s in a.seeds]
    columns = [[loss[kind, s] for s in a.seeds] for kind in KINDS] + [above]
    deviation = [statistics.stdev(c) if len(c) > 1 else 0.0 for c in columns]
    rows = [[s, *values] for s, *values in zip(a.seeds, *columns)]
    rows += [["mean", *map(statistics.mean, columns)], ["deviation", *deviation]]
    table = {"title": f"Loss over unseen text after {a.steps} steps of 16 x 192 tokens",
             "columns": ["seed", "bf16", "fp8", "above bf16, percent"], "rows": rows,
             "standard error of the mean difference, percent": deviation[2] / len(a.seeds) ** 0.5}
    text = table["title"] + "\n" + "  ".join(f"{c:>19}" for c in table["columns"]) + "\n"
    text += "".join("  ".join(f"{v:>19}" if i == 0 else f"{v:19.4f}" for i, v in enumerate(row)) + "\n" for row in rows)
    print(text + f"standard error of the mean difference: {table['standard error of the mean difference, percent']:.2f}%")
    (a.out / "fp8_against_bf16.txt").write_text(text)
    (a.out / "fp8_against_bf16.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
