"""Runs clients that people use against dsv3-serve, each in a Python environment of its own, and prints a table of them. No part of the tests, as it
installs packages.

clients.py DSV3_SERVE MODEL [CLIENT...]     default: all of CLIENTS
"""

import os
import pathlib
import subprocess
import sys
import tempfile

from server import Server

# Package as pip knows it, and a program that ends with an error unless the client works; it is given BASE (…/v1) and MODEL.
SCHEMA = """
from typing import Literal
from pydantic import BaseModel, Field

class Answer(BaseModel):
    mood: Literal["merry", "sad"]
    number: int = Field(ge=3, le=9)
"""
CLIENTS = {
    "openai": ("openai", """
import openai
client = openai.OpenAI(base_url=BASE, api_key="none")
said = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "ROMEO:"}], max_tokens=9)
assert said.choices[0].message.content
streamed = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "ROMEO:"}], max_tokens=9, stream=True)
assert "".join(c.choices[0].delta.content or "" for c in streamed if c.choices)
assert client.completions.create(model=MODEL, prompt="ROMEO:", max_tokens=3, logprobs=2, echo=True).choices[0].logprobs.tokens
"""),
    "litellm": ("litellm", """
import litellm
said = litellm.completion(model="openai/" + MODEL, api_base=BASE, api_key="none", messages=[{"role": "user", "content": "ROMEO:"}], max_tokens=9)
assert said.choices[0].message.content
"""),
    "langchain": ("langchain-openai", """
from langchain_openai import ChatOpenAI
chat = ChatOpenAI(model=MODEL, base_url=BASE, api_key="none", max_tokens=9)
assert chat.invoke("ROMEO:").content and "".join(c.content for c in chat.stream("ROMEO:"))
""" + SCHEMA + """
assert isinstance(ChatOpenAI(model=MODEL, base_url=BASE, api_key="none").with_structured_output(Answer, method="json_schema").invoke("ROMEO:"), Answer)
"""),
    "llama-index": ("llama-index-llms-openai-like", """
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike
llm = OpenAILike(model=MODEL, api_base=BASE, api_key="none", is_chat_model=True, max_tokens=9)
assert llm.chat([ChatMessage(role="user", content="ROMEO:")]).message.content
assert "".join(c.delta for c in llm.stream_complete("ROMEO:"))
"""),
    "instructor": ("instructor", """
import instructor, openai
""" + SCHEMA + """
client = instructor.from_openai(openai.OpenAI(base_url=BASE, api_key="none"), mode=instructor.Mode.JSON_SCHEMA)
answer = client.chat.completions.create(model=MODEL, response_model=Answer, messages=[{"role": "user", "content": "ROMEO:"}])
assert 3 <= answer.number <= 9
"""),
    "pydantic-ai": ("pydantic-ai-slim[openai]", """
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
""" + SCHEMA + """
model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=BASE, api_key="none"))
assert Agent(model, output_type=NativeOutput(Answer)).run_sync("ROMEO:").output.number >= 3
"""),
    "llm": ("llm", """
import os, pathlib, subprocess, sys
folder = pathlib.Path(os.environ["LLM_USER_PATH"])
(folder / "extra-openai-models.yaml").write_text(f"- model_id: local\\n  model_name: {MODEL}\\n  api_base: {BASE}\\n")
said = subprocess.run([sys.executable, "-m", "llm", "-m", "local", "-o", "max_tokens", "9", "ROMEO:"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
assert said.returncode == 0 and said.stdout.strip(), said.stderr
"""),
    "guidellm": ("guidellm", """
import json, pathlib, subprocess, sys
prompts, report = pathlib.Path("prompts.jsonl"), pathlib.Path("report.json")
prompts.write_text("".join(json.dumps({"prompt": p, "output_tokens_count": 9}) + "\\n" for p in ("ROMEO:", "JULIET:", "O, ")))
options = {"--backend": f"kind=openai_http,target={BASE.removesuffix('/v1')},model={MODEL}", "--data": f"kind=json_file,path={prompts}",
           "--profile": "kind=synchronous", "--constraint": "kind=max_requests,count=3", "--output": f"kind=json,path={report}"}
ran = subprocess.run([pathlib.Path(sys.executable).with_name("guidellm"), "run", "--disable-console", *(x for pair in options.items() for x in pair)])
totals = json.loads(report.read_text())["benchmarks"][0]["metrics"]["request_totals"]
assert ran.returncode == 0 and totals["successful"] == 3 and totals["errored"] == 0, totals
"""),
}  # fmt: skip


def run(name, base, model):
    """Returns (version, None or what went wrong)."""
    package, program = CLIENTS[name]
    with tempfile.TemporaryDirectory() as place:
        python = os.path.join(place, "bin", "python")
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        installed = subprocess.run([python, "-m", "pip", "-q", "install", package], capture_output=True, text=True)
        if installed.returncode != 0:
            return "", "cannot be installed: " + installed.stderr[-300:]
        bare = package.split("[")[0]
        version = subprocess.run([python, "-c", f"import importlib.metadata as m; print(m.version({bare!r}))"], capture_output=True, text=True).stdout.strip()
        script = pathlib.Path(place) / "client.py"
        script.write_text(f"BASE, MODEL = {base!r}, {model!r}\n" + program)
        ran = subprocess.run([python, script], capture_output=True, text=True, timeout=300, cwd=place, env={**os.environ, "LLM_USER_PATH": place})
        return version, None if ran.returncode == 0 else ran.stderr[-1500:]


if __name__ == "__main__":
    failed = False
    with Server(*sys.argv[1:3], "--context", "1024") as server:
        for client in sys.argv[3:] or CLIENTS:
            version, wrong = run(client, f"http://127.0.0.1:{server.port}/v1", server.name)
            print(f"| {client} | {version} | {'works' if wrong is None else 'fails: ' + wrong} |", flush=True)
            failed |= wrong is not None
    sys.exit(failed)
