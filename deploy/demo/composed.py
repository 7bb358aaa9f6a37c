"""The stage in containers: ``deploy/compose.yaml`` by Docker's command line."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from deploy.demo.stage import StageFailed

_FILE = Path(__file__).resolve().parents[1] / "compose.yaml"
_LONGEST_S = 1800


class Composed:
    """``keep`` leaves the containers running afterwards."""

    nodes: Sequence[str] = ("http://127.0.0.1:8081", "http://127.0.0.1:8082")
    kafka = "127.0.0.1:19092"

    def __init__(self, *, keep: bool) -> None:
        self._keep = keep

    def start(self) -> None:
        """Build the image, start all services, wait for their health."""
        self._compose("up", "--build", "--detach", "--wait", "--remove-orphans")

    def break_candidate(self) -> None:
        """Another container answers under the candidate's name."""
        self._compose("stop", "upstream-candidate")
        self._compose("--profile", "broken", "up", "--detach", "--wait", "upstream-broken")

    def kill_kafka(self) -> None:
        """SIGKILL."""
        self._compose("kill", "kafka")

    def start_kafka(self) -> None:
        """The same container again."""
        self._compose("up", "--detach", "--wait", "kafka")

    def close(self) -> None:
        """Remove containers and volumes."""
        if not self._keep:
            self._compose("--profile", "broken", "--profile", "load", "down", "--volumes")

    def _compose(self, *arguments: str) -> None:
        command = ["docker", "compose", "--file", str(_FILE), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S, check=False)
        except FileNotFoundError as error:
            raise StageFailed("there is no docker here; without it: make cluster-demo") from error
        if done.returncode:
            raise StageFailed(f"{' '.join(command)}:\n{done.stderr.strip()[-2000:]}")
