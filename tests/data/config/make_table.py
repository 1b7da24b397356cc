"""Writes table.json: what transformers computes from golden checkpoints whose config.json is changed in one place.

usage: python make_table.py GOLDEN OUT    (GOLDEN: tests/data/golden; needs torch and transformers)

A row has the case, the change ("absent" stands for a field that is taken out) and either the last row of the logits of the ids below, or the
error by which transformers refuses the file. Weights that transformers did not find, or found in another shape, count as an error.
"""

import copy
import json
import os
import sys
import tempfile

import torch
import transformers

IDS = [3, 17, 250, 41, 5, 5, 120, 77, 9, 200, 33, 64, 1, 150, 99, 7]
ABSENT = "absent"

YARN = {"type": "yarn", "factor": 40.0, "original_max_position_embeddings": 32, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0}


def yarn(**changes):
    changed = {**YARN, **changes}
    return {k: v for k, v in changed.items() if v != ABSENT}


def changes(config):
    """One change a row; sizes keep their values, written in other ways."""
    for field in ("vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_hidden_layers", "num_attention_heads",
                  "n_routed_experts", "n_shared_experts", "num_experts_per_tok", "kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim",
                  "v_head_dim", "first_k_dense_replace", "n_group", "topk_group", "max_position_embeddings", "num_key_value_heads"):
        yield {field: None}
        yield {field: ABSENT}
        yield {field: float(config[field])}
        yield {field: str(config[field])}
    for value in (None, ABSENT, 0, 24):
        yield {"q_lora_rank": value}
    for value in (None, ABSENT, True, False, 1, 0, "true"):
        yield {"norm_topk_prob": value}
    for value in (None, ABSENT, 1, 2.5, 0, "1"):
        yield {"routed_scaling_factor": value}
    for value in (None, ABSENT, "sigmoid", "softmax", "relu"):
        yield {"scoring_func": value}
    for value in (None, ABSENT, "noaux_tc", "greedy", "group_limited_greedy", "other"):
        yield {"topk_method": value}
    for value in (None, ABSENT, 1e-5, 0, 1, "1e-6"):
        yield {"rms_norm_eps": value}
    for value in (None, ABSENT, "silu", "swish", "gelu", "other"):
        yield {"hidden_act": value}
    for field in ("attention_bias", "mlp_bias", "tie_word_embeddings"):
        for value in (None, ABSENT, False, True):
            yield {field: value}
    for value in (None, ABSENT, True, False):
        yield {"rope_interleave": value}
    for value in (None, ABSENT, 1, 2):
        yield {"moe_layer_freq": value}
    for value in (None, ABSENT, 0, 1, 2):
        yield {"num_nextn_predict_layers": value}
    for field in ("bos_token_id", "eos_token_id"):
        for value in (None, ABSENT, 5, [5, 6]):
            yield {field: value}
    for field, value in (("attention_dropout", 0.1), ("initializer_range", None), ("use_cache", False), ("pretraining_tp", 2), ("ep_size", 4),
                         ("aux_loss_alpha", 0.5), ("seq_aux", None), ("head_dim", config["qk_rope_head_dim"]), ("head_dim", 5), ("head_dim", None),
                         ("qk_head_dim", config["qk_rope_head_dim"] + config["qk_nope_head_dim"]), ("num_local_experts", config["n_routed_experts"]),
                         ("torch_dtype", "bfloat16"), ("torch_dtype", None), ("dtype", "float32"), ("architectures", None), ("architectures", [])):
        yield {field: value}
    # The rotary embedding, by its old name, by its new one, and by both.
    for theta in (None, ABSENT, 500, 50000.0, "10000"):
        yield {"rope_theta": theta}
        yield {"rope_theta": theta, "rope_scaling": None}
    for scaling in (None, ABSENT, {}, {"type": "default"}, {"rope_type": "default"}, {"type": None}, {"factor": 2.0}, {"type": "linear", "factor": 2.0},
                    {"type": "dynamic", "factor": 2.0}, {"type": "other"}, YARN, yarn(type=ABSENT, rope_type="yarn"), yarn(rope_type="yarn"),
                    yarn(rope_type="default"), yarn(factor=4), yarn(factor=None), yarn(factor=ABSENT), yarn(original_max_position_embeddings=64),
                    yarn(original_max_position_embeddings=None), yarn(original_max_position_embeddings=ABSENT), yarn(beta_fast=16), yarn(beta_fast=None),
                    yarn(beta_fast=ABSENT), yarn(beta_slow=2), yarn(beta_slow=None), yarn(mscale=0.707), yarn(mscale=None), yarn(mscale=ABSENT), yarn(mscale=0),
                    yarn(mscale_all_dim=0.707), yarn(mscale_all_dim=None), yarn(mscale_all_dim=ABSENT), yarn(mscale_all_dim=0),
                    yarn(mscale=ABSENT, mscale_all_dim=ABSENT), yarn(attention_factor=1.5), yarn(attention_factor=None), yarn(truncate=False), yarn(truncate=True),
                    yarn(truncate=None), yarn(rope_theta=50000.0), yarn(partial_rotary_factor=0.5), yarn(partial_rotary_factor=1.0)):
        yield {"rope_scaling": scaling}
        if isinstance(scaling, dict):
            yield {"rope_scaling": ABSENT, "rope_parameters": scaling}
            yield {"rope_scaling": ABSENT, "rope_theta": ABSENT, "rope_parameters": {"rope_theta": 20000.0, **scaling}}
            yield {"rope_scaling": None, "rope_theta": 30000.0, "rope_parameters": {"rope_theta": 20000.0, **scaling}}
    yield {"rope_parameters": None}
    yield {"rope_parameters": {}}
    yield {"rope_parameters": {"rope_type": "default", "rope_theta": 20000.0}}
    for value in (None, 16, 64):
        yield {"original_max_position_embeddings": value}
        yield {"original_max_position_embeddings": value, "rope_scaling": YARN}
        yield {"original_max_position_embeddings": value, "rope_scaling": yarn(original_max_position_embeddings=ABSENT)}
        yield {"original_max_position_embeddings": value, "rope_scaling": yarn(factor=ABSENT)}
    yield {"partial_rotary_factor": 0.5}
    yield {"partial_rotary_factor": None}


def logits(folder):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    bad = {k: sorted(map(str, info[k])) for k in ("missing_keys", "mismatched_keys") if info[k]}
    if bad:
        raise ValueError(f"weights do not fit: {bad}"[:200])
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0, -1].tolist()


def main(golden, out):
    transformers.logging.set_verbosity_error()
    rows = []
    for case in ("v3-tiny", "v3-noq", "v2-lite"):
        with open(os.path.join(golden, case, "config.json")) as file:
            config = json.load(file)
        seen = set()
        for change in changes(config):
            key = json.dumps(change, sort_keys=True)
            if key in seen:
                continue
            seen.add(key)
            changed = {k: v for k, v in {**copy.deepcopy(config), **change}.items() if v != ABSENT}
            row = {"case": case, "change": change}
            with tempfile.TemporaryDirectory() as folder:
                os.symlink(os.path.abspath(os.path.join(golden, case, "model.safetensors")), os.path.join(folder, "model.safetensors"))
                with open(os.path.join(folder, "config.json"), "w") as file:
                    json.dump(changed, file)
                try:
                    values = logits(folder)
                    if values != values or any(v != v for v in values):
                        raise ValueError("logits are not numbers")
                    row["logits"] = [float(f"{v:.7g}") for v in values[:8]]
                    row["largest"] = float(f"{max(map(abs, values)):.7g}")
                except Exception as error:  # whatever transformers says
                    row["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:160]
            rows.append(row)
    with open(out, "w") as file:
        lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
        file.write(f'{{"transformers":{json.dumps(transformers.__version__)},"ids":{json.dumps(IDS)},"rows":[\n{lines}\n]}}\n')
    print(len(rows), "rows,", sum("error" in r for r in rows), "refused")


if __name__ == "__main__":
    main(*sys.argv[1:])
