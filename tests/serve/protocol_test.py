"""dsv3-serve and HTTP itself: requests that cannot be read, browsers' questions (CORS), keys, half-closed connections, the log. Needs Python's
standard library alone."""

import json
import os
import socket
import subprocess
import sys
import tempfile

from server import Server, run_tests

BODY = json.dumps({"model": "shakespeare", "prompt": "ROMEO:\n", "temperature": 0, "max_tokens": 5}).encode()


def talk(server, text, half_close=False, timeout=20):
    """All that the server sends, until it closes or a second passes after an answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=timeout) as s:
        s.sendall(text)
        if half_close:
            s.shutdown(socket.SHUT_WR)
        received = b""
        try:
            while more := s.recv(65536):
                received += more
                s.settimeout(1)
        except TimeoutError:
            received += b"<open>"
        except ConnectionError:
            pass
        return received


def post(*headers, body=BODY, path=b"/v1/completions"):
    return b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + b"".join(h + b"\r\n" for h in headers) + b"\r\n" + body


def malformed(program, model):
    """requests whose end is not certain get one answer, and the connection ends: what follows is not taken for another request"""
    length = b"Content-Length: %d" % len(BODY)
    smuggled = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    with Server(program, model) as server:
        for status, request in {
            400: [
                post(length, length),
                post(length, b"Content-Length: 3"),
                post(length, b"Transfer-Encoding: chunked"),
                post(b"Transfer-Encoding: gzip, chunked"),
                post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
                post(b"Content-Length: +5"),
                post(b"Content-Length: 0x10"),
                b"GET /health HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
                b"GET /health HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                b"GET /health HTTP/1.1\r\nx: " + b"a" * 20_000 + b"\r\n\r\n",
                b"RUBBISH\r\n\r\n",
                b"GET /health HTTP/7.7\r\n\r\n",
            ],
            411: [post()],
        }.items():
            for one in request:
                answer = talk(server, one + smuggled)
                assert answer.startswith(b"HTTP/1.1 %d " % status), (one[:200], answer)
                assert answer.count(b"HTTP/1.1") == 1 and not answer.endswith(b"<open>"), (one[:200], answer)
                assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["type"] == "invalid_request_error", answer
        hello = bytes.fromhex("16030100c8010000c40303") + os.urandom(200)
        assert talk(server, hello) == b"", "TLS on the plain port"


def unusual(program, model):
    """what is rare and right: chunks with extensions, whole addresses, clients that close their side, HEAD, several requests at once"""
    with Server(program, model) as server:
        chunked = b"%x;a=b;c=\"d\"\r\n" % 20 + BODY[:20] + b"\r\n%X\r\n" % (len(BODY) - 20) + BODY[20:] + b"\r\n0;last\r\n\r\n"
        length = b"Content-Length: %d" % len(BODY)
        texts = set()
        for request, half_close in (
            (post(length), False),
            (post(length), True),
            (post(b"Transfer-Encoding: chunked", body=chunked), False),
            (post(b"transfer-encoding: Chunked", body=chunked), True),
            (post(length, path=b"http://example.org/v1/completions"), False),
        ):
            answer = talk(server, request, half_close)
            assert answer.startswith(b"HTTP/1.1 200 "), (request, answer)
            texts.add(json.loads(answer.split(b"\r\n\r\n", 1)[1].removesuffix(b"<open>"))["choices"][0]["text"])
        assert len(texts) == 1, texts
        streamed = talk(server, post(b"Content-Length: %d" % (len(BODY) + 15), body=BODY[:-1] + b', "stream":true}'[:-1] + b"}"), True)
        assert streamed.startswith(b"HTTP/1.1 200 ") and b"[DONE]" in streamed, streamed
        head = talk(server, b"HEAD /health HTTP/1.1\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ") and b"\r\n\r\n<open>" in head, head
        three = talk(server, post(length) * 2 + b"GET /health HTTP/1.1\r\n\r\n")
        assert three.count(b"HTTP/1.1 200") == 3, three
        assert talk(server, b"OPTIONS /v1/models HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 204 ")


def origins(program, model):
    """pages of other origins read answers if --allowed-origins has them"""
    ask = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,x-b"}
    for allowed, expected in ((None, None), ("https://b.example", None), ("https://b.example, https://a.example", "https://a.example"), ("*", "*")):
        with Server(program, model, *(("--allowed-origins", allowed) if allowed else ())) as server:
            status, headers, _ = server.request("OPTIONS", "/v1/chat/completions", None, ask)
            assert status == 204 and headers["Access-Control-Allow-Origin"] == expected, (allowed, headers)
            assert headers["Access-Control-Allow-Headers"] == ("authorization,x-b" if expected else None)
            for method, path, body in (("GET", "/v1/models", None), ("POST", "/v1/completions", BODY), ("POST", "/v1/completions", b"{"), ("GET", "/none", None)):
                found = server.request(method, path, body, {"Origin": "https://a.example"})[1]["Access-Control-Allow-Origin"]
                assert found == expected, (allowed, method, path, found)


def keys(program, model):
    """several keys, from a file and the environment; an empty one is an error"""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("first\n\n  second  \n")
        file.flush()
        with Server(program, model, "--api-key-file", file.name, env={**os.environ, "DSV3_API_KEY": "third"}) as server:
            for key, status in (("first", 200), ("second", 200), ("third", 200), ("", 401), ("first\n", 401), ("fourth", 401)):
                for scheme in ("Bearer", "bearer"):
                    assert server.request("GET", "/v1/models", None, {"Authorization": f"{scheme} {key.strip()}" + " x" * (key != key.strip())})[0] == status, key
            for path in ("/tokenize", "/detokenize", "/v1/completions"):
                assert server.request("POST", path, BODY)[0] == 401
    ended = subprocess.run([program, model, "--port", "0"], env={**os.environ, "DSV3_API_KEY": ""}, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and "DSV3_API_KEY: expected an API key, found nothing" in ended.stderr, ended


def log(program, model):
    """--log-requests: a line a request, on standard error"""
    server = Server(program, model, "--log-requests")
    server.request("POST", "/v1/completions", BODY)
    server.request("GET", "/no%0Asuch")
    lines = [line for line in server.stop().splitlines() if "127.0.0.1" in line]
    assert len(lines) == 2 and ' 127.0.0.1 POST "/v1/completions" 200 ' in lines[0] and ' GET "/no\\nsuch" 404 ' in lines[1], lines


if __name__ == "__main__":
    run_tests([malformed, unusual, origins, keys, log])
