#!/usr/bin/env python3
"""kill_test.py DSV3_TRAIN CONFIG SCRATCH [KILLS]: kills a training run at random moments, resumes it each time, and compares what it ends with,
bit for bit, with a run that was never interrupted. Also: SIGTERM saves and stops, and states that do not fit are refused with a sentence."""
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import time

program, config, scratch = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
kills = int(sys.argv[4]) if len(sys.argv) > 4 else 5
steps = 40
shutil.rmtree(scratch, ignore_errors=True)
scratch.mkdir(parents=True)
rng = random.Random(1)
data = scratch / "data.bin"
data.write_bytes(struct.pack("<4000H", *(rng.randrange(64) for _ in range(4000))))


def command(out, *more):
    return [program, config, "--data", str(data), "--out", str(out), "--context", "32", "--batch-tokens", "256", "--steps", str(steps),
            "--save-every", "2", "--average", "0.9", "--threads", "1", *more]


def run(out, *more):
    return subprocess.run(command(out, *more), capture_output=True, text=True)


def check(condition, *what):
    if not condition:
        sys.exit("kill_test: " + " ".join(str(w) for w in what))


def state(out):
    return (out / f"step-{steps:08}" / "state.safetensors").read_bytes()


whole = scratch / "whole"
start = time.monotonic()
done = run(whole)
check(done.returncode == 0, done.stderr)
length = time.monotonic() - start

for compute, same in (("exact", True), ("fp8", False)):  # arithmetic is exact unless another is asked for
    done = run(scratch / compute, "--compute", compute)
    check(done.returncode == 0, done.stderr)
    check((state(scratch / compute) == state(whole)) == same, "--compute", compute, "against none")

out = scratch / "killed"
killed = 0
resume = []
while killed < kills:
    process = subprocess.Popen(command(out, *resume), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    time.sleep(rng.uniform(0, 0.6 * length))
    process.kill()
    error = process.communicate()[1].decode()
    check(process.returncode in (0, -signal.SIGKILL), error)
    if process.returncode == 0:  # it had ended: once more from the beginning
        check(state(out) == state(whole), "the resumed run ended with other bits")
        shutil.rmtree(out)
    killed += 1
    resume = ["--resume"] if any(out.glob("step-*/state.safetensors")) else []
done = run(out, *resume)
check(done.returncode == 0, done.stderr)
check(state(out) == state(whole), "the resumed run ended with other bits")
check((out / f"step-{steps:08}" / "model.safetensors").read_bytes() == (whole / f"step-{steps:08}" / "model.safetensors").read_bytes(), "other weights")
check(not list(out.glob(".*.part")), "something half written is left")
lines = (out / "log.jsonl").read_text().splitlines()
check(len(lines) == steps, "the log has", len(lines), "lines")

# SIGTERM saves and stops; what follows is the same again.
stopped = scratch / "stopped"
process = subprocess.Popen(command(stopped), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
process.stdout.readline()
process.send_signal(signal.SIGTERM)
error = process.communicate()[1].decode()
check(process.returncode == 0, "after SIGTERM:", process.returncode, error)
done = run(stopped, "--resume")
check(done.returncode == 0 and state(stopped) == state(whole), "after SIGTERM the run ended with other bits", done.stderr)

# Refusals, each by a sentence.
for more, sentence in (((), "has checkpoints of another run"), (("--resume", "--seed", "2"), '"seed 1", this run has "seed 2"'),
                       (("--resume", "--batch-tokens", "250"), "multiple of the context")):
    done = run(whole, *more)
    check(done.returncode != 0 and sentence in done.stderr, more, "was answered by", done.returncode, done.stderr)
saved = max(stopped.glob("step-*")) / "state.safetensors"
saved.write_bytes(saved.read_bytes()[:1000])
done = run(stopped, "--resume")
check(done.returncode == 1 and "state.safetensors" in done.stderr, "a truncated state was answered by", done.returncode, done.stderr)
short = scratch / "short.bin"
short.write_bytes(b"\1\0" * 10)
done = subprocess.run([program, config, "--data", str(short), "--out", str(scratch / "short"), "--context", "32"], capture_output=True, text=True)
check(done.returncode == 1 and "too few" in done.stderr, "short data was answered by", done.returncode, done.stderr)
done = subprocess.run([program, config, "--data", str(scratch / "none.bin"), "--out", str(scratch / "none")], capture_output=True, text=True)
check(done.returncode == 1 and "none.bin" in done.stderr, "missing data was answered by", done.returncode, done.stderr)
print(f"{kills} kills, {steps} steps: the same bits")
