"""What only happens on a terminal: questions before what can't be undone, progress in place, Ctrl-C."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.proxy.cli.conftest import BASE, at_stage, optimization

ROOT = Path(__file__).resolve().parents[3]
PATH = f"{BASE}/opt_1"


class Terminal:
    """A command that runs with a terminal as its standard streams."""

    def __init__(self, url: str, *arguments: str) -> None:
        self.leader, follower = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "proxy.cli", *arguments],
            stdin=follower, stdout=follower, stderr=follower, cwd=ROOT, start_new_session=True,
            env={"PYTHONPATH": str(ROOT), "LLM_OPTIMIZER_URL": url, "TERM": "xterm", "COLUMNS": "100"},
        )  # fmt: skip
        os.close(follower)
        self.text = ""

    def read_until(self, words: str | None) -> str:
        """Read until ``words`` were printed, None until the end."""
        deadline = time.monotonic() + 30
        while words is None or words not in self.text:
            assert time.monotonic() < deadline, self.text
            if not select.select([self.leader], [], [], 0.2)[0]:
                continue
            try:
                part = os.read(self.leader, 65536)
            except OSError:
                part = b""
            if not part:
                assert words is None, self.text
                break
            self.text += part.decode()
        return self.text

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.leader, text.encode())

    def ended(self) -> int:
        """The exit status."""
        self.read_until(None)
        os.close(self.leader)
        return self.process.wait(20)


@pytest.mark.parametrize(("key", "status", "posts"), [("y\n", 0, 1), ("n\n", 1, 0)])
def test_promote_full_asks_and_means_what_was_shown(script, key, status, posts) -> None:
    """The revision that the person saw goes along, so that a change meanwhile is refused."""
    script.on("GET", PATH, at_stage(0, revision=41))
    script.on("POST", f"{PATH}/promote", optimization("deployed"))

    terminal = Terminal(script.url, "optimize", "promote", "opt_1", "--full")
    text = terminal.read_until("[y/N]")
    terminal.type(key)

    assert terminal.ended() == status
    assert "opt_1 running, stage 1 of 3, 1 % of chat" in text
    assert "Give it all of chat now?" in text
    sent = [asked for asked in script.asked if asked.method == "POST"]
    assert [asked.headers.get("if-match") for asked in sent] == ['"41"'] * posts


def test_delete_asks_unless_yes(script) -> None:
    """Once."""
    script.on("GET", PATH, optimization("aborted", revision=5))
    script.on("DELETE", PATH, {"id": "opt_1"})

    asked = Terminal(script.url, "optimize", "delete", "opt_1")
    asked.read_until("Delete it? [y/N]")
    asked.type("y\n")
    assert asked.ended() == 0
    assert script.last("DELETE").headers["if-match"] == '"5"'
    assert Terminal(script.url, "optimize", "delete", "opt_1", "--yes").ended() == 0


def test_watching_draws_the_stages_and_ends_with_the_outcome(script) -> None:
    """In place; the exit status is the outcome."""
    guards = {"error": {"verdict": "fail", "candidate": 0.1, "control": 0.02, "samples": 61}}
    script.on(
        "GET", PATH, at_stage(0), at_stage(1, measured={"guards": guards}),
        optimization("rolled_back", reason="guard:error"),
    )  # fmt: skip

    terminal = Terminal(script.url, "optimize", "status", "opt_1", "--watch")

    assert terminal.ended() == 3
    for words in ("stage 2 of 3", "12.5 %", "fail", "rolled_back (guard:error)", "optimize retry opt_1"):
        assert words in terminal.text


def test_ctrl_c_ends_the_watching_only(script) -> None:
    """Said so, with the status that shells expect."""
    script.on("GET", PATH, at_stage(0))

    terminal = Terminal(script.url, "optimize", "status", "opt_1", "--watch")
    terminal.read_until("stage 1 of 3")
    os.kill(terminal.process.pid, signal.SIGINT)

    assert terminal.ended() == 130
    assert "it goes on" in terminal.text
