"""Several nodes: what they need is named all at once, secrets are references, and nodes agree on the hash."""

from pathlib import Path

import pytest
import yaml

from optimizer.settings import ClusterSettings, KafkaSecurity, RedisSettings
from proxy.config.export import export
from proxy.config.load import Loaded, load, load_text
from proxy.config.problems import ConfigProblems

PLANTED = "sk-planted-secret-0123456789abcdef"
CLUSTER = """\
cluster: {secret: '${CLUSTER_SECRET}', advertise: 'one:8080'}
kafka: {brokers: 'k1:9092'}
redis: {url: 'redis://cache:6379/1', max_connections: 3, timeout_sec: 0.5}
database: {url: 'postgresql://db/x'}
"""
ENVIRON = {"CLUSTER_SECRET": PLANTED}


def problems_of(text: str, environ: dict[str, str] | None = None) -> dict[str, str]:
    with pytest.raises(ConfigProblems) as caught:
        load_text(text, ENVIRON if environ is None else environ)
    assert PLANTED not in str(caught.value)
    return {problem.path: problem.message for problem in caught.value.problems}


def notes_of(loaded: Loaded) -> dict[str, str]:
    """But for those about keys of upstreams."""
    return {note.path: note.message for note in loaded.notes if not note.path.startswith("upstreams")}


def test_a_cluster_with_all_it_needs() -> None:
    loaded = load_text(CLUSTER, ENVIRON)

    assert loaded.settings.cluster == ClusterSettings("default", "env:CLUSTER_SECRET", "one:8080", 12)
    redis = loaded.settings.redis
    assert redis is not None
    assert loaded.secrets[redis.url] == "redis://cache:6379/1"
    assert redis == RedisSettings(redis.url, 3, 0.5)
    assert notes_of(loaded) == {}


@pytest.mark.parametrize(
    "text", ["cluster: true", "cluster: {}", "cluster: {enabled: true}", "cluster: 'on'"]
)
def test_a_cluster_without_anything_names_all_that_is_missing(text: str) -> None:
    assert set(problems_of(text)) == {"kafka.brokers", "redis.url", "database.url", "cluster.secret"}


@pytest.mark.parametrize("text", ["", "cluster: false", "cluster: {enabled: false}", "cluster:"])
def test_a_node_on_its_own_needs_nothing(text: str) -> None:
    settings = load_text(text, {}).settings
    assert (settings.cluster, settings.kafka, settings.redis) == (None, None, None)


def test_the_environment_can_make_a_cluster_alone() -> None:
    """As a chart does it."""
    environ = {
        "LLM_OPTIMIZER__CLUSTER__SECRET": PLANTED,
        "LLM_OPTIMIZER__CLUSTER__ADVERTISE": "10.0.0.7:8080",
        "KAFKA_BROKERS": "k1:9092,k2:9092",
        "REDIS_URL": f"redis://:{PLANTED}@cache",
        "DATABASE_URL": "postgresql://db/x",
    }
    loaded = load_text("", environ)

    assert loaded.settings.cluster == ClusterSettings(
        "default", "env:LLM_OPTIMIZER__CLUSTER__SECRET", "10.0.0.7:8080"
    )
    assert loaded.settings.redis == RedisSettings("env:REDIS_URL")
    text = export(loaded)
    assert PLANTED not in text
    assert load_text(text, environ).settings == loaded.settings


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (("kafka: {brokers: 'k1:9092'}", "kafka: {brokers: k1}"), "kafka.brokers[0]"),
        (("kafka: {brokers: 'k1:9092'}", "kafka: {brokers: 'k1:99999'}"), "kafka.brokers[0]"),
        (("redis://cache:6379/1", "http://cache"), "redis.url"),
        (("redis://cache:6379/1", "redis://cache/x"), "redis.url"),
        (("redis://cache:6379/1", "redis://[cache/x"), "redis.url"),
        (("postgresql://db/x", "sqlite:////x"), "database.url"),
        (("'${CLUSTER_SECRET}'", "short"), "cluster.secret"),
        (("one:8080", "one"), "cluster.advertise"),
        (("{secret", "{shards: 0, secret"), "cluster.shards"),
        (("{secret", "{shards: 1001, secret"), "cluster.shards"),
        (("{secret", "{name: 'a b', secret"), "cluster.name"),
        (("'k1:9092'}", "'k1:9092', dead_letter_topic: llm-feedback}"), "kafka.dead_letter_topic"),
        (("'k1:9092'}", "'k1:9092', feedback_topic: 'a b'}"), "kafka.feedback_topic"),
    ],
)
def test_one_mistake_is_one_problem(change: tuple[str, str], path: str) -> None:
    assert change[0] in CLUSTER
    assert list(problems_of(CLUSTER.replace(*change))) == [path]


def test_what_is_not_set_yet_is_a_note() -> None:
    """The processes are started all the same: a secret may be mounted later."""
    text = CLUSTER.replace("redis://cache:6379/1", "${REDIS}")
    notes = notes_of(load_text(text, {}))
    assert set(notes) == {"cluster.secret", "redis.url"}
    assert "env:REDIS is not set" in notes["redis.url"]


def test_redis_without_a_cluster_is_noted() -> None:
    loaded = load_text("redis: {url: 'redis://cache'}", {})
    assert set(notes_of(loaded)) == {"redis"}
    assert loaded.settings.redis is not None


def test_nodes_of_a_cluster_have_one_hash() -> None:
    """What may differ between them takes no part; everything else does."""

    def hash_of(text: str) -> str:
        return load_text(text, ENVIRON).settings.config_hash

    same = [
        CLUSTER,
        CLUSTER.replace("one:8080", "two:8081"),
        CLUSTER.replace("'k1:9092'}", "'k1:9092', client_id: node-7}"),
        CLUSTER.replace(", advertise: 'one:8080'", ""),
    ]
    other = [
        CLUSTER.replace("k1:", "k2:"),
        CLUSTER.replace("{secret", "{name: b, secret"),
        CLUSTER.replace("'k1:9092'}", "'k1:9092', topic: t}"),
    ]
    assert len({hash_of(text) for text in same}) == 1
    assert len({hash_of(text) for text in [CLUSTER, *other]}) == 1 + len(other)


def test_kafka_security(tmp_path: Path) -> None:
    """Files are found beside the configuration, the password is a reference, and both exports load again."""
    for name in ("ca.pem", "me.pem"):
        (tmp_path / name).write_text("-")
    file = tmp_path / "c.yaml"
    file.write_text(
        "kafka:\n  brokers: k:1\n  security: {protocol: SASL_SSL, mechanism: scram-sha-256, username: me, "
        f"password: '{PLANTED}', ca_file: ca.pem, certificate_file: me.pem}}\n"
    )
    loaded = load(file, {})

    kafka = loaded.settings.kafka
    assert kafka is not None
    assert kafka.security == KafkaSecurity(
        "sasl_ssl",
        "SCRAM-SHA-256",
        "me",
        kafka.security.password,
        str(tmp_path / "ca.pem"),
        str(tmp_path / "me.pem"),
    )
    assert kafka.security.password is not None
    assert loaded.secrets[kafka.security.password] == PLANTED
    for source in ("effective", "file"):
        text = export(loaded, source=source)  # type: ignore[arg-type]
        assert PLANTED not in text
        assert load_text(text, {}, path=file).settings == loaded.settings
    elsewhere = yaml.safe_load(export(loaded))["kafka"]["security"]
    assert elsewhere["ca_file"] == str(tmp_path / "ca.pem")


@pytest.mark.parametrize(
    ("security", "paths"),
    [
        ("sasl_ssl", {"mechanism", "username", "password"}),
        ("{username: me}", {"username"}),
        ("{protocol: ssl, password: '${P}'}", {"password"}),
        ("{ca_file: /nowhere}", {"ca_file"}),
        ("{protocol: ssl, ca_file: /nowhere}", {"ca_file"}),
        ("{protocol: ssl, key_file: /etc/hostname}", {"certificate_file"}),
        ("{protocol: tls}", {"protocol"}),
        ("{protocol: sasl_ssl, mechanism: GSSAPI, username: a, password: '${P}'}", {"mechanism"}),
    ],
)
def test_kafka_security_that_makes_no_sense(security: str, paths: set[str]) -> None:
    problems = problems_of(f"kafka: {{brokers: 'k:1', security: {security}}}")
    assert set(problems) == {f"kafka.security.{path}" for path in paths}


def test_a_disabled_cluster_keeps_its_secret_secret() -> None:
    text = f"cluster: {{enabled: false, secret: {PLANTED}}}\n"
    loaded = load_text(text, {})
    for source in ("effective", "file"):
        exported = export(loaded, source=source)  # type: ignore[arg-type]
        assert PLANTED not in exported
        assert load_text(exported, {}).settings == loaded.settings
