"""Which server and which key a command uses: flags, environment, state directory."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from proxy.cli import main
from proxy.cli.client import Refused
from proxy.cli.server import Target

AUDIT = "/api/v1/audit"
EMPTY = {"audit": [], "next": None}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory with a generated admin key."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "admin.key").write_text("lopt-admin-generated\n")
    return tmp_path


def test_the_key_comes_from_flag_environment_or_file(script, ask, state) -> None:
    """In this order."""
    script.on("GET", AUDIT, EMPTY)
    file = state / "mine.key"
    file.write_text("from-file\n")
    environment = {"LLM_OPTIMIZER_ADMIN_KEY": "from-environment"}

    ask("audit", "--key", "typed", env=environment)
    ask("audit", env=environment)
    ask("audit", "--key-file", str(file), env=environment)
    ask("audit", "--state-dir", str(state), "--url", script.url)

    assert [asked.headers.get("authorization") for asked in script.asked] == [
        "Bearer typed",
        "Bearer from-environment",
        "Bearer from-file",
        "Bearer lopt-admin-generated",
    ]


def test_a_typed_state_directory_beats_an_address_of_the_environment(script, ask, tmp_path) -> None:
    """What was typed counts."""
    result = ask("audit", "--state-dir", str(tmp_path))

    assert result.exit_code == 1
    assert str(tmp_path) in result.output
    assert not script.asked


def test_the_key_of_this_directory_is_not_sent_elsewhere(state, monkeypatch) -> None:
    """Only to this machine, unless the directory was named."""
    monkeypatch.chdir(state.parent)
    state.rename(state.parent / "state")

    def sent(url: str, **others: object) -> bool:
        return "Authorization" in Target(url=url, **others).connect()._credentials

    assert sent("http://127.0.0.1:8080")
    assert sent("http://localhost:8080")
    assert not sent("https://llm.example")
    assert not sent("http://localhost.example")
    assert sent("https://llm.example", state_dir=Path("state"))


@pytest.mark.parametrize(
    "url", ["localhost:8080", "ftp://x", "http://", "http://x:notaport", "http://[::1", "x"]
)
def test_what_is_no_address_is_refused(url) -> None:
    """A sentence, no traceback."""
    result = CliRunner().invoke(main, ["audit", "--url", url])

    assert result.exit_code == 1
    assert "is not a URL" in result.output


def test_a_base_path_is_kept(script, ask) -> None:
    """Behind a reverse proxy."""
    script.on("GET", f"/llm{AUDIT}", EMPTY)

    assert ask("audit", "--url", f"{script.url}/llm/").exit_code == 0


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (302, "", "redirect"),
        (200, "<html>", "is it an llm-optimizer?"),
        (502, "<html>\nbad gateway</html>", "HTTP 502: <html> bad gateway</html>"),
        (500, {"error": "text"}, "HTTP 500"),
        (
            503,
            {"error": {"code": "SERVICE_UNAVAILABLE", "message": "The database is away."}},
            "database is away",
        ),
    ],
)
def test_strange_answers_are_one_line(script, ask, status, body, words) -> None:
    """Exit status 1, never a traceback."""
    script.on("GET", AUDIT, body, status=status)

    result = ask("audit")

    assert result.exit_code == 1
    assert not isinstance(result.exception, TypeError | KeyError | AttributeError)
    assert words in result.output


def test_a_json_answer_that_is_none_is_refused() -> None:
    """Whoever says that it is JSON and does not speak it is not our server."""
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Liar(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Liar) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(Refused, match="not JSON"):
            Target(url=f"http://127.0.0.1:{server.server_port}").connect().get(AUDIT)
        thread.join()
