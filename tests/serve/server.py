"""Starts dsv3-serve for a test and talks to it with nothing but Python's standard library."""

import http.client
import json
import re
import signal
import subprocess
import sys

SKIPPED = 77


class Server:
    """A server on a free port; used as a context it must end by SIGTERM without complaint."""

    def __init__(self, program, model, *options, env=None):
        self.process = subprocess.Popen(
            [program, model, "--port", "0", "--threads", "1", "--compute", "exact", *options],  # the bits of an answer alone, on any machine
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
        )
        line = self.process.stdout.readline()
        found = re.match(r"serving (\S+) on http://127.0.0.1:(\d+)\n", line)
        if not found:
            raise RuntimeError(f"no server: {line!r} {self.process.communicate()[1]}")
        self.name, self.port = found[1], int(found[2])

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.errors = self.stop()
        if kind is None:
            assert self.process.returncode == 0, (self.process.returncode, self.errors)
            assert "ended; " in self.errors and "Sanitizer" not in self.errors, self.errors

    def stop(self, signalled=False):
        """Sends SIGTERM, if that has not been done; returns what the server wrote to standard error."""
        if self.process.poll() is None and not signalled:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.communicate(timeout=120)[1]
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.communicate()[1] + "\nthe server did not end"

    def request(self, method, path, body=None, headers=None, timeout=60):
        """Returns (status, headers, bytes). `body`: what is sent as JSON, or bytes, or pieces of bytes, sent chunked."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            if isinstance(body, (dict, list)):
                body = json.dumps(body).encode()
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def json(self, path, body=None, **options):
        """Returns (status, JSON)."""
        status, _, text = self.request("GET" if body is None else "POST", path, body, **options)
        return status, json.loads(text)

    def stream(self, path, body):
        """The objects of a stream, which must end as streams do."""
        status, headers, text = self.request("POST", path, {**body, "stream": True})
        assert status == 200 and headers["Content-Type"] == "text/event-stream", (status, headers, text)
        lines = text.decode().split("\n\n")
        assert lines[-2:] == ["data: [DONE]", ""], lines[-2:]
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-2] if line.startswith("data: ")]

    def metric(self, name):
        for line in self.request("GET", "/metrics")[2].decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
        raise KeyError(name)


def run_tests(tests):
    """Runs functions that take (program, model), named by their docstrings."""
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} DSV3_SERVE MODEL")
    for test in tests:
        print(f"{test.__name__}: {test.__doc__}", flush=True)
        test(*sys.argv[1:])
    print(f"{len(tests)} tests passed")
