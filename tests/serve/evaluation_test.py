"""What evaluations ask of dsv3-serve: log-probabilities of prompts, tokens of texts. Needs Python's standard library alone."""

import json
import os
import subprocess
import tempfile

from server import Server, run_tests

TEXT = "ROMEO:\nBut soft, what light through yonder window breaks?\nIt is the east, and Juliet is the sun.\n"


def ask(**fields):
    return {"model": "shakespeare", "prompt": TEXT, "temperature": 0, "max_tokens": 1, **fields}


def echo(program, model):
    """echo with logprobs: the prompt's tokens, the first without; the numbers that dsv3-perplexity has"""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(TEXT)
        file.flush()
        measured = json.loads(
            subprocess.run(
                [os.path.join(os.path.dirname(program), "dsv3-perplexity"), model, file.name, "--json"], capture_output=True, text=True, check=True
            ).stdout
        )
    with Server(program, model) as server:
        tokens = server.json("/tokenize", {"model": "shakespeare", "prompt": TEXT})[1]["tokens"]
        for prompt in (TEXT, tokens):
            choice = server.json("/v1/completions", ask(prompt=prompt, echo=True, logprobs=2))[1]["choices"][0]
            log = choice["logprobs"]
            assert len(log["tokens"]) == len(tokens) + 1 and "".join(log["tokens"]) == choice["text"], choice
            assert choice["text"].startswith(TEXT)
            assert log["token_logprobs"][0] is None and log["top_logprobs"][0] is None
            assert log["text_offset"] == [len("".join(log["tokens"][:i])) for i in range(len(tokens) + 1)]
            loss = -sum(log["token_logprobs"][1:-1]) / (len(tokens) - 1)
            assert abs(loss - measured["loss"]) < 1e-5 * measured["loss"], (loss, measured)
            assert all(max(top.values()) >= p for top, p in zip(log["top_logprobs"][1:], log["token_logprobs"][1:]))

        whole = log
        for max_tokens in (0, 1):  # in chunks, and without an answer
            chunks = server.stream("/v1/completions", ask(echo=True, logprobs=2, max_tokens=max_tokens))
            assert sum((c["choices"][0]["logprobs"]["token_logprobs"] for c in chunks if c["choices"][0]["logprobs"]), []) == whole["token_logprobs"][: len(tokens) + max_tokens]
        none = server.json("/v1/completions", ask(max_tokens=0, echo=True))[1]
        assert none["choices"][0]["text"] == TEXT and none["choices"][0]["finish_reason"] == "length" and none["usage"]["completion_tokens"] == 0

        # Of several at once, and where another request has left its pages.
        many = server.json("/v1/completions", ask(prompt=[TEXT, TEXT[:30]], echo=True, logprobs=1, n=2))[1]["choices"]
        assert [c["logprobs"]["token_logprobs"] for c in many[:2]] == [whole["token_logprobs"]] * 2
        assert many[2]["logprobs"]["token_logprobs"][:5] == whole["token_logprobs"][:5]

        # An answer that ends at once has an entry for its end: evaluations leave out the last one.
        ends = server.json("/v1/completions", ask(echo=True, logprobs=1, logit_bias={"1": 100}))[1]["choices"][0]
        assert ends["finish_reason"] == "stop", ends
        assert len(ends["logprobs"]["tokens"]) == len(tokens) + 1 and ends["text"] == TEXT, ends


def prompt_logprobs(program, model):
    """vLLM's prompt_logprobs: with ranks, in completions and chats, also without an answer"""
    with Server(program, model) as server:
        tokens = server.json("/tokenize", {"model": "shakespeare", "prompt": TEXT})[1]["tokens"]
        echoed = server.json("/v1/completions", ask(echo=True, logprobs=3))[1]["choices"][0]["logprobs"]
        choice = server.json("/v1/completions", ask(prompt_logprobs=3, max_tokens=0))[1]["choices"][0]
        listed = choice["prompt_logprobs"]
        assert choice["text"] == "" and choice["logprobs"] is None and len(listed) == len(tokens) and listed[0] is None
        for entry, token, p in zip(listed[1:], tokens[1:], echoed["token_logprobs"][1:]):
            own = entry[str(token)]
            assert own["logprob"] == p and 3 <= len(entry) <= 4
            assert sorted(e["rank"] for e in entry.values())[:3] == [1, 2, 3]
            assert all((e["logprob"] > p) == (e["rank"] < own["rank"]) for e in entry.values() if e["logprob"] != p)
        talk = server.json("/v1/chat/completions", {"model": "shakespeare", "messages": [{"role": "user", "content": "ROMEO:"}], "prompt_logprobs": 0, "max_tokens": 1, "temperature": 0})[1]
        assert talk["prompt_logprobs"][0] is None and len(talk["prompt_logprobs"]) == talk["usage"]["prompt_tokens"]


def tokens(program, model):
    """/tokenize and /detokenize"""
    with Server(program, model) as server:
        status, told = server.json("/tokenize", {"model": "shakespeare", "prompt": "ROMEO:\n", "return_token_strs": True})
        assert status == 200 and told["count"] == len(told["tokens"]) == 2 and "".join(told["token_strs"]) == "ROMEO:\n", told
        assert told["max_model_len"] > 0
        assert server.json("/detokenize", {"model": "shakespeare", "tokens": told["tokens"]})[1] == {"prompt": "ROMEO:\n"}
        chat = server.json("/tokenize", {"model": "shakespeare", "messages": [{"role": "user", "content": "ROMEO:"}]})[1]
        assert chat["tokens"] == told["tokens"], chat
        for path, body in (
            ("/tokenize", {"model": "shakespeare"}), ("/tokenize", {"model": "shakespeare", "prompt": 5}), ("/tokenize", {"prompt": "x"}),
            ("/detokenize", {"model": "shakespeare", "tokens": [5000]}), ("/detokenize", {"model": "shakespeare", "tokens": "x"}), ("/detokenize", {"model": "shakespeare"}),
        ):
            assert server.json(path, body)[0] == 400, body


def sampling(program, model):
    """fields of other servers: stop_token_ids, ignore_eos, min_tokens, best_of, continue_final_message, guided_*"""
    with Server(program, model) as server:
        greedy = server.json("/v1/completions", ask(prompt="ROMEO:\n", max_tokens=20, logprobs=0))[1]["choices"][0]
        ids = server.json("/tokenize", {"model": "shakespeare", "prompt": "ROMEO:\n" + greedy["text"]})[1]["tokens"][2:]
        stopped = server.json("/v1/completions", ask(prompt="ROMEO:\n", max_tokens=20, stop_token_ids=[ids[3]]))[1]["choices"][0]
        assert stopped["finish_reason"] == "stop" and greedy["text"].startswith(stopped["text"]) and len(stopped["text"]) < len(greedy["text"])
        later = server.json("/v1/completions", ask(prompt="ROMEO:\n", max_tokens=20, stop_token_ids=[ids[3]], min_tokens=10))[1]
        assert later["usage"]["completion_tokens"] >= 10
        best = server.json("/v1/completions", ask(prompt="ROMEO:\n", max_tokens=8, temperature=1, seed=3, n=2, best_of=6, logprobs=0))[1]
        mean = [sum(c["logprobs"]["token_logprobs"]) / len(c["logprobs"]["token_logprobs"]) for c in best["choices"]]
        all_six = server.json("/v1/completions", ask(prompt="ROMEO:\n", max_tokens=8, temperature=1, seed=3, n=6, logprobs=0))[1]["choices"]
        means = sorted((sum(c["logprobs"]["token_logprobs"]) / len(c["logprobs"]["token_logprobs"]) for c in all_six), reverse=True)
        assert [c["index"] for c in best["choices"]] == [0, 1] and mean == means[:2], (mean, means)

        def answer(**fields):
            body = {"model": "shakespeare", "messages": [{"role": "user", "content": "ROMEO:"}], "temperature": 1, "seed": 1, "max_tokens": 200, **fields}
            status, told = server.json("/v1/chat/completions", body)
            assert status == 200, told
            return told["choices"][0]["message"]["content"]

        schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3, "maximum": 12}, "when": {"type": "string", "format": "date"}}, "required": ["n", "when"]}
        for fields in ({"guided_json": schema}, {"guided_json": json.dumps(schema)}, {"structured_outputs": {"json": schema}}, {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}):
            made = json.loads(answer(**fields))
            assert list(made) == ["n", "when"] and 3 <= made["n"] <= 12 and len(made["when"]) == 10, made
        zones = [f"Region/City_{i}" for i in range(600)]
        assert answer(guided_choice=zones) in zones and answer(structured_outputs={"choice": zones}) in zones
        assert server.json("/v1/chat/completions", {"model": "shakespeare", "messages": [{"role": "user", "content": "q"}], "guided_choice": ["a"], "grammar": 'root ::= "b"'})[0] == 400
        begun = answer(messages=[{"role": "user", "content": "ROMEO:"}, {"role": "assistant", "content": "I am"}], continue_final_message=True, add_generation_prompt=False, temperature=0)
        same = answer(messages=[{"role": "user", "content": "ROMEO:"}, {"role": "assistant", "content": "I am", "prefix": True}], temperature=0)
        by_hand = server.json("/v1/completions", ask(prompt="ROMEO:\nI am", max_tokens=200, stop=["\n\n"]))[1]["choices"][0]["text"]
        assert begun == same == by_hand, (begun, same, by_hand)


def defaults(program, model):
    """sampling as generation_config.json asks for, where a request says nothing"""
    with tempfile.TemporaryDirectory() as folder:
        for name in os.listdir(model):
            if name != "generation_config.json":
                os.symlink(os.path.abspath(os.path.join(model, name)), os.path.join(folder, name))
        with open(os.path.join(folder, "generation_config.json"), "w") as file:
            json.dump({"do_sample": False}, file)
        with Server(program, folder, "--name", "shakespeare") as server:
            body = {"model": "shakespeare", "prompt": TEXT, "max_tokens": 20}
            texts = [server.json("/v1/completions", {**body, **more})[1]["choices"][0]["text"] for more in ({}, {}, {"temperature": 0}, {"temperature": 1, "seed": 1})]
            assert texts[0] == texts[1] == texts[2] != texts[3], texts


if __name__ == "__main__":
    run_tests([echo, prompt_logprobs, tokens, sampling, defaults])
