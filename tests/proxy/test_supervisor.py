"""The supervisor with real child processes: small scripts that speak the link and nothing else."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.supervisor import EXIT_CONFIG, Commands, ServeOptions, Supervisor, check_socket_path
from proxy.supervisor_sockets import StartRefused

ROOT = Path(__file__).resolve().parents[2]

CHILD = """
import json, os, selectors, signal, sys
sys.path.insert(0, {root!r})
from proxy.supervisor_link import Link
arguments = sys.argv[1:]
role = arguments[0]
link = Link.from_descriptor(int(arguments[arguments.index("--link-fd") + 1]))
journal = {journal!r}
def note(what):
    with open(journal, "a") as file:
        file.write(json.dumps([role, os.getpid(), what, arguments]) + "\\n")
note("start")
class Loop:
    def add_reader(self, fd, call): self.call = call
    def remove_reader(self, fd): pass
loop = Loop()
over = []
def on_message(message):
    note(message)
    if "stop" in message and not {stubborn!r}: over.append(0)
link.attach(loop, on_message=on_message, on_end=lambda: over.append(3))
if {crash!r} == role: sys.exit({crash_status!r})
if role == "optimizer":
    if {late_admin!r}: signal.signal(signal.SIGUSR1, lambda *_: link.send({{"administered": True}}))
    link.send({{"secrets": {{"literal:1": "planted-secret"}}}})
    link.send({{"about": {{"routes": ["auto"], "admin_key_file": "f", "new_admin_key": "k"}}}})
    link.send({{"listen": {{"host": "127.0.0.1", "port": 0, "workers": 2, "drain_s": 0.2}}}})
    if not {late_admin!r}: link.send({{"administered": True}})
else:
    link.send({{"ready": {{}}}})
if {leave!r}: signal.signal(signal.SIGUSR1, lambda *_: link.send({{"leaving": True}}))
selector = selectors.DefaultSelector()
selector.register(link._sock, selectors.EVENT_READ)
while not over:
    selector.select()
    loop.call()
note("end")
sys.exit(over[0])
"""


class Stage:
    """A running supervisor, what it announced, and what its children wrote down."""

    def __init__(self, directory: Path, supervisor: Supervisor, lines: list[str]) -> None:
        self.directory = directory
        self.supervisor = supervisor
        self.lines = lines

    def journal(self) -> list[list[object]]:
        path = self.directory / "journal"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def pids(self) -> dict[str, object]:
        return dict(json.loads((self.directory / "state" / "run" / "pids").read_text()))


def build(
    directory: Path,
    *,
    crash: str = "",
    crash_status: int = 1,
    stubborn: bool = False,
    leave: bool = False,
    late_admin: bool = False,
) -> Stage:
    script = directory / "child.py"
    script.write_text(
        CHILD.format(
            root=str(ROOT),
            journal=str(directory / "journal"),
            crash=crash,
            crash_status=crash_status,
            stubborn=stubborn,
            leave=leave,
            late_admin=late_admin,
        )
    )
    lines: list[str] = []
    supervisor = Supervisor(
        ServeOptions(state_dir=directory / "state"),
        announce=lines.append,
        commands=Commands(
            optimizer=lambda *arguments: [sys.executable, str(script), "optimizer", *arguments],
            worker=lambda *arguments: [sys.executable, str(script), "worker", *arguments],
        ),
        on_terminal=True,
    )
    return Stage(directory, supervisor, lines)


@asynccontextmanager
async def running(stage: Stage) -> AsyncIterator["asyncio.Task[int]"]:
    task = asyncio.ensure_future(stage.supervisor.run())
    try:
        yield task
    finally:
        stage.supervisor.request_stop()
        await task


async def until(true: Callable[[], object], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


async def gone(pid: int) -> None:
    await until(lambda: not Path(f"/proc/{pid}").exists())


async def test_one_ready_line_when_all_workers_are_ready(tmp_path: Path) -> None:
    """Each worker with a socket of its own, distinct incarnations, one line, and the new key once on a terminal."""
    stage = build(tmp_path)

    async with running(stage):
        await until(lambda: len(stage.lines) == 2)
        starts = [row for row in stage.journal() if row[:3:2] == ["worker", "start"]]

    arguments = [row[3] for row in starts]
    sockets = [row[row.index("--listen-fd") + 1] for row in arguments]
    assert len(arguments) == 2
    assert len(set(sockets)) == 2
    assert len({row[row.index("--incarnation") + 1] for row in arguments}) == 2
    assert re.match(r"ready on http://127\.0\.0\.1:\d+  \(routes: auto; state: ", stage.lines[0])
    assert stage.lines[1] == "new admin key, shown once: k"


async def test_ready_waits_for_the_admin_surface(tmp_path: Path) -> None:
    """Whoever reads the ready line may use the CLI at once; workers that serve are not enough."""
    stage = build(tmp_path, late_admin=True)

    async with running(stage):
        await until(
            lambda: (
                sum(row[2] == {"secrets": {"literal:1": "planted-secret"}} for row in stage.journal()) == 2
            )
        )
        await until(lambda: all(worker.ready for worker in stage.supervisor._workers.current))
        early = list(stage.lines)
        optimizer = stage.pids()["optimizer"]
        assert isinstance(optimizer, int)
        os.kill(optimizer, signal.SIGUSR1)
        await until(lambda: stage.lines)

    assert early == []
    assert stage.lines[0].startswith("ready on ")


async def test_secrets_reach_every_worker_over_the_link(tmp_path: Path) -> None:
    """A literal secret travels by pipe to each worker, and in no argument."""
    stage = build(tmp_path)

    async with running(stage):
        await until(lambda: stage.lines)
        await until(
            lambda: (
                sum(row[2] == {"secrets": {"literal:1": "planted-secret"}} for row in stage.journal()) >= 2
            )
        )

    assert "planted-secret" not in json.dumps([row[3] for row in stage.journal()])


async def test_a_dead_worker_is_replaced_and_nobody_else_notices(tmp_path: Path) -> None:
    """kill -9 of one worker starts one worker with a new incarnation."""
    stage = build(tmp_path)

    async with running(stage):
        await until(lambda: stage.lines)
        before = stage.pids()
        os.kill(before["workers"][0], signal.SIGKILL)
        await until(lambda: sum(row[:3:2] == ["worker", "start"] for row in stage.journal()) == 3)
        await until(lambda: stage.pids()["workers"][0] not in (None, before["workers"][0]))
        after = stage.pids()

    assert after["optimizer"] == before["optimizer"]
    assert after["workers"][1] == before["workers"][1]


async def test_a_dead_optimizer_comes_back_resuming_and_the_workers_stay(tmp_path: Path) -> None:
    """kill -9 of the optimizer restarts it with --resume; the workers keep their processes."""
    stage = build(tmp_path)

    async with running(stage):
        await until(lambda: stage.lines)
        before = stage.pids()
        os.kill(before["optimizer"], signal.SIGKILL)
        await until(lambda: sum(row[:3:2] == ["optimizer", "start"] for row in stage.journal()) == 2)
        await until(lambda: stage.pids()["optimizer"] not in (None, before["optimizer"]))
        after = stage.pids()

    restart = [row for row in stage.journal() if row[:3:2] == ["optimizer", "start"]][1]
    assert "--resume" in restart[3]
    assert after["workers"] == before["workers"]


async def test_sigterm_drains_workers_before_the_optimizer(tmp_path: Path) -> None:
    """Exit status 0, and the optimizer is told to stop when every worker is gone."""
    stage = build(tmp_path)

    async with running(stage) as task:
        await until(lambda: stage.lines)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await task == 0

    ends = [row[0] for row in stage.journal() if row[2] == "end"]
    assert ends == ["worker", "worker", "optimizer"]
    assert not (tmp_path / "state" / "run" / "pids").exists()


async def test_a_second_signal_cuts_and_a_third_kills(tmp_path: Path) -> None:
    """Children that ignore both requests are killed by the third signal; the exit status says so."""
    stage = build(tmp_path, stubborn=True)

    async with running(stage) as task:
        await until(lambda: stage.lines)
        pids = stage.pids()
        os.kill(os.getpid(), signal.SIGINT)
        await until(lambda: any(row[2] == {"stop": "quickly"} for row in stage.journal()))
        os.kill(os.getpid(), signal.SIGINT)
        await until(lambda: any(row[2] == {"stop": "at once"} for row in stage.journal()))
        os.kill(os.getpid(), signal.SIGINT)
        async with asyncio.timeout(1.5):
            assert await task == 1

    for pid in (*pids["workers"], pids["optimizer"]):
        await gone(pid)


async def test_after_a_second_signal_nobody_is_waited_for_long(tmp_path: Path) -> None:
    """Children that don't even end at once are killed soon after the second signal."""
    stage = build(tmp_path, stubborn=True)

    async with running(stage) as task:
        await until(lambda: stage.lines)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0)
        async with asyncio.timeout(8):
            assert await task == 1


async def test_sigusr2_replaces_the_workers_one_after_the_other(tmp_path: Path) -> None:
    """Each successor starts on its predecessor's socket and is ready before that one is told to retire."""
    stage = build(tmp_path)

    async with running(stage):
        await until(lambda: stage.lines)
        before = stage.pids()
        os.kill(os.getpid(), signal.SIGUSR2)
        await until(lambda: not set(stage.pids()["workers"]) & {None, *before["workers"]})
        await until(lambda: sum(row[:3:2] == ["worker", "end"] for row in stage.journal()) == 2)
        journal = [row for row in stage.journal() if row[0] == "worker"]
        after = stage.pids()

    sockets = [row[3][row[3].index("--listen-fd") + 1] for row in journal if row[2] == "start"]
    marks = [(row[1], row[2]) for row in journal if row[2] in ("start", "end", {"stop": "retire"})]
    (old_1, old_2), (new_1, new_2) = before["workers"], after["workers"]
    assert after["optimizer"] == before["optimizer"]
    assert sorted(sockets[:2]) == sorted(sockets[2:])
    assert [mark for mark in marks[2:] if mark[1] != {"stop": "retire"}] == [
        (new_1, "start"), (old_1, "end"), (new_2, "start"), (old_2, "end"),
    ]  # fmt: skip
    assert {pid for pid, what in marks if what == {"stop": "retire"}} == {old_1, old_2}


async def test_a_successor_that_does_not_come_up_leaves_the_old_worker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The rolling restart ends there and says so; both old workers go on."""
    stage = build(tmp_path)

    async with running(stage):
        await until(lambda: stage.lines)
        before = stage.pids()
        (tmp_path / "child.py").write_text("raise SystemExit(1)")
        os.kill(os.getpid(), signal.SIGUSR2)
        await until(lambda: "did not become ready; the old one goes on serving" in caplog.text)
        after = stage.pids()

    assert after["workers"] == before["workers"]
    assert sum(row[:3:2] == ["worker", "end"] for row in stage.journal()) == 2  # by the end of the test


async def test_a_stop_during_a_rolling_restart_ends_everybody(tmp_path: Path) -> None:
    """Neither the worker that joins nor the one that retires is left behind."""
    stage = build(tmp_path)

    async with running(stage) as task:
        await until(lambda: stage.lines)
        os.kill(os.getpid(), signal.SIGUSR2)
        await until(lambda: sum(row[:3:2] == ["worker", "start"] for row in stage.journal()) == 3)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await asyncio.wait_for(task, 10) == 0

    for pid in {row[1] for row in stage.journal()}:
        await gone(pid)


async def test_a_worker_that_is_signalled_itself_is_replaced(tmp_path: Path) -> None:
    """It asks for a successor, gets one, and only then retires."""
    stage = build(tmp_path, leave=True)

    async with running(stage):
        await until(lambda: stage.lines)
        before = stage.pids()
        os.kill(before["workers"][0], signal.SIGUSR1)
        await until(lambda: stage.pids()["workers"][0] not in (None, before["workers"][0]))
        await until(lambda: sum(row[:3:2] == ["worker", "end"] for row in stage.journal()) == 1)
        after = stage.pids()

    assert after["workers"][1] == before["workers"][1]


async def test_an_optimizer_that_is_signalled_itself_is_started_again(tmp_path: Path) -> None:
    """It says so and is asked to end in order; the workers stay."""
    stage = build(tmp_path, leave=True)
    async with running(stage):
        await until(lambda: stage.lines)
        before = stage.pids()

        os.kill(before["optimizer"], signal.SIGUSR1)
        await until(lambda: stage.pids()["optimizer"] not in (None, before["optimizer"]))
        await gone(before["optimizer"])

        assert stage.pids()["workers"] == before["workers"]
        assert ["optimizer", before["optimizer"], "end"] in [line[:3] for line in stage.journal()]


async def test_sighup_asks_the_optimizer_to_reload(tmp_path: Path) -> None:
    """The signal becomes one message on the optimizer's link."""
    stage = build(tmp_path)

    async with running(stage):
        await until(lambda: stage.lines)
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: ["optimizer", {"reload": True}] in [row[:3:2] for row in stage.journal()])


async def test_a_refused_configuration_ends_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An optimizer that exits with EXIT_CONFIG is not tried again, and nobody says so."""
    stage = build(tmp_path, crash="optimizer", crash_status=EXIT_CONFIG)

    status = await asyncio.wait_for(stage.supervisor.run(), 10)

    assert status == 1
    assert len(stage.journal()) == 1
    assert "starting it again" not in caplog.text


async def test_workers_that_never_come_up_end_the_start(tmp_path: Path) -> None:
    """Three early deaths are enough; the optimizer is stopped too."""
    stage = build(tmp_path, crash="worker")

    status = await asyncio.wait_for(stage.supervisor.run(), 10)

    assert status == 1
    assert stage.lines == []
    assert [row[2] for row in stage.journal() if row[0] == "optimizer"][-1] == "end"


async def test_children_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    """After kill -9 of the supervisor the links end, and so do the children."""
    build(tmp_path)
    script = (
        "import asyncio, sys; from pathlib import Path; from proxy.supervisor import *\n"
        f"child = {str(tmp_path / 'child.py')!r}\n"
        "commands = Commands(lambda *a: [sys.executable, child, 'optimizer', *a],"
        " lambda *a: [sys.executable, child, 'worker', *a])\n"
        f"options = ServeOptions(state_dir=Path({str(tmp_path / 'state')!r}))\n"
        "asyncio.run(Supervisor(options, announce=lambda l: print(l, flush=True), commands=commands).run())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readline(), 10)
    pids = json.loads((tmp_path / "state" / "run" / "pids").read_text())

    process.kill()
    await process.wait()

    for pid in (*pids["workers"], pids["optimizer"]):
        await gone(pid)


async def test_two_serves_on_one_state_directory_are_refused(tmp_path: Path) -> None:
    """The second says who holds the directory, and changes nothing."""
    stage = build(tmp_path)
    second = Supervisor(ServeOptions(state_dir=tmp_path / "state"), announce=print)

    async with running(stage):
        await until(lambda: stage.lines)
        with pytest.raises(StartRefused, match=rf"another .* \(pid {os.getpid()}\)"):
            await second.run()


def test_a_state_directory_with_a_long_path_is_refused(tmp_path: Path) -> None:
    """Before a socket fails with less to say."""
    check_socket_path(Path("/var/lib/llm-optimizer/run/optimizer.sock"))
    with pytest.raises(StartRefused, match="--state-dir"):
        check_socket_path(tmp_path / ("x" * 100) / "optimizer.sock")
