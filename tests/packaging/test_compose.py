"""``deploy/compose.yaml``: what it names is there, and its parts agree about names, ports and numbers."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from deploy.demo import composed, stage
from deploy.demo.load import ROUTE
from proxy.cli import main
from proxy.config.load import Loaded, load
from proxy.simulator.profiles import load_profiles

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
OURS = "llm-auto-optimizer:latest"
ONCE = {"topics"}


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"])


@pytest.fixture(scope="module", params=["node-1", "node-2"])
def node(request: pytest.FixtureRequest, services: dict[str, dict[str, Any]]) -> Loaded:
    return load(DEPLOY / "compose" / "node" / "config.yaml", services[request.param]["environment"])


def listens(services: dict[str, dict[str, Any]], name: str, port: int | None) -> bool:
    """Whether a service, or one that goes by that name, has the port."""
    aliases = {
        alias: service
        for service, about in services.items()
        for alias in about.get("networks", {}).get("default", {}).get("aliases", ())
    }
    about = services[aliases.get(name, name)]
    told = f"{about.get('command')} {about.get('healthcheck')} {about.get('environment')}"
    usual = {"redis": 6379, "postgres": 5432}
    return str(port) in told or usual.get(name) == port


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_composes_own_loader_takes_it(check) -> None:
    resolved = yaml.safe_load(check("compose", DEPLOY / "compose.yaml"))
    assert {"node-1", "node-2", "kafka", "redis", "postgres", "prometheus", "grafana"} <= set(
        resolved["services"]
    )


def test_what_runs_for_long_has_a_health_check_and_images_are_pinned(
    services: dict[str, dict[str, Any]],
) -> None:
    for name, about in services.items():
        if about["image"] == OURS:
            assert about["build"] == {"context": "..", "dockerfile": "Dockerfile"}
            assert about["read_only"] is True
            assert about["cap_drop"] == ["ALL"]
            # The image has one for `serve`; another command needs its own, or says why not.
            assert "healthcheck" in about or name.startswith("node-") or name == "load"
        else:
            tag = about["image"].rpartition(":")[2]
            assert tag[0] in "0123456789v"
            assert tag.count(".") >= 1
            assert "healthcheck" in about or name in ONCE
    assert (DEPLOY / ".." / "Dockerfile").is_file()


def test_files_that_are_mounted_exist_and_state_is_on_volumes(services: dict[str, dict[str, Any]]) -> None:
    volumes = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["volumes"]
    for about in services.values():
        for mount in about.get("volumes", ()):
            source, target, *options = mount.split(":")
            assert target.startswith("/")
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
                assert options == ["ro"]
            else:
                assert source in volumes
    for name in ("node-1", "node-2"):
        assert f"{name}:/var/lib/llm-optimizer" in services[name]["volumes"]


def test_nothing_is_open_to_the_network(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for about in services.values() for port in about.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_nodes_are_one_cluster_on_the_engines_beside_them(
    node: Loaded, services: dict[str, dict[str, Any]]
) -> None:
    settings = node.settings
    assert settings.cluster is not None
    assert settings.cluster.shards == stage.SHARDS
    assert settings.kafka is not None
    assert settings.kafka.topic == stage.TOPIC
    made = services["topics"]["command"][0]
    assert f"make {stage.TOPIC} {stage.SHARDS}\n" in made
    assert f"make {settings.kafka.dead_letter_topic} 1" in made
    for broker in settings.kafka.brokers:
        host, _, port = broker.partition(":")
        assert listens(services, host, int(port))
    file = yaml.safe_load((DEPLOY / "compose" / "node" / "config.yaml").read_text())
    assert "redis://redis:6379/0" in file["redis"]["url"]
    for upstream in settings.upstreams:
        if upstream.name in ("stable", "candidate"):
            parts = urlsplit(upstream.base_url)
            assert listens(services, str(parts.hostname), parts.port)
    assert ROUTE in {route.name for route in settings.routes}


def test_each_node_tells_the_others_its_own_name(services: dict[str, dict[str, Any]]) -> None:
    for name in ("node-1", "node-2"):
        assert services[name]["environment"]["ADVERTISE"] == f"{services[name]['hostname']}:8080"
        assert services[name]["command"][1:] == ["--config", "/etc/llm-optimizer/config.yaml"]
        assert "./compose/node:/etc/llm-optimizer:ro" in services[name]["volumes"]


def test_commands_of_ours_exist_with_these_options(
    services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As far as parsing: paths of the container are looked up where they come from."""
    commands = [about["command"] for about in services.values() if about["image"] == OURS]
    for words in commands:
        if words[0].startswith("http"):
            continue
        here = [word.replace("/models/", f"{DEPLOY}/compose/models/") for word in words]
        here = [word.replace("/etc/llm-optimizer/", f"{DEPLOY}/compose/node/") for word in here]
        command = main.get_command(main.make_context("llm-optimizer", ["version"]), here[0])
        assert command is not None
        command.make_context(here[0], here[1:])
        if "--models" in here:
            assert load_profiles(Path(here[here.index("--models") + 1]))


def test_the_broken_upstream_is_the_candidate_with_faults() -> None:
    (good,) = load_profiles(DEPLOY / "compose" / "models" / "candidate.yaml")
    (bad,) = load_profiles(DEPLOY / "compose" / "models" / "broken.yaml")
    assert good.id == bad.id
    assert not good.faults
    assert bad.faults[0].rate >= 0.5


def test_prometheus_scrapes_each_node_and_grafana_asks_prometheus(
    services: dict[str, dict[str, Any]],
) -> None:
    scraped = yaml.safe_load((ROOT / "monitoring" / "prometheus" / "prometheus.yml").read_text())
    targets = [
        target
        for job in scraped["scrape_configs"]
        if job["job_name"] == "llm-optimizer"
        for group in job["static_configs"]
        for target in group["targets"]
    ]
    assert targets == ["node-1:8080", "node-2:8080"]
    source = DEPLOY / "compose" / "grafana" / "provisioning" / "datasources" / "prometheus.yaml"
    (datasource,) = yaml.safe_load(source.read_text())["datasources"]
    assert datasource["url"] == "http://prometheus:9090"
    assert "prometheus" in services
    boards = DEPLOY / "compose" / "grafana" / "provisioning" / "dashboards" / "files.yaml"
    (provider,) = yaml.safe_load(boards.read_text())["providers"]
    assert f"../monitoring/grafana:{provider['options']['path']}:ro" in services["grafana"]["volumes"]


def test_the_story_calls_services_that_exist(services: dict[str, dict[str, Any]]) -> None:
    published = [port for about in services.values() for port in about.get("ports", ())]
    for address in (*composed.Composed.nodes, composed.Composed.kafka):
        port = address.rpartition(":")[2]
        assert any(mapping.startswith(f"127.0.0.1:{port}:") for mapping in published)
    told = set(re.findall(r'"([a-z-]+)"', Path(composed.__file__).read_text()))
    assert {"upstream-candidate", "upstream-broken", "kafka"} <= told & set(services)
