"""The state directory: private, permanent, and never the same incarnation twice."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from optimizer.ids import RequestIds, verify
from optimizer.log.node import StateDirectory, StateDirectoryError, parse_source, source_name


def test_everything_in_it_is_private(tmp_path: Path) -> None:
    """Directories are 0700 and files 0600 from the start."""
    state = StateDirectory(tmp_path / "state")
    state.allocate_incarnation()

    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [state.path, *state.path.rglob("*")]}

    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    assert state.log_directory.is_dir()
    assert state.config_history.is_dir()


def test_opening_it_again_finds_the_same_node(tmp_path: Path) -> None:
    """Node id, id key and worker token outlive the process."""
    first = StateDirectory(tmp_path / "state")
    second = StateDirectory(tmp_path / "state")

    assert (second.node, second.id_key, second.worker_token) == (first.node, first.id_key, first.worker_token)
    assert len(first.id_key) == 32
    assert len(first.worker_token) == 64
    assert StateDirectory(tmp_path / "other").id_key != first.id_key


def test_its_key_makes_and_checks_request_ids(tmp_path: Path) -> None:
    """The parts fit together: node, incarnation and key give an id that verifies."""
    state = StateDirectory(tmp_path / "state")
    incarnation = state.allocate_incarnation()

    text = RequestIds(node=state.node, incarnation=incarnation, key=state.id_key).mint(5)

    read = verify(text, state.id_key)
    assert read is not None
    assert (read.node, read.incarnation) == (state.node, incarnation)


def test_processes_that_start_together_get_different_incarnations(tmp_path: Path) -> None:
    """Several real processes allocate at once; no number is given twice and none is skipped."""
    program = (
        "import sys; from optimizer.log.node import StateDirectory\n"
        "state = StateDirectory(sys.argv[1])\n"
        "print(*[state.allocate_incarnation() for _ in range(10)])"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "state")]

    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [child.communicate(timeout=30)[0] for child in children]

    numbers = [int(number) for output in outputs for number in output.split()]
    assert sorted(numbers) == list(range(1, 31))


@pytest.mark.parametrize("content", [None, b"", b"\0\0\0\0"])
def test_a_lost_counter_continues_after_what_the_log_has_seen(tmp_path: Path, content: bytes | None) -> None:
    """A damaged counter must not give out a number whose log is still there."""
    state = StateDirectory(tmp_path / "state")
    state.allocate_incarnation()
    state.source_directory(41, "worker").mkdir()
    state.incarnation_file.unlink()
    if content is not None:
        state.incarnation_file.write_bytes(content)

    assert state.allocate_incarnation() == 42


def test_a_directory_of_ours_is_tightened(tmp_path: Path) -> None:
    """An empty directory that a package or an operator made with usual rights becomes private."""
    path = tmp_path / "state"
    path.mkdir(mode=0o755)

    StateDirectory(path)
    path.chmod(0o755)
    StateDirectory(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_directory_of_others_is_left_alone(tmp_path: Path) -> None:
    """A typo such as ``--state-dir /tmp`` must not close /tmp to everybody."""
    path = tmp_path / "shared"
    path.mkdir(mode=0o755)
    (path / "something").touch()

    with pytest.raises(StateDirectoryError, match="chmod 700"):
        StateDirectory(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_a_file_in_its_place_is_told(tmp_path: Path) -> None:
    """The error names the path."""
    path = tmp_path / "state"
    path.touch()

    with pytest.raises(StateDirectoryError, match="not a directory"):
        StateDirectory(path)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"node": 5}', b'{"node": "zz"}', b'{"node": "1ffffffff"}'])
def test_a_damaged_node_file_is_told(tmp_path: Path, content: bytes) -> None:
    """A new node id would orphan every request id; the operator decides."""
    state = StateDirectory(tmp_path / "state")
    state.node_file.write_bytes(content)

    with pytest.raises(StateDirectoryError, match=r"node\.json"):
        StateDirectory(tmp_path / "state")


def test_source_names_are_read_back() -> None:
    """Names carry node, incarnation and role; other names are no sources."""
    assert parse_source(source_name(0xA1, 7, "worker-2")) == (0xA1, 7, "worker-2")
    assert [
        parse_source(name) for name in ("lease", "a-b-c", "000000a1-0000007-w", "000000a1-00000007-")
    ] == [None] * 4


def test_a_path_too_long_for_a_socket_is_refused_at_once(tmp_path: Path) -> None:
    """The unix socket below the directory must fit, and the message says what to do."""
    with pytest.raises(StateDirectoryError, match="shorter state directory"):
        StateDirectory(tmp_path / ("x" * 100))


def test_a_place_where_no_directory_can_be_is_refused_in_words(tmp_path: Path) -> None:
    """A file in the path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StateDirectoryError, match="can not be made: Not a directory"):
        StateDirectory(tmp_path / "file" / "state")
