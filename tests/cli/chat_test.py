"""dsv3-chat on a terminal, by a pseudo-terminal of 40 columns: chat_test.py PROGRAM MODEL SCRATCH editor|plain

Nothing here depends on time: each step waits for what it expects, and fails after a minute. Exit status 77: no pseudo-terminals.
"""
import contextlib
import fcntl
import os
import pathlib
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
import unicodedata

PROGRAM, MODEL, SCRATCH, KIND = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]), sys.argv[4]
COLUMNS, ROWS, PATIENCE = 40, 24, 60
UP, DOWN, RIGHT, LEFT, HOME, END = (f"\033[{c}" for c in "ABCDHF")
BACKSPACE, ENTER, CTRL_A, CTRL_C, CTRL_D, CTRL_E, CTRL_Z = "\x7f", "\r", "\x01", "\x03", "\x04", "\x05", "\x1a"


class Screen:
    """What an xterm shows, as far as dsv3-chat and libedit need one. A wide character takes two cells, the second is empty."""

    def __init__(self):
        self.rows, self.x, self.y = [[" "] * COLUMNS for _ in range(ROWS)], 0, 0

    def newline(self):
        self.y += 1
        if self.y == ROWS:
            self.rows = self.rows[1:] + [[" "] * COLUMNS]
            self.y -= 1

    def put(self, character):
        if unicodedata.combining(character):
            self.rows[self.y][max(self.x - 1, 0)] += character
            return
        width = 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if self.x + width > COLUMNS:  # only now, as terminals do that wrap late
            self.x = 0
            self.newline()
        row = self.rows[self.y]
        if row[self.x] == "" and self.x:  # the second half of a wide one: both are lost
            row[self.x - 1] = " "
        if self.x + width < COLUMNS and row[self.x + width] == "":
            row[self.x + width] = " "
        row[self.x : self.x + width] = [character, ""][:width]
        self.x += width

    def feed(self, text):
        for part in re.findall(r"\033\[[?0-9;]*[A-Za-z]|\033.|.", text, re.S):
            if part == "\n":
                self.newline()
            elif part == "\r":
                self.x = 0
            elif part == "\b":
                self.x = max(min(self.x, COLUMNS - 1) - 1, 0)
            elif part == "\t":
                self.x = min((self.x // 8 + 1) * 8, COLUMNS - 1)
            elif part[0] == "\033":
                self.code(part[2:-1], part[-1])
            elif part >= " ":
                self.put(part)

    def code(self, number, kind):
        count = int(number) if number.isdigit() and int(number) else 1
        if kind == "K":
            self.rows[self.y][self.x :] = [" "] * (COLUMNS - self.x)
        elif kind == "J":
            self.code("", "K")
            self.rows[self.y + 1 :] = [[" "] * COLUMNS for _ in range(ROWS - self.y - 1)]
        elif kind in "ABCD":
            self.y = max(min(self.y + {"A": -count, "B": count}.get(kind, 0), ROWS - 1), 0)
            self.x = max(min(self.x + {"C": count, "D": -count}.get(kind, 0), COLUMNS - 1), 0)
        elif kind == "G":
            self.x = count - 1
        elif kind == "H":
            self.x = self.y = 0
        else:
            assert kind in "mhl", f"a code that Screen does not know: {number}{kind}"

    def text(self):
        return "\n".join("".join(row).rstrip() for row in self.rows)


class Chat:
    """The program on a terminal of its own."""

    def __init__(self, *options, model=MODEL, term="xterm", state="state", env=None):
        self.master, self.slave = os.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.before = termios.tcgetattr(self.slave)
        environment = {"PATH": os.environ["PATH"], "HOME": str(SCRATCH / "home"), "TERM": term, "XDG_STATE_HOME": str(SCRATCH / state), "LANG": "C"}

        def own_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen([PROGRAM, str(model), "--temperature", "0", "--max-new", "3", *options], stdin=self.slave, stdout=self.slave,
                                        stderr=self.slave, env=environment | (env or {}), preexec_fn=own_terminal)
        self.screen, self.all, self.seen, self.bytes = Screen(), "", 0, b""

    def read(self):
        if select.select([self.master], [], [], 0.2)[0]:
            self.bytes += os.read(self.master, 1 << 16)
            text = self.bytes.decode("utf-8", "ignore") if len(self.bytes) < 4 else self.bytes[:-3].decode("utf-8", "ignore")
            whole = len(text.encode())
            with contextlib.suppress(UnicodeDecodeError):
                text, whole = self.bytes.decode(), len(self.bytes)
            self.bytes = self.bytes[whole:]
            self.all += text
            self.screen.feed(text)

    def wait(self, condition, what):
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, f"expected {what}; the screen:\n{self.screen.text()}\nand the last bytes: {self.all[-500:]!r}"
            self.read()

    def expect(self, text):
        """Waits for `text` behind what was expected before; gives what came up to it."""
        self.wait(lambda: text in self.all[self.seen :], repr(text))
        at = self.all.index(text, self.seen)
        came, self.seen = self.all[self.seen : at], at + len(text)
        return came

    def prompt(self):
        """Waits until a line can be typed; gives what came before."""
        came = self.expect("\033[?2004h")
        self.expect("> ")
        return came

    def shows(self, text):
        self.wait(lambda: text in self.screen.text(), f"to see {text!r}")

    def send(self, *keys):
        data = "".join(keys).encode("utf-8", "surrogateescape")
        while data:
            if select.select([], [self.master], [], 0)[1]:
                data = data[os.write(self.master, data[:512]) :]
            self.read_ready()

    def read_ready(self):
        if select.select([self.master], [], [], 0)[0]:
            self.read()

    def paste(self, text):
        self.send("\033[200~", text.replace("\n", "\r"), "\033[201~")

    def history(self):
        """What /history shows."""
        self.send("/history", ENTER)
        self.expect("/history")
        self.expect("\033[?2004l")
        return self.prompt().replace("\r\n", "\n")

    def end(self, keys=CTRL_D):
        """The exit status; negative: ended by a signal. The terminal is as it was."""
        self.send(keys)
        return self.ended()

    def ended(self):
        self.wait(lambda: self.process.poll() is not None, "the program's end")
        while select.select([self.master], [], [], 0)[0]:
            self.read()
        assert termios.tcgetattr(self.slave) == self.before, "the terminal is not as it was"
        assert self.all.rfind("\033[?2004h") <= self.all.rfind("\033[?2004l"), "marks of pastes are still on"
        os.close(self.master)
        os.close(self.slave)
        return self.process.returncode


def edits_in_the_middle():
    chat = Chat()
    chat.shows("loading ")
    chat.shows(" tensors in ")
    chat.prompt()
    chat.send("ROMEO and Juliet walk through the streets of Verona", LEFT * 6, "fair ", HOME, ">", END, "!", LEFT, BACKSPACE, "ee", ENTER)
    chat.prompt()
    assert "user: >ROMEO and Juliet walk through the streets of fair Veronee!\n" in chat.history()
    chat.send("/sys\tBe brief", ENTER)  # Tab completes
    chat.prompt()
    assert chat.history() == "system: Be brief\n"
    assert chat.end() == 0


def wide_characters():
    chat = Chat()
    chat.prompt()
    chat.send("ROMEO and Juliet walk through Verona", HOME, "日本語")
    chat.shows("> 日本語ROMEO and Juliet walk through Ve\nrona\n")
    chat.send(RIGHT, "😀", LEFT * 3, BACKSPACE)
    chat.shows("> 日語R😀OMEO and Juliet walk through Ve\nrona\n")
    chat.send(END, "e\u0301", "語" * 20, BACKSPACE * 21, "x", ENTER)  # a mark is a character of its own
    chat.prompt()
    assert "user: 日語R😀OMEO and Juliet walk through Veronae" + "x\n" in chat.history()
    chat.send("a\udcff\udce6\udc97b", ENTER)  # bytes that are not UTF-8
    chat.prompt()
    assert "user: a\ufffd\ufffdb\n" in chat.history()
    chat.send("cafe\u0301", ENTER)
    chat.prompt()
    assert "user: cafe\u0301\n" in chat.history()
    assert chat.end() == 0


def pastes():
    chat = Chat()
    chat.prompt()
    chat.paste("first line\n\tsecond 語\n\nfourth")
    chat.shows("> first line\n        second 語\n\nfourth\n")
    chat.send(LEFT * 2, "XX", ENTER)
    chat.prompt()
    assert "user: first line\n\tsecond 語\n\nfourXXth\n" in chat.history()
    for text in ("".join(f"line {i} of many\n" for i in range(8000)), "x" * 100000):
        chat.send("/system ")
        chat.paste(text + "the end")
        chat.shows("the end")
        chat.send("!", ENTER)
        chat.prompt()
        assert chat.history() == "system: " + text + "the end!\n"
    chat.send("/system", ENTER)  # none
    chat.prompt()
    chat.send("two\\", ENTER)
    chat.expect("... ")
    chat.send("lines", ENTER)
    chat.prompt()
    assert "user: two\nlines\n" in chat.history()
    chat.send("other\033\rtwo", ENTER)  # Alt-Enter
    chat.prompt()
    assert "user: other\ntwo\n" in chat.history()
    assert chat.end() == 0


def interrupts():
    chat = Chat("--format", "v3", "--context", "100000", "--max-new", "90000", "--temperature", "1")
    chat.prompt()
    chat.send("dropped", CTRL_C)
    chat.expect("(/exit ends the program)")
    chat.prompt()
    chat.send("dropped too\\", ENTER)
    chat.expect("... ")
    chat.send("x", CTRL_C)
    chat.prompt()
    chat.process.send_signal(signal.SIGINT)  # from elsewhere
    chat.prompt()
    chat.send("ROMEO:", ENTER)
    chat.expect("\033[?2004l")
    chat.wait(lambda: len(chat.all) > chat.seen + 10, "an answer")
    chat.send(CTRL_C)
    chat.expect("; stopped")
    chat.prompt()
    chat.send("/hist")
    chat.expect("/hist")
    chat.process.send_signal(signal.SIGWINCH)  # is not taken for another Ctrl-C
    chat.expect("> /hist")
    chat.send("ory", ENTER)
    chat.expect("user: ROMEO:\r\nassistant: ")
    chat.prompt()
    chat.send("abc", CTRL_Z, "def", CTRL_C)  # none can go on with it here, so it goes on by itself
    chat.prompt()
    assert chat.end("/exit" + ENTER) == 0
    for number in (signal.SIGTERM, signal.SIGHUP):
        chat = Chat()
        chat.prompt()
        chat.send("abc")
        chat.expect("abc")
        chat.process.send_signal(number)
        assert chat.ended() == -number


def interrupt_while_loading():
    slow = SCRATCH / "slow"
    slow.mkdir()
    for file in MODEL.iterdir():
        (slow / file.name).symlink_to(file.resolve())
    (slow / "tokenizer.json").unlink()
    os.mkfifo(slow / "tokenizer.json")  # whoever opens it waits
    chat = Chat(model=slow)
    chat.shows("loading ")
    assert chat.end(CTRL_C) == -signal.SIGINT


def windows():
    chat = Chat()
    chat.prompt()
    chat.send("ROMEO and Juliet")
    chat.expect("Juliet")
    fcntl.ioctl(chat.slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, 60, 0, 0))
    chat.process.send_signal(signal.SIGWINCH)
    chat.expect("> ROMEO and Juliet")
    chat.send("!", ENTER)
    chat.prompt()
    assert "user: ROMEO and Juliet!\n" in chat.history()
    assert chat.end() == 0


def history_over_runs():
    file = SCRATCH / "runs/dsv3/chat_history"
    chat = Chat(state="runs")
    chat.prompt()
    chat.paste("several\nlines with \\n")
    chat.send(ENTER)
    chat.prompt()
    chat.send("one line", ENTER)
    chat.prompt()
    beside = Chat(state="runs")
    beside.prompt()
    for i, each in enumerate((chat, beside, chat)):
        each.send(f"both {i}", ENTER)
        each.prompt()
    assert chat.end() == 0 and beside.end() == 0
    assert file.read_text() == "several\\nlines with \\\\n\none line\nboth 0\nboth 1\nboth 2\n"
    assert file.stat().st_mode & 0o777 == 0o600
    chat = Chat(state="runs")
    chat.prompt()
    chat.send("typed", UP * 5, DOWN, UP, " and more", ENTER)
    chat.prompt()
    assert "user: several\nlines with \\n and more\n" in chat.history()
    assert chat.end() == 0
    file.write_text("".join(f"entry {i}\n" for i in range(1500)))
    chat = Chat(state="runs")
    chat.prompt()
    chat.send(UP, ENTER)
    chat.prompt()
    assert "user: entry 1499\n" in chat.history()
    assert chat.end() == 0
    lines = file.read_text().splitlines()
    assert (len(lines), lines[0], lines[-1]) == (1001, "entry 500", "/history"), lines[-3:]  # cut again when it is read
    assert [path.name for path in file.parent.iterdir()] == ["chat_history"]


def no_history():
    for name, env in (("empty", {"DSV3_HISTORY": ""}), ("homeless", {"HOME": "", "XDG_STATE_HOME": ""})):
        chat = Chat(state=name, env=env)
        chat.prompt()
        chat.send("unseen", ENTER)
        chat.prompt()
        chat.send(UP, "!", ENTER)  # kept for this run
        chat.prompt()
        assert "user: unseen!\n" in chat.history()
        assert chat.end() == 0
        assert not (SCRATCH / name).exists()
    chat = Chat(env={"DSV3_HISTORY": "/proc/none/history"})
    chat.prompt()
    chat.send("unseen", ENTER)
    chat.expect("history: /proc/none/history: cannot write: ")
    chat.prompt()
    assert chat.end() == 0


def commands():
    text = "/systemfoo\n/nothing\n/clear now\n/help\n//dev/null\n/history\n/system  Be brief \n/history\n/system\n/history\n/exit\nunseen\n"
    result = subprocess.run([PROGRAM, str(MODEL), "--max-new", "1"], input=text.encode(), capture_output=True, check=True)
    errors, out = result.stderr.decode(), result.stdout.decode()
    for line in ("/systemfoo", "/nothing", "/clear now"):
        assert f"{line} is no command. There are:\n/clear " in errors, errors
    assert out.startswith("/clear "), out
    assert out.endswith("\nsystem: Be brief\n"), out
    assert "user: /dev/null\n" in out, out
    assert "loading" not in errors  # that is for terminals


def every_byte_of_a_pipe():
    long = "x" * 70000 + "\t\x01日 "
    result = subprocess.run([PROGRAM, str(MODEL)], input=f"/system {long}.\n/history".encode(), capture_output=True, check=True)
    assert result.stdout.decode() == f"system: {long}.\n"


def plain_terminal():
    chat = Chat(term="dumb")
    chat.expect("> ")
    chat.send("dropped", CTRL_C)
    chat.expect("(/exit ends the program)")
    chat.expect("> ")
    chat.send("/system " + "x" * 5000, "\n")
    chat.expect("cut this one")
    chat.expect("> ")
    chat.send("/system " + "y" * 3000, "\n")
    chat.expect("> ")
    chat.send("/history\n")
    chat.expect("system: " + "y" * 3000 + "\r\n")
    assert "\033" not in chat.all
    assert chat.end() == 0


try:
    os.openpty()
except OSError as error:
    print("no pseudo-terminal:", error)
    sys.exit(77)
shutil.rmtree(SCRATCH, ignore_errors=True)
SCRATCH.mkdir(parents=True)
tests = [interrupt_while_loading, commands, every_byte_of_a_pipe, plain_terminal]
if KIND == "editor":
    tests += [edits_in_the_middle, wide_characters, pastes, interrupts, windows, history_over_runs, no_history]
for test in tests:
    print(test.__name__, flush=True)
    test()
