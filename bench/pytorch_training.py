"""Times a training step of Hugging Face's DeepseekV3ForCausalLM in PyTorch and of dsv3-bench-training, on the same two cases, and prints both.

    python3 bench/pytorch_training.py build/native/bin/dsv3-bench-training [--case small moonlight] [--compute float32 bf16] [--threads 1 2] [--steps 5]

needs torch and transformers (python3 -m venv V; V/bin/pip install torch transformers). A step is forward, backward, clipping to a norm of 1, and AdamW
(fused) on weights in float32; bf16 is PyTorch's autocast, which, as `--compute bf16`, rounds the operands of products. `small` is the embedded model's
shape, 16 x 192 tokens, trained with an MTP module as the main loss + 0.3 times its own; transformers has no loss for one, so it is built here from
transformers' parts. `moonlight` is two layers at Moonlight's true width, 1 x 1024 tokens; each side needs 13 GB. The median of the steps after the
first counts. Each run is a process of its own, one after the other."""

import argparse
import importlib.util
import json
import math
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SMALL = dict(vocab_size=1024, hidden_size=128, intermediate_size=384, moe_intermediate_size=64, num_hidden_layers=5, first_k_dense_replace=1,
             num_attention_heads=4, num_key_value_heads=4, n_shared_experts=1, n_routed_experts=16, kv_lora_rank=64, q_lora_rank=64, qk_rope_head_dim=16,
             v_head_dim=32, qk_nope_head_dim=32, n_group=4, topk_group=2, num_experts_per_tok=4, max_position_embeddings=1024)
MOONLIGHT = dict(vocab_size=8192, hidden_size=2048, intermediate_size=11264, moe_intermediate_size=1408, num_hidden_layers=2, first_k_dense_replace=1,
                 num_attention_heads=16, num_key_value_heads=16, n_shared_experts=2, n_routed_experts=64, kv_lora_rank=512, q_lora_rank=None,
                 qk_rope_head_dim=64, v_head_dim=128, qk_nope_head_dim=128, n_group=1, topk_group=1, num_experts_per_tok=6, max_position_embeddings=8192,
                 routed_scaling_factor=2.446)
CASES = {"small": (SMALL, 16, 192, True), "moonlight": (MOONLIGHT, 1, 1024, False)}


def torch_run(case, compute, threads, steps):
    """Figures of PyTorch, in this process."""
    import torch
    import torch.nn.functional as F
    import transformers
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as hf

    settings, samples, length, mtp = CASES[case]
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    config = transformers.DeepseekV3Config(**settings, initializer_range=0.02, attn_implementation="sdpa")
    model = hf.DeepseekV3ForCausalLM(config)

    class Mtp(torch.nn.Module):
        """Predicts token i + 2 from the state of row i and token i + 1, with the model's embedding and head."""

        def __init__(self):
            super().__init__()
            width = config.hidden_size
            self.enorm, self.hnorm, self.norm = (hf.DeepseekV3RMSNorm(width, eps=config.rms_norm_eps) for _ in range(3))
            self.eh_proj = torch.nn.Linear(2 * width, width, bias=False)
            self.block = hf.DeepseekV3DecoderLayer(config, config.num_hidden_layers)

        def forward(self, states, ids):
            positions = torch.arange(ids.shape[1])[None]
            x = self.eh_proj(torch.cat([self.enorm(model.model.embed_tokens(ids)), self.hnorm(states)], -1))
            # Without a mask sdpa's path in transformers is causal.
            x = self.block(x, attention_mask=None, position_ids=positions, position_embeddings=model.model.rotary_emb(x, positions))
            return model.lm_head(self.norm(x))

    extra = Mtp() if mtp else None
    if extra:
        extra.apply(model._init_weights)
    parameters = [*model.parameters(), *(extra.parameters() if extra else [])]
    model.train()
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    ids = torch.randint(config.vocab_size, (samples, length))
    before_norm = []  # the states that the final norm gets
    model.model.norm.register_forward_pre_hook(lambda module, args: before_norm.append(args[0]))
    times = []
    for step in range(steps + 1):
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=compute == "bf16"):
            before_norm.clear()
            logits = model(ids, use_cache=False).logits
            loss = main = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())
            if extra:
                ahead = extra(before_norm[0][:, :-1], ids[:, 1:])
                loss = main + 0.3 * F.cross_entropy(ahead[:, :-1].flatten(0, 1).float(), ids[:, 2:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - begin)
        if step == 0 and abs(main.item() - math.log(config.vocab_size)) > 0.5:
            sys.exit(f"pytorch_training: the first loss is {main.item():.3f}, expected about {math.log(config.vocab_size):.3f}")
    return {"step": statistics.median(times[1:]), "rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024e-9, "first_loss": main.item(),
            "parameters": sum(p.numel() for p in parameters), "experts": getattr(config, "_experts_implementation", "?"),
            "versions": f"torch {torch.__version__}, transformers {transformers.__version__}"}


def run(command, case, compute, threads, steps):
    """Figures of the run of a process that writes JSON; None if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "figures.json")
        options = ["--case", case, "--compute", compute, "--threads", str(threads), "--steps", str(steps), "--json", str(file)]
        done = subprocess.run([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode == 0:
            return json.loads(file.read_text())
        print(f"{Path(command[-1]).name} {case} {compute}: {(done.stderr.strip().splitlines() or ['killed'])[-1]}", file=sys.stderr)
        return None


def machine():
    try:
        return next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?", help="dsv3-bench-training")
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--compute", nargs="+", choices=["float32", "bf16"], default=["float32", "bf16"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", type=Path, help=argparse.SUPPRESS)  # PyTorch alone, in this process: one case, arithmetic and number of threads
    args = parser.parse_args()
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]  # not imported: children inherit the largest RSS
    if missing:
        sys.exit(f"pytorch_training: nothing to compare with, because this Python has no {' and no '.join(missing)}: python3 -m venv V; "
                 "V/bin/pip install torch transformers; run this script by V/bin/python3")
    if args.json:
        args.json.write_text(json.dumps(torch_run(args.case[0], args.compute[0], args.threads[0], args.steps)))
        return
    if not args.program:
        parser.error("name the program dsv3-bench-training")

    print(f"{machine()}, {platform.system()}")
    header = ["case", "arithmetic", "threads", "PyTorch, s a step", "dsv3, s a step", "ratio", "PyTorch, GB", "dsv3, GB"]
    print("| " + " | ".join(header) + " |\n|" + " --- |" * len(header))
    versions = ""
    for case in args.case:
        for compute in args.compute:
            for threads in args.threads:
                theirs = run([sys.executable, __file__], case, compute, threads, args.steps)
                ours = run([args.program], case, "exact" if compute == "float32" else compute, threads, args.steps)
                show = lambda figures, name, digits: f"{figures[name]:.{digits}f}" if figures else "-"
                ratio = f"{theirs['step'] / ours['step']:.2f}" if theirs and ours else "-"
                print("| " + " | ".join([case, compute, str(threads), show(theirs, "step", 3), show(ours, "step", 3), ratio, show(theirs, "rss_gb", 2),
                                         show(ours, "rss_gb", 2)]) + " |", flush=True)
                if theirs:
                    versions = f"{theirs['versions']}, experts by {theirs['experts']}"
    print(versions)


main()
