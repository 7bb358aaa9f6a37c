"""A product without a place that it can write to: where it goes, when it refuses, what it leaves behind."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from optimizer.log.node import StateDirectory
from proxy import supervisor_state
from proxy.supervisor_sockets import StartRefused
from proxy.supervisor_state import LOG_BYTES_VARIABLE, SEGMENT_BYTES_VARIABLE, find_home, within_memory

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short path, because sockets go below it."""
    directory = Path(tempfile.mkdtemp(prefix="home-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def nobody_can_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a read-only file system: root may write everywhere else."""

    def refuse(directory: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(directory))

    monkeypatch.setattr(supervisor_state, "_try_writing", refuse)


def test_a_directory_that_can_be_written_is_used(tmp_path: Path) -> None:
    home = find_home(tmp_path / "new" / "state", [])

    assert (home.path, home.missing) == (tmp_path / "new" / "state", "")
    assert list(home.path.iterdir()) == []
    home.leave()
    assert home.path.is_dir()


@pytest.mark.usefixtures("nobody_can_write")
def test_without_one_a_closed_temporary_directory_says_why(place: Path) -> None:
    home = find_home(place / "state", [place])

    assert home.path.parent == place
    assert home.path.stat().st_mode & 0o777 == 0o700
    assert "Read-only file system" in StateDirectory(home.path).ephemeral_file.read_text()
    assert str(place / "state") in home.missing
    home.leave()
    assert list(place.iterdir()) == []


@pytest.mark.usefixtures("nobody_can_write")
def test_a_state_that_can_not_be_written_is_never_passed_over(place: Path) -> None:
    StateDirectory(place / "state")

    with pytest.raises(StartRefused, match="holds a state"):
        find_home(place / "state", [place])


@pytest.mark.usefixtures("nobody_can_write")
def test_nowhere_to_go_is_refused_by_name(place: Path) -> None:
    with pytest.raises(StartRefused, match=r"no place for a temporary one in .*/absent"):
        find_home(place / "state", [place / "absent"])


@pytest.mark.usefixtures("nobody_can_write")
def test_what_killed_predecessors_left_is_removed_and_what_lives_is_not(place: Path) -> None:
    dead, alive, young = (find_home(place / "state", [place]).path for _ in range(3))
    for path in (dead, alive, young):
        lock = path / "run" / "serve.lock"
        lock.touch()
        if path is not young:
            os.utime(lock, (1, 1))
    held = os.open(alive / "run" / "serve.lock", os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        find_home(place / "state", [place]).leave()
    finally:
        os.close(held)

    assert sorted(place.iterdir()) == sorted((alive, young))


@pytest.mark.usefixtures("nobody_can_write")
def test_the_log_of_a_temporary_directory_fits_into_it(place: Path) -> None:
    home = find_home(place / "state", [place])
    bounded = within_memory(StateDirectory(home.path), {"A": "b"})
    kept = within_memory(StateDirectory(home.path), {LOG_BYTES_VARIABLE: "1000000"})

    assert bounded["A"] == "b"
    assert 16 * int(bounded[SEGMENT_BYTES_VARIABLE]) <= int(bounded[LOG_BYTES_VARIABLE]) <= 128 * 1024 * 1024
    assert kept[LOG_BYTES_VARIABLE] == "1000000"
    assert within_memory(StateDirectory(place / "lasting"), {"A": "b"}) == {"A": "b"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_another_user_without_rights_goes_to_memory(tmp_path: Path) -> None:
    """The real refusal of a real file system, which root is never refused."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == 0 and directory.stat().st_mode & 0o001 == 0:
            directory.chmod(directory.stat().st_mode | 0o011)
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import random;"
        "from pathlib import Path; from proxy.supervisor_state import find_home; os.setgid(65534); os.setuid(65534);"
        "home = find_home(Path(sys.argv[2])); print(home.path, home.path.stat().st_uid, home.missing); home.leave()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(ROOT), str(tmp_path / "state")],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )

    path, user, reason = done.stdout.strip().split(maxsplit=2)
    assert path.startswith(("/dev/shm/llm-optimizer-", "/tmp/llm-optimizer-"))
    assert user == "65534"
    assert "Permission denied" in reason
    assert not Path(path).exists()
