"""Runs the soak: starts upstream and product, sends, disturbs, watches, and prints the verdict.

Invariant: what was found is written to ``results/soak.json`` (short runs: ``soak-short.json``) also when the run is
interrupted; then the verdict is about the time that was run.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
import uvloop
import yaml

from loadtests.faults.upstream import FaultUpstream
from loadtests.figures import Figure, Result, fingerprint, save
from loadtests.machine import machine
from loadtests.peers import free_port
from loadtests.processes import Child, python_module
from loadtests.product import wait_ready
from loadtests.soak import verdict
from loadtests.soak.scene import configuration
from loadtests.soak.traffic import Traffic
from loadtests.soak.watch import Sample, look, pid_file, watch

WORKERS = 2
EVERY_S = 2.0
QUIET_S = 6.0
FORGET_S = 1.0
LONG_MINUTES = 3.0


@dataclass(slots=True)
class Soak:
    """One run: its plan, the running product, and what was seen."""

    directory: Path
    minutes: float
    rate: float
    url: str
    child: Child
    traffic: Traffic
    samples: list[Sample]
    began: float
    told: list[str]

    def pids(self) -> Mapping[str, int]:
        """Processes by role, from the product's own list."""
        listed = orjson.loads(pid_file(self.directory / "state" / "run" / "pids") or b"{}")
        named = {name: listed[name] for name in ("supervisor", "optimizer") if listed.get(name)}
        workers = {f"worker {n}": pid for n, pid in enumerate(listed.get("workers", ()), 1) if pid}
        return named | workers

    def configure(self, upstream_url: str, floor: float) -> None:
        """Write the configuration."""
        document = configuration(upstream_url, floor=floor)
        draft = self.directory / "config.yaml.draft"
        draft.write_text(yaml.safe_dump(document, sort_keys=False))
        draft.rename(self.directory / "config.yaml")

    def say(self, what: str) -> None:
        """Tell the operator, and keep it for the report."""
        self.told.append(f"{time.monotonic() - self.began:6.0f} s  {what}")
        print(self.told[-1], flush=True)

    async def disturb(self, upstream_url: str) -> None:
        """Reload all along; in the first third restart the workers, then kill and stop the optimizer."""
        total = self.minutes * 60
        plan = {0.08: self._roll, 0.16: self._kill_optimizer, 0.22: self._stop_optimizer}
        reloads = [(0.04 + 0.06 * number, 0.05 if number % 2 else 0.08) for number in range(16)]
        steps = sorted([*((at, None) for at in plan), *reloads], key=lambda step: step[0])
        for at, floor in steps:
            await asyncio.sleep(max(self.began + at * total - time.monotonic(), 0))
            if floor is None:
                await plan[at]()
            else:
                self.configure(upstream_url, floor)
                self.child.process.send_signal(signal.SIGHUP)

    async def _roll(self) -> None:
        self.say("SIGUSR2: the workers are replaced")
        self.child.process.send_signal(signal.SIGUSR2)

    async def _kill_optimizer(self) -> None:
        pid = self.pids().get("optimizer")
        self.say("kill -9 of the optimizer")
        if pid is not None:
            os.kill(pid, signal.SIGKILL)

    async def _stop_optimizer(self) -> None:
        seconds = min(0.1 * self.minutes * 60, 120.0)
        pid = self.pids().get("optimizer")
        if pid is None:
            return
        self.say(f"SIGSTOP of the optimizer for {seconds:.0f} s")
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)


async def soak(directory: Path, minutes: float, rate: float, seed: int) -> tuple[list[Figure], Soak]:
    """The whole run; returns the figures."""
    upstream = FaultUpstream()
    await upstream.start()
    port = free_port()
    (directory / "config.yaml").write_text(yaml.safe_dump(configuration(upstream.url()), sort_keys=False))
    options = ["--config", str(directory / "config.yaml"), "--state-dir", str(directory / "state")]
    command = python_module("proxy.cli", "serve", *options, "--port", str(port), "--workers", str(WORKERS))
    cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0)))
    with Child(command, core=cores, log=directory / "serve.log", name="product") as child:
        await asyncio.to_thread(wait_ready, child, port)
        url = f"http://127.0.0.1:{port}"
        run = Soak(directory, minutes, rate, url, child, Traffic(url, seed=seed), [], time.monotonic(), [])
        before = _look_at_all(run)
        await _load(run, upstream)
        loaded_s = time.monotonic() - run.began
        await asyncio.sleep(QUIET_S)
        after = _look_at_all(run)
        child.process.terminate()
        status = await asyncio.to_thread(child.process.wait, 60)
    await upstream.stop()
    log = verdict.count_log(directory / "state")
    figures = [
        Figure("seconds of load", round(loaded_s, 1)),
        *verdict.delivery(run.traffic, log, verdict.learned(directory / "state")),
        *verdict.growth([sample for sample in run.samples if sample.at <= loaded_s], loaded_s),
        *verdict.leftovers(before, after, log),
        Figure("exit status", status, void="" if status == 0 else "must be 0"),
    ]
    return figures, run


async def _load(run: Soak, upstream: FaultUpstream) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.call_later(run.minutes * 60, stop.set)
    beside = [
        asyncio.ensure_future(watch(run.pids, run.samples, run.began, EVERY_S)),
        asyncio.ensure_future(run.disturb(upstream.url())),
        asyncio.ensure_future(_forget(upstream)),
    ]
    await run.traffic.run(run.rate, stop)
    for task in beside:
        task.cancel()
    for ended in await asyncio.gather(*beside, return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended


async def _forget(upstream: FaultUpstream) -> None:
    """The upstream keeps every attempt for those who look at single ones; here that would be a leak."""
    while True:
        await asyncio.sleep(FORGET_S)
        upstream.attempts[:] = [attempt for attempt in upstream.attempts if attempt.open]


def _look_at_all(run: Soak) -> dict[str, Sample]:
    at = time.monotonic() - run.began
    return {role: found for role, pid in run.pids().items() if (found := look(pid, role, at)) is not None}


def table(figures: list[Figure]) -> str:
    """One line for each figure."""
    width = max(len(figure.name) for figure in figures)
    return "\n".join(
        f"{figure.name:<{width}}  {figure.value:>12,.10g} {figure.unit:<5}"
        f"{'FAILED: ' + figure.void + '  ' if figure.void else ''}{figure.note}".rstrip()
        for figure in figures
    )


def main() -> int:
    """0 if nothing grows, fails or gets lost."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=100.0, help="requests per second")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sources, began = fingerprint(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        figures, run = uvloop.run(soak(Path(name), options.minutes, options.rate, options.seed))
        errors = ""
        with suppress(OSError):
            errors = (Path(name) / "serve.log").read_text(errors="replace")[-4000:]
    text = table(figures)
    failed = any(figure.void for figure in figures)
    extra = {
        "told": run.told,
        "examples": run.traffic.examples,
        "skipped": run.traffic.skipped,
        "samples": [asdict(sample) for sample in run.samples],
        "serve_log": errors,
    }
    result = Result(
        # A short try must not replace the figures of a long run.
        scenario="soak" if options.minutes >= LONG_MINUTES else "soak-short",
        status="failed" if failed else "done",
        fingerprint=sources,
        machine=machine(),
        figures=tuple(figures),
        text=text,
        seconds=round(time.monotonic() - began, 1),
        extra=extra,
    )
    path = save(result)
    print(text)
    for what, example in run.traffic.examples.items():
        print(f"  e.g. {what}: {example}")
    print(f"written to {path}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
