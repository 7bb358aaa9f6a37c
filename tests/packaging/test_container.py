"""The image without Docker: its install steps, and what it starts, on a read-only root as another user.

There is no engine where this is tested, so nothing here proves that `docker build` works; what it would do is run.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
USER = 10001


def instructions() -> list[tuple[str, str]]:
    """(instruction, its text) of every logical line of the Dockerfile."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text()).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def last(word: str) -> str:
    return [rest for name, rest in instructions() if name == word][-1]


def environment() -> dict[str, str]:
    """What ENV sets; of PATH only what it puts first."""
    return dict(pair.split("=", 1) for name, rest in instructions() if name == "ENV" for pair in rest.split())


def test_two_stages_from_one_pinned_base() -> None:
    known = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "LABEL", "ENV", "USER", "EXPOSE", "STOPSIGNAL"}
    assert {name for name, _ in instructions()} == known | {"HEALTHCHECK", "CMD", "ENTRYPOINT"}
    assert [rest for name, rest in instructions() if name == "FROM"] == [
        "${PYTHON_IMAGE} AS build",
        "${PYTHON_IMAGE}",
    ]
    base = last("ARG").removeprefix("PYTHON_IMAGE=")
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", base)
    assert last("USER") == str(USER)
    assert f"--uid {USER}" in "".join(rest for name, rest in instructions() if name == "RUN")


def test_everything_that_is_copied_is_there_and_nothing_else_is_sent() -> None:
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    sources = [
        source.rstrip("/")
        for name, rest in instructions()
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    assert sorted(sources) == sorted(sent)
    assert all((ROOT / source).exists() for source in sources)
    assert not [source for source in sources if fnmatch(source, "*secret*")]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where deploy/install.sh put the product."""
    directory = tmp_path_factory.mktemp("image")
    target = directory / "venv"
    finished = subprocess.run(
        ["sh", str(ROOT / "deploy" / "install.sh"), str(ROOT), str(target)],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(directory), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
    )
    assert finished.returncode == 0, finished.stderr
    return target


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_install_script_works_in_a_clean_environment(installed: Path, tmp_path: Path) -> None:
    """The Dockerfile's steps, run without our environment, give a command that answers."""
    shown = subprocess.run(
        [str(installed / "bin" / "llm-optimizer"), "version"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert "0.1.0" in shown.stdout


class Container:
    """A command in a mount namespace of its own whose root is read-only, as the image's user without capabilities.

    ``home`` is the working directory; ``writable`` makes it a mount that can be written. The one capability that is
    left lets it read an interpreter below /root, which no image has.
    """

    def __init__(self, installed: Path, home: Path, *, writable: bool) -> None:
        for program in ("unshare", "setpriv", "mount"):
            if shutil.which(program) is None:
                pytest.skip(f"{program} is not installed: apt-get install util-linux")
        if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
            pytest.skip("mount namespaces need root")
        home.mkdir(exist_ok=True)
        os.chown(home, USER if writable else 0, USER if writable else 0)
        self._home = home
        mounts = [f"mount --bind {home} {home}"] if writable else []
        mounts = ["mount --make-rprivate /", *mounts, "mount -o remount,bind,ro /", f"cd {home}"]
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        settings = environment() | {
            "PATH": f"{installed / 'bin'}:/usr/bin:/bin",
            "SERVER_PORT": str(self.port),
        }
        self._enter = [
            *("unshare", "-m", "sh", "-c", " && ".join([*mounts, 'exec "$@"']), "sh"),
            *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"),
            *("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"),
            *("--bounding-set=-all,+dac_read_search", "--"),
            *("env", "-i", *(f"{name}={value}" for name, value in settings.items())),
        ]

    def run(self, command: list[str]) -> int:
        """As `docker exec` would; its exit status."""
        return subprocess.run([*self._enter, *command], check=False, cwd=self._home).returncode

    @contextmanager
    def serving(self) -> Iterator[str]:
        """ENTRYPOINT with CMD; the ready line, when it is there. Ends by STOPSIGNAL with status 0."""
        command = [*json.loads(last("ENTRYPOINT")), *json.loads(last("CMD"))]
        errors = (self._home.parent / "errors").open("w")
        process = subprocess.Popen(
            [*self._enter, *command], stdout=subprocess.PIPE, stderr=errors, text=True, cwd=self._home
        )
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.startswith("ready on "), self.said()
            yield line
            process.send_signal(getattr(signal, last("STOPSIGNAL")))
            assert process.wait(30) == 0, self.said()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            errors.close()

    def said(self) -> str:
        """Its stderr."""
        return (self._home.parent / "errors").read_text()

    def state(self, ready_line: str) -> Path:
        """The state directory that it says it has."""
        found = re.search(r"state: ([^;)]+)", ready_line)
        assert found is not None
        return Path(found[1])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_without_config_volume_and_key_it_serves_from_memory_and_says_so(
    installed: Path, tmp_path: Path
) -> None:
    container = Container(installed, tmp_path / "home", writable=False)
    healthcheck = json.loads(last("HEALTHCHECK").partition("CMD ")[2])
    assert container.run(healthcheck) != 0
    with container.serving() as line:
        state = container.state(line)
        assert "MEMORY ONLY" in container.said()
        assert str(tmp_path / "home" / "state") in (state / "ephemeral").read_text()
        assert state.stat().st_uid == USER
        assert state.stat().st_mode & 0o777 == 0o700
        assert container.run(healthcheck) == 0
        # What other machines would use.
        url = f"http://{socket.gethostbyname(socket.gethostname())}:{container.port}/v1/models"
        with urllib.request.urlopen(url, timeout=5) as reply:
            assert reply.status == 200
    assert not state.exists()
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_with_a_volume_the_state_is_in_it_and_nothing_is_written_elsewhere(
    installed: Path, tmp_path: Path
) -> None:
    container = Container(installed, tmp_path / "home", writable=True)
    # Root made the files of the installation; a user who could write there could change the program.
    began = time.time()
    with container.serving() as line:
        assert container.state(line) == tmp_path / "home" / "state"
        assert "MEMORY ONLY" not in container.said()
        assert container.run(["touch", str(installed / "bin" / "planted")]) != 0
        assert container.run(["llm-optimizer", "routes"]) == 0
    assert (tmp_path / "home" / "state" / "node.json").exists()
    assert not (tmp_path / "home" / "state" / "ephemeral").exists()
    assert not [path for path in installed.rglob("*.pyc") if path.stat().st_mtime > began]
