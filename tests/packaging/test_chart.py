"""The Helm chart, rendered by Helm's engine and held against the types of the Kubernetes API: it fits together."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.app import _LOCAL as PATHS
from proxy.config.load import load
from proxy.control.runtime import TAIL_PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "llm-auto-optimizer"
MANY = CHART / "ci" / "cluster-values.yaml"
PLANTED = ("sk-planted-in-the-chart", "hunter2", "hunter3")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Rendered:
    """Objects by kind and name."""

    def __init__(self, text: str) -> None:
        self.objects = [document for document in yaml.safe_load_all(text) if document]

    def one(self, kind: str, suffix: str = "") -> dict[str, Any]:
        (found,) = (
            o
            for o in self.objects
            if o["kind"] == kind and o["metadata"]["name"] == f"optimizer-llm-auto-optimizer{suffix}"
        )
        return dict(found)

    def kinds(self) -> set[str]:
        return {o["kind"] for o in self.objects}

    @property
    def pod(self) -> dict[str, Any]:
        return dict(self.one("StatefulSet")["spec"]["template"]["spec"])

    @property
    def container(self) -> dict[str, Any]:
        (container,) = self.pod["containers"]
        return dict(container)

    @property
    def config(self) -> str:
        return str(self.one("ConfigMap")["data"]["config.yaml"])


@pytest.fixture(scope="module")
def single(check) -> Rendered:
    return Rendered(check("chart", CHART))


@pytest.fixture(scope="module")
def many(check) -> Rendered:
    return Rendered(check("chart", CHART, MANY))


@pytest.fixture(params=["single", "many"])
def rendered(request: pytest.FixtureRequest) -> Rendered:
    return request.getfixturevalue(request.param)


def compiled(config: str, directory: Path, environ: Mapping[str, str]) -> Any:
    file = directory / "config.yaml"
    file.write_text(config)
    return load(file, {"POD_NAME": "optimizer-llm-auto-optimizer-0", **environ})


def test_one_node_needs_no_values_and_gets_a_volume(single: Rendered, tmp_path: Path) -> None:
    assert single.kinds() == {"StatefulSet", "Service", "ConfigMap", "NetworkPolicy", "ServiceAccount"}
    loaded = compiled(single.config, tmp_path, {})
    assert loaded.listen.host == "0.0.0.0"
    (claim,) = single.one("StatefulSet")["spec"]["volumeClaimTemplates"]
    mounts = {m["mountPath"]: m["name"] for m in single.container["volumeMounts"]}
    assert mounts["/var/lib/llm-optimizer"] == claim["metadata"]["name"]
    assert loaded.state_dir == Path("/var/lib/llm-optimizer/state")


def test_many_nodes_are_a_cluster(many: Rendered, tmp_path: Path) -> None:
    environ = {"CLUSTER_SECRET": "x" * 64, "PGPASSWORD": "p", "REDIS_PASSWORD": "r", "OPENAI_API_KEY": "k"}
    settings = compiled(many.config, tmp_path, environ).settings
    assert settings.kafka.brokers == ("kafka-0.kafka:9092", "kafka-1.kafka:9092")
    assert settings.cluster is not None
    # The name that the headless service gives the pod.
    service = many.one("Service", "-nodes")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert many.one("StatefulSet")["spec"]["serviceName"] == service["metadata"]["name"]
    assert (
        f"advertise: ${{POD_NAME}}.{service['metadata']['name']}.llm.svc:{service['spec']['ports'][0]['port']}\n"
        in many.config
    )


def test_selectors_match_the_pods(rendered: Rendered) -> None:
    labels = rendered.one("StatefulSet")["spec"]["template"]["metadata"]["labels"].items()
    selectors = [rendered.one("StatefulSet")["spec"]["selector"]["matchLabels"]]
    for o in rendered.objects:
        if o["kind"] == "Service":
            selectors.append(o["spec"]["selector"])
        if o["kind"] == "NetworkPolicy":
            selectors.append(o["spec"]["podSelector"]["matchLabels"])
        if o["kind"] == "PodDisruptionBudget":
            selectors.append(o["spec"]["selector"]["matchLabels"])
        if o["kind"] == "ServiceMonitor":
            wanted = o["spec"]["selector"]["matchLabels"].items()
            services = [s for s in rendered.objects if s["kind"] == "Service"]
            found = [s for s in services if wanted <= s["metadata"]["labels"].items()]
            # One of the two: each node would be scraped twice otherwise.
            assert [s["spec"].get("clusterIP") for s in found] == [None]
            assert o["spec"]["endpoints"][0]["port"] in [p["name"] for p in found[0]["spec"]["ports"]]
    assert len(selectors) >= 4
    assert all(selector.items() <= labels for selector in selectors)


def test_ports_and_probes_are_what_the_program_has(rendered: Rendered) -> None:
    container = rendered.container
    (port,) = container["ports"]
    assert (port["name"], port["containerPort"]) == ("http", 8080)
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        get = container[name]["httpGet"]
        assert get["port"] == port["name"]
        assert get["path"] in PATHS
    for o in rendered.objects:
        if o["kind"] == "Service":
            assert {p["targetPort"] for p in o["spec"]["ports"]} == {port["name"]}
    assert f"port: {port['containerPort']}\n" in rendered.config


def test_the_configuration_is_mounted_so_that_edits_arrive(rendered: Rendered) -> None:
    (mount,) = (m for m in rendered.container["volumeMounts"] if m["name"] == "config")
    assert "subPath" not in mount
    assert rendered.container["args"] == ["serve", "--config", f"{mount['mountPath']}/config.yaml"]
    (volume,) = (v for v in rendered.pod["volumes"] if v["name"] == "config")
    assert volume["configMap"]["name"] == rendered.one("ConfigMap")["metadata"]["name"]
    # A pod that restarts with every edit would not reload, it would drain.
    annotations = rendered.one("StatefulSet")["spec"]["template"]["metadata"].get("annotations", {})
    assert not any("checksum" in name for name in annotations)


def test_secrets_are_in_the_secret_only(many: Rendered) -> None:
    elsewhere = json.dumps([o for o in many.objects if o["kind"] != "Secret"])
    assert not [word for word in PLANTED if word in elsewhere]
    assert set(many.one("Secret")["data"]) == {
        "OPENAI_API_KEY",
        "PGPASSWORD",
        "REDIS_PASSWORD",
        "CLUSTER_SECRET",
    }
    assert many.container["envFrom"] == [{"secretRef": {"name": many.one("Secret")["metadata"]["name"]}}]


def test_pods_have_no_rights_and_write_in_two_places(rendered: Rendered) -> None:
    assert rendered.pod["securityContext"]["runAsNonRoot"] is True
    assert rendered.pod["automountServiceAccountToken"] is False
    context = rendered.container["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    writable = {m["mountPath"] for m in rendered.container["volumeMounts"] if not m.get("readOnly")}
    assert writable == {"/var/lib/llm-optimizer", "/tmp"}
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f"USER {rendered.pod['securityContext']['runAsUser']}\n" in dockerfile


def test_nobody_is_killed_while_draining(rendered: Rendered) -> None:
    server = yaml.safe_load(rendered.config)["server"]
    drain_s = (server["drain_delay_ms"] + server["drain_timeout_ms"]) / 1000
    assert rendered.pod["terminationGracePeriodSeconds"] >= drain_s + 5 + TAIL_PATIENCE_S + 10


def test_an_empty_directory_only_with_kafka(check, many: Rendered, tmp_path: Path) -> None:
    assert [v for v in many.pod["volumes"] if v["name"] == "state" and "emptyDir" in v]
    assert "volumeClaimTemplates" not in many.one("StatefulSet")["spec"]
    for text, reason in (
        ("persistence: {enabled: false}", "needs cluster.enabled"),
        ("replicaCount: 2", "more than one replica needs cluster.enabled"),
        ("autoscaling: {enabled: true}", "more than one replica needs cluster.enabled"),
        ("cluster: {enabled: true}", "needs cluster.kafka.brokers"),
    ):
        values = tmp_path / "values.yaml"
        values.write_text(text)
        assert reason in check("chart", CHART, values, refused=True)


def test_the_scaler_owns_the_number_of_replicas(many: Rendered) -> None:
    assert "replicas" not in many.one("StatefulSet")["spec"]
    target = many.one("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("StatefulSet", many.one("StatefulSet")["metadata"]["name"])
    assert many.container["resources"]["requests"]["cpu"]


def test_a_wrong_field_is_noticed(check, tmp_path: Path) -> None:
    """The check itself: what is not a field of the Kubernetes API does not pass."""
    values = tmp_path / "values.yaml"
    values.write_text("resources: {request: {cpu: 1}}")
    assert 'unknown field "spec.template.spec.containers[0].resources.request"' in check(
        "chart", CHART, values, refused=True
    )


def test_boards_and_rules_are_carried_along_when_they_are_asked_for(single: Rendered, many: Rendered) -> None:
    """They are the files of monitoring, with the braces of their templates left alone."""
    monitoring = ROOT / "monitoring"
    carried = many.one("ConfigMap", "-boards")
    assert carried["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert {name: json.loads(text) for name, text in carried["data"].items()} == {
        path.name: json.loads(path.read_text()) for path in (monitoring / "grafana").glob("*.json")
    }
    for path in (monitoring / "prometheus" / "rules").glob("*.yml"):
        assert many.one("PrometheusRule", f"-{path.stem}")["spec"] == yaml.safe_load(path.read_text())
    assert "PrometheusRule" not in single.kinds()
    assert not [o for o in single.objects if o["metadata"]["name"].endswith("-boards")]
