"""lm-evaluation-harness on dsv3-serve: multiple choice, a last word and rolling log-likelihood of the tasks in evaluation_tasks/, each number against what
dsv3-logits gives for the same tokens. Skipped without it: pip install 'lm_eval[api]' transformers"""

import importlib.util
import json
import math
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

from server import SKIPPED, Server, run_tests

TASKS = pathlib.Path(__file__).parent / "evaluation_tasks"
PREFIX = 0  # the token that rolling log-likelihoods begin behind


def log_probabilities(program, model, ids, folder):
    """Of each token of `ids` but the first, by dsv3-logits."""
    path, out = os.path.join(folder, "ids.safetensors"), os.path.join(folder, "logits.safetensors")
    header = json.dumps({"input_ids": {"dtype": "I32", "shape": [1, len(ids)], "data_offsets": [0, 4 * len(ids)]}}).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header + struct.pack(f"<{len(ids)}i", *ids))
    subprocess.run([os.path.join(os.path.dirname(program), "dsv3-logits"), model, "--ids", path, "--out", out], check=True, capture_output=True)
    data = open(out, "rb").read()
    (size,) = struct.unpack("<Q", data[:8])
    tensor = json.loads(data[8 : 8 + size])["logits"]
    begin, width = 8 + size + tensor["data_offsets"][0], tensor["shape"][2]
    result = []
    for i, token in enumerate(ids[1:]):
        row = struct.unpack(f"<{width}f", data[begin + 4 * width * i : begin + 4 * width * (i + 1)])
        largest = max(row)
        result.append(row[token] - largest - math.log(sum(math.exp(x - largest) for x in row)))
    return result


def tasks(program, model):
    """three kinds of tasks"""
    with Server(program, model) as server, tempfile.TemporaryDirectory() as folder:
        settings = {
            "model": server.name, "base_url": f"http://127.0.0.1:{server.port}/v1/completions", "num_concurrent": 2, "max_retries": 1,
            "tokenizer": os.path.abspath(model), "max_length": 1024, "custom_prefix_token_id": PREFIX,
        }  # fmt: skip
        command = [sys.executable, "-m", "lm_eval", "--model", "local-completions", "--model_args", ",".join(f"{k}={v}" for k, v in settings.items())]
        command += ["--tasks", "dsv3_choice,dsv3_word,dsv3_rolling", "--include_path", str(TASKS), "--batch_size", "2", "--output_path", folder, "--log_samples"]
        offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": folder}
        ran = subprocess.run(command, cwd=TASKS, env=offline, capture_output=True, text=True, timeout=500)
        assert ran.returncode == 0, ran.stderr[-3000:]

        def tokenize(text):
            return server.json("/tokenize", {"model": server.name, "prompt": text, "add_special_tokens": False})[1]["tokens"]

        checked = 0
        for file in pathlib.Path(folder).rglob("samples_*.jsonl"):
            for sample in map(json.loads, file.read_text().splitlines()):
                for number, request in enumerate(sample["arguments"].values()):
                    texts, answer = list(request.values()), sample["resps"][number][0]
                    rolling = "rolling" in file.name
                    context = [PREFIX] if rolling else tokenize(texts[0])
                    ids = [PREFIX, *tokenize(texts[0])] if rolling else tokenize(texts[0] + texts[1])
                    expected = sum(log_probabilities(program, model, ids, folder)[len(context) - 1 :])
                    found = float(answer if rolling else answer[0])
                    assert abs(found - expected) < 1e-4 * abs(expected), (file.name, sample["arguments"], found, expected)
                    checked += 1
        assert checked == 13, checked


if __name__ == "__main__":
    if importlib.util.find_spec("lm_eval") is None:
        print("skipped: lm-evaluation-harness is not installed")
        sys.exit(SKIPPED)
    run_tests([tasks])
