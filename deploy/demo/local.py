"""The stage without containers: the same configuration file, real servers as local processes on free ports."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.demo.stage import ADMIN_KEY, SHARDS, TOPIC
from loadtests.servers.kafka import KafkaBroker
from loadtests.servers.process import Missing, ServerProcess, need
from loadtests.servers.redis import RedisServer

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "deploy" / "compose"
_SECRET = "for-this-demonstration-only-for-this-demonstration-only-12345678"
_SPEED = "5"


class PostgresServer(ServerProcess):
    """A real PostgreSQL with one database; as root it runs as nobody, because it refuses to be root."""

    def __init__(self, directory: Path) -> None:
        """Make its data directory.

        Raises:
            Missing: Without PostgreSQL's programs.
        """
        super().__init__(directory)
        found = shutil.which("initdb") or next(
            map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)), None
        )
        if found is None:
            raise Missing("initdb is not installed: apt-get install postgresql")
        self._programs = Path(found).resolve().parent
        self._as_nobody: list[str] = []
        if os.geteuid() == 0:
            setpriv = need("setpriv", "util-linux")
            self._as_nobody = [setpriv, "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]
            shutil.chown(directory, "nobody", "nogroup")
        make = [
            *self._as_nobody,
            str(self._programs / "initdb"),
            "-D",
            str(directory / "data"),
            "-U",
            "optimizer",
        ]
        make += ["-A", "trust", "-N", "-E", "UTF8"]
        subprocess.run(make, check=True, capture_output=True, cwd=directory, env={"PATH": os.defpath})

    @property
    def url(self) -> str:
        """Of the one database."""
        return f"postgresql://optimizer@{self.address}/postgres"

    def _command(self) -> list[str]:
        return [
            *self._as_nobody, str(self._programs / "postgres"), "-D", str(self.directory / "data"),
            "-p", str(self.port), "-c", "listen_addresses=127.0.0.1",
            "-c", f"unix_socket_directories={self.directory}",
        ]  # fmt: skip

    def _answers(self) -> bool:
        ask = [
            str(self._programs / "pg_isready"),
            "-q",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-U",
            "optimizer",
        ]
        return subprocess.run(ask, check=False, capture_output=True, env={"PATH": os.defpath}).returncode == 0


class OurProcess(ServerProcess):
    """A command of ours that answers ``health`` over HTTP; it gets the environment that is given and nothing else."""

    def __init__(
        self, directory: Path, arguments: Sequence[str], health: str, environment: Mapping[str, str]
    ) -> None:
        directory.mkdir()
        super().__init__(directory)
        self._arguments = list(arguments)
        self._health = f"{self.url}{health}"
        self._environment = {
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "PATH": os.defpath,
            **environment,
        }

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.address}"

    def use(self, arguments: Sequence[str]) -> None:
        """Start with other arguments the next time."""
        self._arguments = list(arguments)

    def _command(self) -> list[str]:
        settings = [f"{name}={value}" for name, value in self._environment.items()]
        settings += [f"PORT={self.port}", f"ADVERTISE={self.address}"]
        return ["/usr/bin/env", "-i", *settings, sys.executable, "-m", "proxy.cli", *self._arguments]

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(self._health, timeout=1) as reply:
            return bool(reply.status == 200)
        return False


class Local:
    """``count`` nodes; with one there is no cluster, and neither Redis nor PostgreSQL."""

    def __init__(self, *, count: int, workers: int) -> None:
        """Make everything and start nothing.

        Raises:
            Missing: When a program is not installed; the message says how to get it.
        """
        # Short on purpose: the path of a unix socket below it may have about 100 characters.
        self._root = Path(tempfile.mkdtemp(prefix="llm-cluster-"))
        self._root.chmod(0o711)  # PostgreSQL, as nobody, has to get through.
        self._running: list[ServerProcess] = []
        try:
            self._broker = KafkaBroker(self._room("kafka"), relays=0)
            self._stable = self._simulator("stable")
            self._candidate = self._simulator("candidate")
            engines: dict[str, str] = {"KAFKA": self._broker.bootstrap, "CLUSTER": str(count > 1).lower()}
            self._engines: list[ServerProcess] = [self._broker]
            if count > 1:
                redis, postgres = RedisServer(self._room("redis")), PostgresServer(self._room("postgres"))
                engines |= {"REDIS": redis.url, "DATABASE": postgres.url}
                self._engines += [redis, postgres]
            else:
                engines["DATABASE"] = f"sqlite:///{self._root}/control.sqlite3"
            self._nodes = [self._node(number, workers, engines) for number in range(1, count + 1)]
        except BaseException:
            shutil.rmtree(self._root, ignore_errors=True)
            raise

    @property
    def nodes(self) -> Sequence[str]:
        """Addresses."""
        return [node.url for node in self._nodes]

    @property
    def kafka(self) -> str:
        """host:port."""
        return self._broker.bootstrap

    def start(self) -> None:
        """Engines, then upstreams, then nodes."""
        for server in (*self._engines, self._stable, self._candidate):
            self._start(server)
        self._broker.make_topic(TOPIC, SHARDS)
        for node in self._nodes:
            self._start(node)

    def break_candidate(self) -> None:
        """Another simulator on the candidate's port."""
        self._candidate.kill()
        self._candidate.use(self._simulate("broken", self._candidate.port))
        self._candidate.start()

    def kill_kafka(self) -> None:
        """SIGKILL."""
        self._broker.kill()

    def start_kafka(self) -> None:
        """The same data, the same port."""
        self._broker.start()

    def close(self) -> None:
        """End everything, last started first, and remove what it wrote."""
        for server in reversed(self._running):
            with contextlib.suppress(OSError):
                server.stop(30)
        self._broker.close()
        shutil.rmtree(self._root, ignore_errors=True)

    def outputs(self) -> str:
        """The end of what each node said."""
        texts = ((node.directory / "output.log").read_text(errors="replace") for node in self._nodes)
        return "\n".join(f"--- node {number}\n{text[-1500:]}" for number, text in enumerate(texts, 1))

    def _start(self, server: ServerProcess) -> None:
        self._running.append(server)
        server.start()

    def _room(self, name: str) -> Path:
        directory = self._root / name
        directory.mkdir()
        return directory

    def _simulator(self, name: str) -> OurProcess:
        simulator = OurProcess(self._root / name, [], "/health", {})
        simulator.use(self._simulate(name, simulator.port))
        return simulator

    def _simulate(self, name: str, port: int) -> list[str]:
        models = str(COMPOSE / "models" / f"{name}.yaml")
        return ["simulate-upstream", "--port", str(port), "--models", models, "--speed", _SPEED]

    def _node(self, number: int, workers: int, engines: Mapping[str, str]) -> OurProcess:
        environment = {
            "HOST": "127.0.0.1",
            "WORKERS": str(workers),
            "ADMIN_KEY": ADMIN_KEY,
            "CLUSTER_SECRET": _SECRET,
            "STABLE": f"{self._stable.url}/v1",
            "CANDIDATE": f"{self._candidate.url}/v1",
            **engines,
        }
        config = str(COMPOSE / "node" / "config.yaml")
        arguments = ["serve", "--config", config, "--state-dir", str(self._root / f"node-{number}" / "state")]
        return OurProcess(self._root / f"node-{number}", arguments, "/health/ready", environment)
