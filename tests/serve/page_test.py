"""The page of dsv3-serve in headless Chromium, by its debugging protocol; skipped where there is no Chromium."""

import base64
import itertools
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

from server import SKIPPED, Server, run_tests

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if not CHROMIUM:
    print("skipped: there is no Chromium")
    sys.exit(SKIPPED)


class Browser:
    """One page of a headless browser. `before` is run in each document before its own scripts."""

    def __init__(self, url, before=""):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-port=0"]
        self.process = subprocess.Popen([CHROMIUM, *options, f"--user-data-dir={self.profile.name}", "about:blank"], stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"ws://127.0.0.1:(\d+)(/\S+)", line):
                break
        else:
            raise RuntimeError("Chromium did not start")
        self.ids, self.session, self.console = itertools.count(1), None, []
        self.socket = socket.create_connection(("127.0.0.1", int(found[1])), timeout=60)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {found[2]} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.socket.recv(1)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Runtime.enable")
        self.call("Log.enable")
        self.call("Page.enable")
        self.call("Page.addScriptToEvaluateOnNewDocument", source=before)
        self.call("Page.navigate", url=url)

    def close(self):
        self.process.terminate()
        self.process.wait(30)
        self.process.stderr.close()
        self.socket.close()
        self.profile.cleanup()

    def call(self, method, **parameters):
        message = {"id": next(self.ids), "method": method, "params": parameters, **({"sessionId": self.session} if self.session else {})}
        text, mask = json.dumps(message).encode(), os.urandom(4)
        size = struct.pack("!BB", 0x81, 0x80 | len(text)) if len(text) < 126 else struct.pack("!BBH", 0x81, 0x80 | 126, len(text))
        self.socket.sendall(size + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(text)))
        while True:
            answer = self.receive()
            if answer.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                self.console.append(answer["params"])
            if answer.get("id") == message["id"]:
                assert "error" not in answer, answer
                return answer["result"]

    def exactly(self, count):
        data = b""
        while len(data) < count:
            data += self.socket.recv(count - len(data)) or sys.exit("Chromium has gone")
        return data

    def receive(self):
        text, last = b"", False
        while not last:
            first, size = self.exactly(2)
            last = bool(first & 0x80)
            if size == 126:
                (size,) = struct.unpack("!H", self.exactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", self.exactly(8))
            text += self.exactly(size)
        return json.loads(text)

    def run(self, script):
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, script):
        until = time.time() + 60
        while not (value := self.run(script)):
            assert time.time() < until, (script, self.run("document.body.innerText"))
            time.sleep(0.1)
        return value


    def size(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def press(self, key, modifiers=0, **more):
        code = {"Enter": 13}[key]
        for kind in ("rawKeyDown", "char", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, modifiers=modifiers, **({"text": "\r"} if kind == "char" else {}), **more)

    def unexpected(self, *expected):
        """What the console has, but for messages that contain one of `expected`."""
        return [c for c in self.console if c.get("entry", {}).get("level") != "verbose" and not any(e in json.dumps(c) for e in expected)]


# A server that says what a test lets it say: come({content: "..."}) is a piece of the answer, end() its end. `refusal` is [status, message],
# "unreachable", or nothing; `asked` holds the requests' bodies.
STUB = r"""
window.asked = [];
window.refusal = null;
window.fetch = async (path, options) => {
  if (path === "/v1/models") return Response.json({data: [{id: "stub"}]});
  if (window.refusal === "unreachable") throw new TypeError("Failed to fetch");
  if (window.refusal) return Response.json({error: {message: window.refusal[1]}}, {status: window.refusal[0]});
  window.asked.push(JSON.parse(options.body));
  let stream;
  const body = new ReadableStream({start: controller => { stream = controller; }});
  options.signal.addEventListener("abort", () => stream.error(new DOMException("aborted", "AbortError")));
  const send = text => stream.enqueue(new TextEncoder().encode("data: " + text + "\n\n"));
  window.come = delta => send(JSON.stringify({choices: [{delta}]}));
  window.end = () => { send("[DONE]"); stream.close(); };
  window.breakOff = () => stream.error(new TypeError("network error"));
  return new Response(body);
};
window.drawn = () => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 0))));
"""


class Stubbed:
    """The page with a stub instead of a server's answers; its console must stay empty."""

    def __init__(self, program, model, width=1000, height=700):
        self.server, self.width, self.height = Server(program, model), width, height

    def __enter__(self):
        self.server.__enter__()
        self.browser = Browser(f"http://127.0.0.1:{self.server.port}/", STUB)
        self.browser.size(self.width, self.height)
        self.browser.wait("document.getElementById('model')?.textContent == 'stub'")
        return self.browser

    def __exit__(self, kind, value, trace):
        unexpected = self.browser.unexpected()
        self.browser.close()
        self.server.__exit__(kind, value, trace)
        assert kind or not unexpected, unexpected


def come(browser, **delta):
    browser.wait("Boolean(window.come)")
    browser.run(f"come({json.dumps(delta)}); drawn()")


def answer_with(browser, text, question="?"):
    """Lets the page ask and the whole answer come at once; returns the HTML that the page makes of it."""
    browser.run("window.come = null")
    say(browser, question)
    come(browser, content=text)
    browser.run("end()")
    browser.wait("!running")
    return browser.run("[...document.querySelectorAll('.content')].at(-1).innerHTML")


def say(browser, text):
    browser.run(f"document.getElementById('text').value = {json.dumps(text)}; document.getElementById('form').requestSubmit()")


def conversation(program, model):
    """two questions, an answer that is stopped, a cleared talk, an error"""
    with Server(program, model) as server:
        browser = Browser(f"http://127.0.0.1:{server.port}/")
        try:
            assert browser.wait("document.getElementById('model')?.textContent") == "shakespeare"
            browser.run("document.getElementById('temperature').value = 0")
            say(browser, "ROMEO:")
            answer = "[...document.querySelectorAll('.content')].at(-1)?.innerText.trim()"
            assert browser.wait(f"!document.getElementById('send').disabled && {answer}") == "I'll not be a man, and I will not be."
            assert re.match(r"\d+ tokens, [\d.]+ tokens/s; prompt 2$", browser.wait("document.getElementById('figures').textContent"))
            say(browser, "<img src=x onerror=alert(1)>")  # text, not markup
            browser.wait("document.querySelectorAll('.assistant').length == 2 && !document.getElementById('send').disabled")
            assert browser.run("document.querySelectorAll('#talk img').length") == 0
            assert browser.run("messages.length") == 4

            browser.run("document.getElementById('temperature').value = 2; document.getElementById('clear').click()")
            assert browser.run("document.getElementById('talk').children.length + messages.length") == 0
            before = server.metric("dsv3_client_disconnects_total")
            for _ in range(20):  # one of them is not at its end when it is stopped
                say(browser, "What news from Rome?")
                browser.wait(f"{answer} || !document.getElementById('send').disabled")
                browser.run("document.getElementById('stop').click()")
                browser.wait("!document.getElementById('send').disabled")
                if browser.run("document.getElementById('figures').textContent") == "stopped":
                    break
            assert browser.run("document.getElementById('figures').textContent") == "stopped"
            until = time.time() + 10
            while server.metric("dsv3_client_disconnects_total") == before:
                assert time.time() < until, "the server has not noticed"
                time.sleep(0.1)

            say(browser, "too much " * 2000)
            assert "maximum context length" in browser.wait("document.querySelector('.error')?.innerText")
            assert not browser.unexpected("status of 400"), browser.unexpected("status of 400")
        finally:
            browser.close()


MARKDOWN = {
    "plain\ntwo lines\n\nnext": "<p>plain\ntwo lines</p><p>next</p>",
    "**bold** *it* __b__ _i_ ~~d~~ `c*o*de` ***both***": "<p><strong>bold</strong> <em>it</em> <strong>b</strong> <em>i</em> <del>d</del> <code>c*o*de</code> <strong><em>both</em></strong></p>",
    "2 * 3 * 4, snake_case_name, **open, a \\*star\\*": "<p>2 * 3 * 4, snake_case_name, **open, a *star*</p>",
    "`` a`b `` and `open": "<p><code>a`b</code> and `open</p>",
    "# One\n### Three ###\n#hash\n---": "<h2>One</h2><h4>Three</h4><p>#hash</p><hr>",
    "- a\n  - b\n    - c\n- d": "<ul><li><p>a</p><ul><li><p>b</p><ul><li><p>c</p></li></ul></li></ul></li><li><p>d</p></li></ul>",
    "Steps:\n1. a\n\n   more\n2. b\n   - c": "<p>Steps:</p><ol><li><p>a</p><p>more</p></li><li><p>b</p><ul><li><p>c</p></li></ul></li></ol>",
    "3. c\n4. d\n\nend": '<ol start="3"><li><p>c</p></li><li><p>d</p></li></ol><p>end</p>',
    "In\n1986. No list": "<p>In\n1986. No list</p>",
    "> a\n> > b\n\nc": "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote><p>c</p>",
    "|a|b|\n|--|-:|\n|1|`2\\|3`|": '<div class="table"><table><thead><tr><th>a</th><th class="right">b</th></tr></thead><tbody><tr><td>1</td><td class="right"><code>2|3</code></td></tr></tbody></table></div>',
    "\\(a_1*b*c\\) and $$x*y*z$$": '<p><span class="formula">\\(a_1*b*c\\)</span> and <span class="formula">$$x*y*z$$</span></p>',
    "\\[\nx\n+ y\n\\]\nso": '<p class="formula">\\[\nx\n+ y\n\\]</p><p>so</p>',
    "[name](https://a.b/c_(d))": '<p><a href="https://a.b/c_(d)" rel="noopener noreferrer" target="_blank">name</a><span class="address"> (https://a.b/c_(d))</span></p>',
    "See https://a.b/c_d_e.": '<p>See <a href="https://a.b/c_d_e" rel="noopener noreferrer" target="_blank">https://a.b/c_d_e</a>.</p>',
    # What is hostile appears as its characters.
    "<img src=x onerror=alert(1)>": "<p>&lt;img src=x onerror=alert(1)&gt;</p>",
    "<script>alert(1)</script>": "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>",
    "**<b onclick=alert(1)>x</b>**": "<p><strong>&lt;b onclick=alert(1)&gt;x&lt;/b&gt;</strong></p>",
    "[x](javascript:alert(1))": "<p>[x](javascript:alert(1))</p>",
    "[x](data:text/html,<script>)": "<p>[x](data:text/html,&lt;script&gt;)</p>",
    "[x](JaVaScRiPt:alert`1`)": "<p>[x](JaVaScRiPt:alert<code>1</code>)</p>",
    '[x](https://a.b/"onclick="alert)': '<p><a href="https://a.b/%22onclick=%22alert" rel="noopener noreferrer" target="_blank">x</a><span class="address"> (https://a.b/"onclick="alert)</span></p>',
    "![x](https://a.b/spy.png)": '<p><a href="https://a.b/spy.png" rel="noopener noreferrer" target="_blank">x</a><span class="address"> (https://a.b/spy.png)</span></p>',
    "&lt;b&gt;": "<p>&amp;lt;b&amp;gt;</p>",
}


def code(language, text):
    return f'<div class="code"><div class="bar"><span>{language}</span><button class="copy" type="button">Copy</button></div><pre><code>{text}</code></pre></div>'


MARKDOWN_CODE = {
    "```js\nif (a < b) **c**\n\n  d\n```\nend": code("js", "if (a &lt; b) **c**\n\n  d") + "<p>end</p>",
    "~~~\n```\n~~~": code("", "```"),
    "````\n```\nx\n````": code("", "```\nx"),
    "```\nunfinished": code("", "unfinished"),
    "1. Do\n   ```sh\n   ls\n     -l\n   ```\n2. Be": f"<ol><li><p>Do</p>{code('sh', 'ls' + chr(10) + '  -l')}</li><li><p>Be</p></li></ol>",
    "```html\n</code><script>alert(1)</script>\n```": code("html", "&lt;/code&gt;&lt;script&gt;alert(1)&lt;/script&gt;"),
    "```<img/src=x/onerror=alert(1)>\n```": code("&lt;img/src=x/onerror=alert(1)&gt;", ""),
}

DRAWN = "(text, growing = false) => { const element = document.createElement('div'); drawMarkdown(element, text, growing); return element.innerHTML; }"


def markdown(program, model):
    """Markdown becomes elements, and nothing of a model's text becomes anything else"""
    with Stubbed(program, model) as browser:
        for text, expected in {**MARKDOWN, **MARKDOWN_CODE}.items():
            found = browser.run(f"({DRAWN})({json.dumps(text)})")
            assert found == expected, f"{text!r}\n  found    {found!r}\n  expected {expected!r}"
        everything = "\n\n".join([*MARKDOWN, *MARKDOWN_CODE])
        answer_with(browser, everything, question=everything)
        assert browser.run("document.querySelectorAll('#talk :is(img, script, iframe, [onerror], [onclick], [style])').length") == 0
        assert browser.run("document.querySelector('.user').childNodes.length") == 1  # what the reader writes is shown as written


def growing_markdown(program, model):
    """an answer that comes in pieces ends as one that comes at once; what is unfinished is drawn as if it ended here"""
    with Stubbed(program, model) as browser:
        for text, expected in {
            "some **bold": "<p>some <strong>bold</strong></p>",
            "some **": "<p>some </p>",
            "some `co": "<p>some <code>co</code></p>",
            "```py\nx = 1": code("py", "x = 1"),
            "| a | b |": '<div class="table"><table><thead><tr><th>a</th><th>b</th></tr></thead><tbody></tbody></table></div>',
            "| a | b |\n|--": '<div class="table"><table><thead><tr><th>a</th><th>b</th></tr></thead><tbody></tbody></table></div>',
        }.items():
            found = browser.run(f"({DRAWN})({json.dumps(text)}, true)")
            assert found == expected, f"{text!r}\n  found    {found!r}\n  expected {expected!r}"
        for text in [*MARKDOWN, *MARKDOWN_CODE, "\n\n".join([*MARKDOWN, *MARKDOWN_CODE])]:
            script = f"""(text => {{
              const element = document.createElement("div");
              for (let i = 1; i <= text.length; ++i) drawMarkdown(element, text.slice(0, i), true);
              drawMarkdown(element, text, false);
              return element.innerHTML === ({DRAWN})(text);
            }})({json.dumps(text)})"""
            assert browser.run(script), text
        # What has been drawn stays the same element, with what the reader has selected in it.
        browser.run("window.kept = document.createElement('div'); drawMarkdown(kept, 'first\\n\\n```\\na', true); [first, second] = kept.children")
        browser.run("drawMarkdown(kept, 'first\\n\\n```\\na\\nb\\n```\\nlast', true)")
        assert browser.run("kept.children[0] === first && kept.children[1] === second && kept.children.length") == 3


def time_of_drawing(program, model):
    """a long answer is drawn in a fraction of a frame, and hostile ones in no more than a moment"""
    with Stubbed(program, model) as browser:
        script = """(() => {
          const part = "Some **bold** text with `code` and a [link](https://a.b/c).\\n\\n- one\\n- two\\n  - three\\n\\n```py\\nfor x in y:\\n    print(x)\\n```\\n\\n";
          const text = part.repeat(Math.ceil(20000 / part.length)), element = document.createElement("div");
          document.body.append(element);
          drawMarkdown(element, text, true);
          const start = performance.now();
          for (let i = 0; i < 50; ++i) {
            drawMarkdown(element, text + "x".repeat(i), true);
            element.offsetHeight;
          }
          element.remove();
          return (performance.now() - start) / 50;
        })()"""
        milliseconds = browser.run(script)
        print(f"  {milliseconds:.1f} ms for a piece of an answer of 20,000 characters")
        assert milliseconds < 100  # 10 are usual with two busy cores and no GPU; drawing the whole takes 200
        for piece in ["*", "*a ", "**a", "_a", "a_", "`a``", "[", "[x](", "[a](b", "![", "> ", "- ", "  - a\n", "|", "|a\n", "#", "\\(", "$$a", "~~a", "<http://", "https://a", "1. ", " ", "\n", "`" , "[x](  ", "-|"]:
            milliseconds = browser.run(f"(() => {{ const start = performance.now(); ({DRAWN})({json.dumps(piece)}.repeat(20000 / {len(piece)})); return performance.now() - start; }})()")
            assert milliseconds < 2000, (piece, milliseconds)


def following(program, model):
    """the view stays at the end of what grows, however tall the form is, until the reader scrolls up"""
    with Stubbed(program, model) as browser:
        gap = "view.scrollHeight - view.clientHeight - view.scrollTop"
        covered = "document.getElementById('form').getBoundingClientRect().top - talk.lastElementChild.getBoundingClientRect().bottom"
        for height, lines in ((700, 1), (700, 30), (400, 30), (260, 30)):
            browser.size(1000, height)
            browser.run("document.getElementById('clear').click(); window.come = null")
            say(browser, "?")
            browser.run(f"text.value = 'a line\\n'.repeat({lines}); text.dispatchEvent(new Event('input')); drawn()")
            for i in range(30):
                come(browser, content=f"Paragraph {i} of several words.\n\n")
                assert browser.run(gap) < 2, (height, lines, i, browser.run(gap))
            assert browser.run(covered) > 0, "the form lies over the answer's end"
            assert browser.run("view.clientHeight") > 40, (height, browser.run("view.clientHeight"))
            browser.run("text.value += 'more'; text.dispatchEvent(new Event('input')); drawn()")
            assert browser.run(gap) < 2 and browser.run("following")
            browser.run("text.value = ''; text.dispatchEvent(new Event('input')); drawn()")  # the form shrinks
            assert browser.run(gap) < 2
            browser.run("end()")
            browser.wait("!running")

        browser.size(1000, 700)
        browser.run("window.come = null")
        say(browser, "?")
        come(browser, content="word " * 3000)
        assert browser.run(gap) < 2 and browser.run("document.getElementById('to-end').hidden")
        browser.run("text.value = 'a line\\n'.repeat(30); text.dispatchEvent(new Event('input')); drawn()")
        assert browser.run(gap) < 2
        browser.run("view.scrollTop -= 100; drawn()")
        top = browser.run("view.scrollTop")
        come(browser, content="word " * 3000)
        browser.run("text.value += 'more'; text.dispatchEvent(new Event('input')); drawn()")
        assert browser.run("view.scrollTop") == top and not browser.run("document.getElementById('to-end').hidden")
        browser.run("document.getElementById('to-end').click(); drawn()")
        come(browser, content="word " * 3000)
        assert browser.run(gap) < 2 and browser.run("document.getElementById('to-end').hidden")
        # What shrinks and grows again within a frame is not the reader's scrolling.
        browser.run("document.getElementById('clear').click(); window.late = add({role: 'assistant', content: ''})")
        browser.run("late.message.content = 'word '.repeat(3000); draw(late); drawn()")
        browser.run("document.getElementById('clear').click(); late = add({role: 'assistant', content: ''}); late.message.content = 'x\\n\\n'.repeat(100); draw(late); drawn()")
        assert browser.run(gap) < 2 and browser.run("following")


def reasoning(program, model):
    """reasoning is open while it comes, folds when the answer begins, and stays as the reader has put it"""
    with Stubbed(program, model) as browser:
        is_open = "[...document.querySelectorAll('.reasoning')].at(-1).open"
        summary = "[...document.querySelectorAll('.reasoning summary')].at(-1)"
        say(browser, "?")
        come(browser, reasoning_content="I **think** so.")
        assert browser.run(is_open) and browser.run("document.querySelector('.reasoning strong').innerText") == "think"
        come(browser, content="Yes.")
        assert not browser.run(is_open)
        browser.run(f"{summary}.click()")
        come(browser, content=" Really.")
        assert browser.run(is_open)
        browser.run("end()")
        browser.wait("!running")
        assert browser.run(is_open)
        assert "reasoning" not in json.dumps(browser.run("asked")) and browser.run("messages[1].content") == "Yes. Really."
        browser.run("window.come = null")
        say(browser, "?")
        assert browser.run("asked.at(-1).messages") == [{"role": "user", "content": "?"}, {"role": "assistant", "content": "Yes. Really."}, {"role": "user", "content": "?"}]
        come(browser, reasoning_content="x\n\n" * 100)
        browser.run("view.scrollTop -= 500; drawn()")  # who reads it is not disturbed
        come(browser, content="No.")
        assert browser.run(is_open)


def copying(program, model):
    """an answer is copied as it was written, a code block without its fence, also where there is no clipboard"""
    with Stubbed(program, model) as browser:
        browser.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
        text = "A **list**:\n\n```py\nprint(1)\n```"
        answer_with(browser, text)
        browser.call("Page.bringToFront")
        for clipboard in ("there", "absent"):
            if clipboard == "absent":
                browser.run("navigator.clipboard.writeText('something else')")
                browser.run("window.readText = navigator.clipboard.readText.bind(navigator.clipboard); Object.defineProperty(navigator, 'clipboard', {value: undefined})")
            else:
                browser.run("window.readText = navigator.clipboard.readText.bind(navigator.clipboard)")
            for button, expected in ((".actions .copy", text), (".code .copy", "print(1)")):
                assert browser.run(f"document.querySelector('{button}').checkVisibility()")
                browser.run(f"document.querySelector('{button}').click()")
                browser.wait(f"document.querySelector('{button}').textContent == 'Copied'")
                assert browser.run("readText()") == expected, clipboard
                browser.wait(f"document.querySelector('{button}').textContent == 'Copy'")


def reload(program, model):
    """talk, settings and what is typed are there after a reload, also in mid-answer; a new talk is empty"""
    with Stubbed(program, model) as browser:

        def load():
            browser.run("window.old = true")
            browser.call("Page.reload")
            browser.wait("!window.old && document.getElementById('model')?.textContent == 'stub'")

        html = answer_with(browser, "# An answer\n\n```\ncode\n```")
        browser.run("for (const [id, value] of [['system', 'Be brief.'], ['temperature', '1.5'], ['key', 'secret']]) document.getElementById(id).value = value")
        browser.run("document.getElementById('thinking').checked = true")
        load()
        assert browser.run("[...document.querySelectorAll('.content')].at(-1).innerHTML") == html
        assert browser.run("[system.value, temperature.value, key.value, thinking.checked]") == ["Be brief.", "1.5", "secret", True]

        say(browser, "More")
        come(browser, reasoning_content="Hm.")
        come(browser, content="Some of")
        browser.run("text.value = 'what comes next'")
        load()
        last = browser.run("document.querySelector('#talk').lastElementChild.innerText")
        assert "Some of" in last and "loaded again" in last, last
        assert browser.run("text.value") == "what comes next" and browser.run("messages.length") == 4
        browser.run("[...document.querySelectorAll('.again')].at(-1).click()")
        come(browser, content="All of it")
        browser.run("end()")
        browser.wait("!running")
        assert browser.run("messages.map(m => m.content)")[3:] == ["All of it"]
        assert browser.run("asked[0].messages.length") == 4 and browser.run("asked[0].messages[0]") == {"role": "system", "content": "Be brief."}

        browser.run("document.getElementById('clear').click()")
        load()
        assert browser.run("messages.length + talk.children.length") == 0 and browser.run("system.value") == "Be brief."


def broken_storage(program, model):
    """a storage that is full, switched off or holds rubbish does no harm"""
    with Stubbed(program, model) as browser:
        for kept, expected in (
            ("nonsense", []),
            ("7", []),
            ("null", []),
            ('{"messages": 1, "settings": 2, "draft": 3}', []),
            (
                json.dumps({"messages": [None, 1, {}, {"role": "system", "content": "x"}, {"role": "user", "content": 5}, {"role": "user", "content": "<b>good</b>"},
                    {"role": "assistant", "content": "fine", "reasoning": [], "note": {}, "open": "yes", "__proto__": {"failed": True}}], "settings": {"temperature": {}, "system": ["a"], "thinking": "on"}}),
                [{"role": "user", "content": "<b>good</b>"}, {"role": "assistant", "content": "fine"}],
            ),
        ):
            browser.run(f"window.old = true; window.addEventListener('pagehide', () => sessionStorage.setItem('dsv3', {json.dumps(kept)}))")
            browser.call("Page.reload")
            browser.wait("!window.old && document.getElementById('model')?.textContent == 'stub'")
            assert browser.run("messages") == expected, kept
            assert browser.run("[text.value, system.value, temperature.value, thinking.checked]") == ["", "", "0.6", False]
        assert browser.run("document.querySelectorAll('#talk b').length") == 0
        answer_with(browser, "works")
        for broken in ("Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); }", "Object.defineProperty(window, 'sessionStorage', {get() { throw new DOMException('off', 'SecurityError'); }})"):
            browser.run(broken + "; 0")
            assert answer_with(browser, "works") == "<p>works</p>"
        browser.call("Page.addScriptToEvaluateOnNewDocument", source=broken)
        browser.run("window.old = true")
        browser.call("Page.reload")
        browser.wait("!window.old && document.getElementById('model')?.textContent == 'stub'")
        assert answer_with(browser, "works") == "<p>works</p>"


def keys(program, model):
    """Enter sends, but not with Shift, not in an input method, and not while an answer comes"""
    with Stubbed(program, model) as browser:
        browser.run("text.focus()")
        browser.call("Input.insertText", text="one")
        browser.press("Enter", modifiers=8)
        browser.call("Input.insertText", text="two")
        assert browser.run("text.value") == "one\ntwo" and browser.run("asked.length") == 0
        composing = "text.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true, cancelable: true}))"
        assert browser.run(composing) and browser.run("asked.length") == 0  # not prevented: it is the input method's
        browser.press("Enter")
        browser.wait("asked.length == 1")
        assert browser.run("asked[0].messages") == [{"role": "user", "content": "one\ntwo"}] and browser.run("text.value") == ""
        come(browser, content="Some")
        assert browser.run("document.querySelector('.assistant').ariaBusy") == "true"
        browser.call("Input.insertText", text="three")
        browser.press("Enter")
        assert browser.run("asked.length") == 1 and browser.run("text.value") == "three"
        browser.run("document.getElementById('stop').click()")
        browser.wait("!running")
        assert browser.run("document.activeElement.id") == "text" and browser.run("messages[1]") == {"role": "assistant", "content": "Some", "reasoning": "", "note": "Stopped."}
        assert browser.run("document.querySelector('.assistant').ariaBusy") == "false"


def failures(program, model):
    """errors are told in plain words, lose nothing, and can be tried again"""
    with Stubbed(program, model) as browser:
        note = "[...document.querySelectorAll('.note.error')].at(-1)?.innerText"
        for refusal, expected in (([429, "Queue."], "too much to do"), ([401, "Key."], "API key"), ([400, "This is wrong."], "This is wrong."), ([502, None], "status 502"), ("unreachable", "cannot be reached")):
            browser.run(f"document.getElementById('clear').click(); window.refusal = {json.dumps(refusal)}")
            say(browser, "A long question")
            assert expected in browser.wait(note), refusal
            assert browser.run("messages[0].content") == "A long question" and browser.run("!running && messages.length") == 2
        browser.run("window.refusal = null; window.come = null; document.querySelector('.again').click()")
        come(browser, content="Half of")
        browser.run("breakOff()")
        assert "broke off" in browser.wait(note) and browser.run("messages[1].content") == "Half of"
        browser.run("window.come = null; document.querySelector('.again').click()")
        come(browser, content="All of it")
        browser.run("end()")
        browser.wait("!running")
        assert browser.run("messages.map(m => m.content)") == ["A long question", "All of it"] and not browser.run(note)

    with Server(program, model, env={**os.environ, "DSV3_API_KEY": "secret"}) as server:  # a real one
        browser = Browser(f"http://127.0.0.1:{server.port}/")
        try:
            assert "wants an API key" in browser.wait("document.getElementById('figures')?.textContent")
            browser.run("key.value = 'wrong'; key.dispatchEvent(new Event('change'))")
            browser.wait("document.getElementById('figures').textContent.includes('does not know')")
            browser.run("key.value = 'secret'; key.dispatchEvent(new Event('change'))")
            assert browser.wait("document.getElementById('model').textContent") == "shakespeare"
            assert browser.run("document.getElementById('figures').textContent") == ""
            assert not browser.unexpected("status of 401"), browser.unexpected("status of 401")
        finally:
            browser.close()


def narrow(program, model):
    """at 390 and 320 pixels nothing is wider than the page"""
    with Stubbed(program, model, width=390, height=844) as browser:
        browser.run("const q = 'q'.repeat(300)")
        wide = "Long " + "w" * 500 + " `" + "c" * 300 + "`\n\n```\n" + "x" * 400 + "\n```\n\n|" + "head of a column|" * 9 + "\n|" + "-|" * 9 + "\n|" + "cell|" * 9 + "\n\n- " + "l" * 300 + "\n\nhttps://a.b/" + "u" * 300
        answer_with(browser, wide, question="q" * 300)
        for width in (390, 320):
            browser.size(width, 700)
            for settings_open in ("false", "true"):
                browser.run(f"document.getElementById('settings').open = {settings_open}; drawn()")
                for element in ("document.documentElement", "view", "talk"):
                    assert browser.run(f"{element}.scrollWidth <= {element}.clientWidth"), (width, element)
                assert browser.run("[...document.querySelectorAll('button, summary, textarea')].every(e => !e.checkVisibility() || e.getBoundingClientRect().right <= innerWidth)")
        assert browser.run("(pre => pre.scrollWidth > pre.clientWidth)(document.querySelector('pre'))")  # it scrolls inside


if __name__ == "__main__":
    run_tests([conversation, markdown, growing_markdown, time_of_drawing, following, reasoning, copying, reload, broken_storage, keys, failures, narrow])
