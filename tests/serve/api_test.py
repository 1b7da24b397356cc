"""dsv3-serve as its clients see it: answers, streams, errors, limits, shutdown. Needs Python's standard library alone."""

import errno
import gzip
import json
import os
import re
import socket
import subprocess
import tempfile
import threading
import time

from server import Server, run_tests

GREEDY = "I'll not be a man, and I will not be.\n\nCLARENCE:\nI'll"  # 20 tokens after "ROMEO:\n"


def ask(**fields):
    return {"model": "shakespeare", "prompt": "ROMEO:\n", "temperature": 0, "max_tokens": 20, **fields}


def chat(*messages, **fields):
    roles = ("user", "assistant")
    return {
        "model": "shakespeare",
        "messages": [{"role": roles[i % 2], "content": m} for i, m in enumerate(messages)],
        "temperature": 0,
        "max_tokens": 20,
        **fields,
    }


def completions(program, model):
    """texts, ids, several prompts and answers, stop strings, seeds, log-probabilities, echo"""
    with Server(program, model) as server:
        status, whole = server.json("/v1/completions", ask(unknown_field={"is": "ignored"}, user=None))
        assert status == 200 and whole["choices"][0]["text"] == GREEDY, whole
        assert whole["object"] == "text_completion" and whole["choices"][0]["finish_reason"] == "length"
        assert whole["usage"] == {"prompt_tokens": 2, "completion_tokens": 20, "total_tokens": 22, "prompt_tokens_details": whole["usage"]["prompt_tokens_details"]}

        chunks = server.stream("/v1/completions", ask(stream_options={"include_usage": True}))
        assert "".join(c["choices"][0]["text"] for c in chunks[:-1]) == GREEDY
        assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == whole["usage"]
        assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]

        by_ids = server.json("/v1/completions", ask(prompt=ids_of("ROMEO:\n")))[1]
        assert by_ids["choices"][0]["text"] == GREEDY

        many = server.json("/v1/completions", ask(prompt=["ROMEO:\n", "JULIET:\n"], n=2, echo=True))[1]["choices"]
        assert [c["index"] for c in many] == [0, 1, 2, 3]
        assert many[0]["text"] == many[1]["text"] == "ROMEO:\n" + GREEDY and many[2]["text"] == many[3]["text"]
        assert many[2]["text"].startswith("JULIET:\n") and many[2]["text"][8:] != GREEDY

        stopped = server.json("/v1/completions", ask(stop=["LAREN", "will not be.\n\nCL"]))[1]["choices"][0]
        assert stopped["text"] == GREEDY[: GREEDY.index("will not be.\n\nCL")] and stopped["finish_reason"] == "stop"
        pieces = server.stream("/v1/completions", ask(stop="will not be.\n\nCL"))
        assert "".join(c["choices"][0]["text"] for c in pieces) == stopped["text"]

        drawn = [server.json("/v1/completions", ask(temperature=1, seed=s, max_tokens=30))[1]["choices"][0]["text"] for s in (1, 1, 2)]
        assert drawn[0] == drawn[1] != drawn[2]
        two = server.json("/v1/completions", ask(temperature=1, seed=1, max_tokens=30, n=2))[1]["choices"]
        assert two[0]["text"] == drawn[0] and two[1]["text"] == drawn[2]  # seeds follow one another
        free = {server.json("/v1/completions", ask(temperature=1, max_tokens=30))[1]["choices"][0]["text"] for _ in range(3)}
        assert len(free) == 3

        log = server.json("/v1/completions", ask(logprobs=3))[1]["choices"][0]["logprobs"]
        assert "".join(log["tokens"]) == GREEDY and len(log["token_logprobs"]) == 20
        assert all(max(t.values()) == p <= 0 and len(t) == 3 for t, p in zip(log["top_logprobs"], log["token_logprobs"]))
        assert log["text_offset"] == [len("".join(log["tokens"][:i])) for i in range(20)]

        generous = server.json("/v1/completions", ask(prompt=["ROMEO:\n"] * 25, stop=["", *"#@%&"], seed=2**63 - 1, logprobs=20, max_tokens=5))[1]["choices"]
        assert len(generous) == 25 and all(GREEDY.startswith(c["text"]) and len(c["logprobs"]["top_logprobs"][0]) == 20 for c in generous)
        accents = server.json("/v1/completions", ask(grammar='root ::= "\u00e9\u00e9\u00e9x"', logprobs=1))[1]["choices"][0]
        assert accents["text"] == "\u00e9\u00e9\u00e9x" and accents["logprobs"]["text_offset"][-2:] == [3, 4], accents

        banned = server.json("/v1/completions", ask(logit_bias={str(t): -100 for t in ids_of("I")}))[1]["choices"][0]["text"]
        assert not banned.startswith("I")

        # The same while others are computed.
        texts = []
        threads = [threading.Thread(target=lambda: texts.append(server.json("/v1/completions", ask())[1]["choices"][0]["text"])) for _ in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert texts == [GREEDY] * 8


def ids_of(text):
    """The ids of a text that the tokenizer's longest tokens make up."""
    vocabulary = json.load(open(os.path.join(MODEL, "tokenizer.json"), encoding="utf-8"))["model"]["vocab"]
    ids, rest = [], text.replace("\n", "Ċ")
    while rest:
        length = max(n for n in range(1, len(rest) + 1) if rest[:n] in vocabulary)
        ids.append(vocabulary[rest[:length]])
        rest = rest[length:]
    return ids


def chats(program, model):
    """messages of every form, streams, structured answers"""
    with Server(program, model) as server:
        line = GREEDY[: GREEDY.index("\n\n")]  # plain chats end with an empty line
        status, whole = server.json("/v1/chat/completions", chat("ROMEO:"))
        message = whole["choices"][0]["message"]
        assert status == 200 and message == {"role": "assistant", "content": line, "refusal": None}, whole
        assert whole["choices"][0]["finish_reason"] == "stop" and whole["object"] == "chat.completion"
        parts = chat("x")
        parts["messages"] = [{"role": "user", "content": [{"type": "text", "text": "ROM"}, {"type": "text", "text": "EO:"}]}]
        assert server.json("/v1/chat/completions", parts)[1]["choices"][0]["message"] == message

        chunks = server.stream("/v1/chat/completions", chat("ROMEO:", n=2))
        for i in (0, 1):
            mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == i]
            assert mine[0]["delta"] == {"role": "assistant", "content": ""}
            assert "".join(c["delta"].get("content", "") for c in mine) == line
            assert [c["finish_reason"] for c in mine if c["finish_reason"]] == ["stop"]

        log = server.json("/v1/chat/completions", chat("ROMEO:", logprobs=True, top_logprobs=2))[1]["choices"][0]["logprobs"]["content"]
        assert bytes(sum((t["bytes"] for t in log), [])).decode().startswith(line) and all(len(t["top_logprobs"]) == 2 for t in log)

        schema = {
            "type": "object",
            "properties": {"who": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}, "is": {"enum": ["dead", "alive"]}},
            "required": ["who", "age", "is"],
            "additionalProperties": False,
        }
        form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
        for seed in range(5):
            c = server.json("/v1/chat/completions", chat("ROMEO:", temperature=1, seed=seed, max_tokens=300, response_format=form))[1]["choices"][0]
            person = json.loads(c["message"]["content"])
            assert list(person) == ["who", "age", "is"] and person["is"] in ("dead", "alive") and c["finish_reason"] == "stop", c
        c = server.json("/v1/chat/completions", chat("ROMEO:", max_tokens=300, response_format={"type": "json_object"}, logit_bias={}))[1]["choices"][0]
        assert c["finish_reason"] == "length" or isinstance(json.loads(c["message"]["content"]), dict)
        c = server.json("/v1/completions", ask(grammar='root ::= ("yes" | "no") "!"'))[1]["choices"][0]
        assert c["text"] in ("yes!", "no!") and c["finish_reason"] == "stop"


def tools_and_reasoning(program, model):
    """V3.1's and R1's formats on a model that was not trained for them"""
    with Server(program, model, "--format", "v31") as server:
        tool = {"type": "function", "function": {"name": "get_age", "description": "d", "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}}
        forced = chat("ROMEO:", tools=[tool], tool_choice={"type": "function", "function": {"name": "get_age"}}, max_tokens=100)
        choice = server.json("/v1/chat/completions", forced)[1]["choices"][0]
        call = choice["message"]["tool_calls"][0]
        assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None, choice
        assert call["type"] == "function" and call["function"]["name"] == "get_age" and list(json.loads(call["function"]["arguments"])) == ["n"]
        deltas = [c["choices"][0]["delta"] for c in server.stream("/v1/chat/completions", forced)]
        (streamed,) = [d["tool_calls"] for d in deltas if "tool_calls" in d]
        assert streamed[0]["index"] == 0 and streamed[0]["function"] == call["function"]
        again = chat("ROMEO:", tools=[tool])
        again["messages"] += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": "18"},
        ]
        assert server.json("/v1/chat/completions", again)[0] == 200
        assert server.json("/v1/chat/completions", chat("q", tools=[tool], tool_choice="none"))[0] == 200
        assert server.json("/v1/chat/completions", chat("q", tool_choice="required"))[0] == 400
        thought = server.json("/v1/chat/completions", chat("q", chat_template_kwargs={"thinking": True}))[1]["choices"][0]["message"]
        assert thought["reasoning_content"] and thought["content"] == ""
        assert "reasoning_content" not in server.json("/v1/chat/completions", chat("q"))[1]["choices"][0]["message"]
    one_of_several("v31", program, model)
    with Server(program, model, "--format", "r1", "--drafts", "1") as server:
        deltas = [c["choices"][0]["delta"] for c in server.stream("/v1/chat/completions", chat("q"))]
        assert "".join(d.get("reasoning_content", "") for d in deltas) and not "".join(d.get("content", "") for d in deltas)
        assert server.metric("dsv3_draft_tokens_total") > 0
        # Behind results of tools R1's prompt opens no reasoning.
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        told = chat("q", max_tokens=5)
        told["messages"] += [{"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c", "content": "1"}]
        message = server.json("/v1/chat/completions", told)[1]["choices"][0]["message"]
        assert message["content"] and "reasoning_content" not in message, message
    for name in ("r1", "v3-0324", "plain"):
        one_of_several(name, program, model)


def unknown_template(program, model):
    """Chats are refused where the template is none of the published ones, unless --format says what it is"""
    with tempfile.TemporaryDirectory() as folder:
        for file in os.listdir(model):
            os.symlink(os.path.abspath(os.path.join(model, file)), os.path.join(folder, file))
        with open(os.path.join(folder, "chat_template.jinja"), "w") as template:
            template.write("{{bos_token}}<｜User｜>{{messages[0].content}}<｜Assistant｜>")
        with Server(program, folder, "--name", "shakespeare") as server:
            status, answer = server.json("/v1/chat/completions", chat("q"))
            assert status == 400 and answer["error"]["code"] == "unknown_chat_template" and "v3-0324" in answer["error"]["message"], answer
            assert server.json("/v1/completions", {"model": "shakespeare", "prompt": "q", "max_tokens": 2})[0] == 200
        with Server(program, folder, "--name", "shakespeare", "--format", "plain") as server:
            assert server.json("/v1/chat/completions", chat("q", max_tokens=2))[0] == 200


def one_of_several(name, program, model):
    """tool_choice "required" leaves the choice to the model, and holds it to the one that it chose"""
    def tool(name, schema):
        return {"type": "function", "function": {"name": name, "parameters": schema}}

    digit = {"enum": [1, 2]}
    tools = [
        tool("age", {"type": "object", "properties": {"a": digit}, "required": ["a"]}),
        tool("age_of", {"type": "object", "properties": {"b": {"$ref": "#/$defs/d"}}, "required": ["b"], "$defs": {"d": digit}}),
        tool("any", {"type": "object"}),
    ]
    called = set()
    with Server(program, model, "--format", name, "--context", "2048") as server:
        for seed in range(8):
            choice = server.json("/v1/chat/completions", chat("q", tools=tools, tool_choice="required", temperature=1.5, seed=seed, max_tokens=100))[1]["choices"][0]
            if choice["finish_reason"] == "length":  # a long argument of "any"
                continue
            (call,) = choice["message"]["tool_calls"]
            function, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
            called.add(function)
            assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None, choice
            assert function == "any" or list(arguments) == [{"age": "a", "age_of": "b"}[function]] and list(arguments.values())[0] in (1, 2), choice
    assert len(called) > 1, called


def compute(program, model):
    """--compute bf16: answers that differ by rounding, and are the same each time as long as nothing runs beside them"""
    prompt = "ROMEO:\nBut soft, what light through yonder window breaks? It is the east.\n\nJULIET:\n"
    found = {}
    for name in ("exact", "bf16"):
        with Server(program, model, "--compute", name) as server:
            first, second = (server.json("/v1/completions", ask(prompt=prompt, logprobs=1))[1] for _ in range(2))
            assert first["choices"] == second["choices"] and first["usage"]["prompt_tokens"] > 16
            found[name] = first["choices"][0]["logprobs"]["token_logprobs"][0]
    # Activations keep 8 bits: each product is off by 2^-9 of its terms, a logit of some 10 by a few hundredths.
    assert 0 < abs(found["exact"] - found["bf16"]) < 0.1, found


def errors(program, model):
    """what does not fit gets OpenAI's error object, and harms no one"""
    with Server(program, model, "--max-body", "20000", "--max-new", "100") as server:

        def refused(status, body, param=None, code=None, path="/v1/completions", headers=None):
            found, error = server.json(path, body, headers=headers)
            assert found == status and set(error["error"]) == {"message", "type", "param", "code"}, (body, found, error)
            assert param is None or error["error"]["param"] == param, (body, error)
            assert code is None or error["error"]["code"] == code, (body, error)

        talk = "/v1/chat/completions"
        for path in ("/v1/completions", talk):
            for body in (b"", b"{", b"[]", b'"x"', b"null", b'{"temperature": 1e999}', b"[" * 10000, b'{"a":' * 3000, b'{"model": "shakespeare", "prompt": "\\ud800"}', b"{" + b'"a":1,' * 2 + b'"b":2}'):
                refused(400, body, path=path, code="invalid_json")
            refused(400, b'{"model": "\xff"}', path=path, code="invalid_utf8")
            refused(400, {}, "model", "missing_required_parameter", path)
            refused(404, {"model": "other"}, "model", "model_not_found", path)
            refused(413, b" " * 20001, code="request_too_large", path=path)
            refused(413, (b" " * 1000 for _ in range(30)), code="request_too_large", path=path)
            refused(413, gzip.compress(b" " * 10_000_000), code="request_too_large", path=path, headers={"Content-Encoding": "gzip"})
        wrong = {
            "temperature": ("1", True, -0.1, 2.1, []), "top_p": (2, "x"), "max_tokens": (0, -1, 1.5, "9", 1e30), "n": (0, 1.5, 129, 10**20), "stream": (1, "yes"),
            "stop": (5, [5], ["a"] * 65, {}), "seed": ("x", 1.5, 2**63, 2.0**63, 10**30), "logit_bias": ([], {"x": 1}, {"1": "x"}, {"5000": 1}, {"1": 101}, {"99999999999999999999": 1}),
            "presence_penalty": (3,), "frequency_penalty": (-3,), "stream_options": (5,), "prompt": (None, 5, {}, [], "", [[]], [1.5], [-1], [1024], ["a", 5], ["a"] * 129, [[1], "a", {}], [10**30]),
            "logprobs": (21, True), "best_of": (0, 129), "suffix": ("x",), "response_format": ("x", {"type": "x"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}),
            "guided_regex": ("a",), "guided_json": ("x", 5, {"not": {}}), "guided_choice": ([], "a", [1]), "structured_outputs": (5, {"regex": "a"}, {"json": {"type": "x"}}),
            "stop_token_ids": (5, [1024], ["a"]), "ignore_eos": (1,), "min_tokens": (-1, 2000), "prompt_logprobs": (21, -1), "grammar": ("root ::= root", 5, 'root ::= "a"{9999999}'), "top_k": ("x",), "min_p": (2,), "repetition_penalty": (0,),
        }
        for field, values in wrong.items():
            for value in values:
                refused(400, ask(**{field: value}), None if field in ("logit_bias", "response_format", "structured_outputs") else field)
        bad_chats = {
            "messages": (None, [], {}, "x", [1], [{}], [{"role": "x", "content": "y"}], [{"role": 5}], [{"role": "user"}], [{"role": "user", "content": 5}], [{"role": "user", "content": [{"type": "image_url"}]}],
                         [{"role": "user", "content": [5]}], [{"role": "assistant"}], [{"role": "assistant", "tool_calls": [{}]}], [{"role": "assistant", "tool_calls": 5}], [{"role": "tool", "content": None}]),
            "tools": (5, [5], [{}], [{"function": {"name": "a b"}}], [{"type": "x"}]), "tool_choice": ("x", 5, {"function": {"name": "none"}}),
            "continue_final_message": (1, True), "top_logprobs": (3, 21), "logprobs": (3,), "chat_template_kwargs": (5,), "max_completion_tokens": (0, "9"),
        }
        for field, values in bad_chats.items():
            for value in values:
                refused(400, chat("q", **{field: value}), path=talk)
        refused(400, ask(prompt=[5] * 1100), "prompt", "context_length_exceeded")
        refused(400, ask(prompt=[5] * 1024, max_tokens=1), "prompt", "context_length_exceeded")
        refused(400, chat("word " * 2000), "messages", "context_length_exceeded", talk)
        for method, path in (("GET", "/nope"), ("GET", "/v1/completions"), ("PUT", "/v1/models"), ("DELETE", "/"), ("GET", "/v1/models/other")):
            status, _, text = server.request(method, path)
            assert status == 404 and "error" in json.loads(text), (method, path, status)
        status, _, text = server.request("POST", "/v1/completions", b"--x--", {"Content-Type": "multipart/form-data; boundary=x"})
        assert status == 400

        for garbage in (b"", b"\r\n\r\n", b"GARBAGE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 5000, b"GET /" + b"a" * 10000 + b" HTTP/1.1\r\n\r\n",
                        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 100_000, b"GET / HTTP/1.1\r\n" + b"x" * 1_000_000, b"POST /v1/completions HTTP/1.1\r\nContent-Length: 100\r\n\r\n{",
                        b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n{", b"POST /v1/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n{",
                        b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx"):
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as s:
                try:
                    s.sendall(garbage)
                    s.shutdown(socket.SHUT_WR)
                    while s.recv(65536):
                        pass
                except OSError as e:  # the server may hang up first, but not keep the client waiting
                    if not isinstance(e, ConnectionError) and e.errno != errno.ENOTCONN:
                        raise
        assert server.json("/health") == (200, {"status": "ok"})
        assert server.json("/v1/completions", ask())[1]["choices"][0]["text"] == GREEDY
        assert server.metric("dsv3_sequences_failed_total") == 0


def keys(program, model):
    """an API key from the environment or a file"""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("secret\n")
        file.flush()
        for options, env in ((("--api-key-file", file.name), None), ((), {**os.environ, "DSV3_API_KEY": "secret"})):
            with Server(program, model, *options, env=env) as server:
                for header in ({}, {"Authorization": "Bearer secre"}, {"Authorization": "secret"}, {"Authorization": "Bearer secret2"}):
                    assert server.request("POST", "/v1/completions", ask(), header)[0] == 401
                    assert server.request("GET", "/v1/models", None, header)[0] == 401
                good = {"Authorization": "Bearer secret"}
                assert server.request("POST", "/v1/completions", ask(), good)[0] == 200
                assert server.request("GET", "/v1/models/shakespeare", None, good)[0] == 200
                assert server.request("GET", "/health")[0] == 200


def overload(program, model):
    """a full queue is 429, too many connections are 503, both with Retry-After; clients that leave make room"""
    with Server(program, model, "--sequences", "1", "--queue", "1", "--connections", "6") as server:
        long = json.dumps(ask(max_tokens=1000, prompt="A\n", logit_bias={"1": -100})).encode()
        head = b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(long)
        clients = []
        for state in ("running", "waiting"):
            clients.append(socket.create_connection(("127.0.0.1", server.port)))
            clients[-1].sendall(head + long)
            while server.metric(f"dsv3_sequences_{state}") == 0:
                time.sleep(0.01)
        status, headers, text = server.request("POST", "/v1/completions", ask())
        assert status == 429 and headers["Retry-After"] and json.loads(text)["error"]["type"] == "rate_limit_error", (status, text)
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(4)]
        for c in idle:
            c.sendall(b"GET /health")  # the rest may take a while to come
        until = time.time() + 20
        while (refused := server.request("GET", "/health"))[0] == 200 and time.time() < until:
            time.sleep(0.1)
            idle.append(socket.create_connection(("127.0.0.1", server.port)))  # on a busy machine some of the others have ended
            idle[-1].sendall(b"GET /health")
        status, headers, text = refused
        assert status == 503 and headers["Retry-After"] and json.loads(text)["error"]["code"] == "overloaded", refused
        time.sleep(0.1)  # a client that ends its request and its sending together waits for an answer
        for c in clients + idle:
            c.close()
        until = time.time() + 30
        while time.time() < until and server.request("GET", "/health")[0] == 503:
            time.sleep(0.1)
        while time.time() < until and [server.metric(f"dsv3_{m}_total") for m in ("sequences_cancelled", "client_disconnects")] != [2, 2]:
            time.sleep(0.1)
        assert time.time() < until, "clients that left are still served"
        assert server.json("/v1/completions", ask())[1]["choices"][0]["text"] == GREEDY
    with Server(program, model, "--timeout", "0.5") as server:
        status, error = server.json("/v1/completions", ask(max_tokens=1000, logit_bias={"1": -100}))
        assert status == 408 and error["error"]["code"] == "timeout", error


def shutdown(program, model):
    """running answers are finished if there is time, and given up with a word if there is not"""
    for grace, finishes in (("600", True), ("0.1", False)):
        server = Server(program, model, "--grace", grace)
        result = {}
        body = ask(max_tokens=400, stream=True, logit_bias={"1": -100})

        def client():
            result["answer"] = server.request("POST", "/v1/completions", body)

        thread = threading.Thread(target=client)
        thread.start()
        while server.metric("dsv3_sequences_running") == 0:
            time.sleep(0.02)
        server.process.terminate()
        time.sleep(0.05)
        if finishes:
            assert server.json("/v1/completions", ask())[0] == 503
            assert server.request("GET", "/health")[0] == 503
        errors = server.stop(signalled=True)
        thread.join()
        lines = result["answer"][2].decode().split("\n\n")
        assert server.process.returncode == 0 and lines[-2] == "data: [DONE]"
        last = json.loads(lines[-3].removeprefix("data: "))
        if finishes:
            assert last["choices"][0]["finish_reason"] == "length" and "1 answers finished, 0 given up" in errors, errors
        else:
            assert last["error"]["code"] == "shutting_down" and "1 answers are given up" in errors, errors


def shutdown_of_waiting_connections(program, model):
    """connections that are idle, or whose request is not whole, do not hold the shutdown"""
    server = Server(program, model)
    idle, half = (socket.create_connection(("127.0.0.1", server.port)) for _ in range(2))
    idle.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert idle.recv(4096).startswith(b"HTTP/1.1 200")
    half.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    time.sleep(0.2)
    server.process.terminate()
    server.process.wait(timeout=20)  # the rest of a request has 30 s
    server.stop(signalled=True)
    assert server.process.returncode == 0
    idle.close()
    half.close()


def port_in_use(program, model):
    """a second server on the same port says so and ends"""
    with Server(program, model) as server:
        second = subprocess.run([program, model, "--port", str(server.port)], capture_output=True, text=True, timeout=60)
        assert second.returncode == 1 and "cannot listen on 127.0.0.1 port " + str(server.port) in second.stderr, second.stderr


def page(program, model):
    """the page is there, and may talk to no one but this server"""
    with Server(program, model) as server:
        status, headers, text = server.request("GET", "/")
        assert status == 200 and headers["Content-Type"].startswith("text/html")
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy, policy
        files = re.findall(r'(?:src|href)="(/[^"]*)"', text.decode())
        assert len(files) == 3, files
        for path in files:
            status, headers, text = server.request("GET", path)
            assert status == 200 and headers["Content-Type"].startswith("text/css" if path.endswith("css") else "text/javascript"), (path, headers)
            assert text and headers["X-Content-Type-Options"] == "nosniff"


if __name__ == "__main__":
    import sys

    MODEL = sys.argv[2] if len(sys.argv) > 2 else ""
    run_tests([completions, chats, tools_and_reasoning, unknown_template, compute, errors, keys, overload, shutdown, shutdown_of_waiting_connections, port_in_use, page])
