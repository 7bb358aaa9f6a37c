"""``cluster`` and the doctor's look at one, against a server that answers by script."""

import json
from typing import Any

import pytest
import yaml

NODE: dict[str, Any] = {
    "node": "0000000a", "address": "10.0.0.1:8080", "age_s": 0.4, "program": "1.2.3", "owns": [0], "late": [],
    "answers": True, "config_hash": "aaaabbbbccccdddd", "clock_skew_s": None, "engines_down": [], "is_this": True,
}  # fmt: skip
OTHER = NODE | {
    "node": "0000000b",
    "address": "10.0.0.2:8080",
    "owns": [1],
    "clock_skew_s": 0.01,
    "is_this": False,
}
SHARD: dict[str, Any] = {
    "shard": 0, "owner": "0000000a", "reason": None, "generation": 12, "offset": 4711, "lag": 3,
    "snapshot_age_s": 8.0, "is_guarding": True,
}  # fmt: skip
IDLE = SHARD | dict.fromkeys(("owner", "generation", "offset", "lag", "snapshot_age_s", "is_guarding"))
ENGINE = {"up": True, "error": "", "since": 1.0, "errors": 0}
ANSWER: dict[str, Any] = {
    "enabled": True, "node": "0000000a", "nodes": [NODE, OTHER], "partitions": 2,
    "shards": [SHARD, SHARD | {"shard": 1, "owner": "0000000b"}],
    "engines": {"kafka": ENGINE, "redis": ENGINE | {"up": False, "error": "refused"}, "postgresql": ENGINE},
    "feedback": {"forwarded": 5, "received": 2, "undeliverable": 0, "dead_lettered": 0},
    "tables_unacknowledged_s": 0.0, "incomplete": [],
}  # fmt: skip
HEALTHY = {"status": "healthy", "components": {"redis": "healthy"}, "version": "1", "configuration": {}}


def test_the_tables(script: Any, ask: Any) -> None:
    """Nodes, shards, engines; a shard without an owner says why."""
    idle = IDLE | {"shard": 2, "reason": "the database does not answer"}
    script.on("GET", "/api/v1/cluster", ANSWER | {"shards": [SHARD, idle]})

    text = ask("cluster").output

    for word in (
        "0000000a (this)", "10.0.0.2:8080", "4711", "12", "+0.01 s", "aaaabbbbcccc",
        "nobody: the database does not answer", "refused", "5 forwarded",
    ):  # fmt: skip
        assert word in text, word


def test_the_answer_itself(script: Any, ask: Any) -> None:
    """For programs."""
    script.on("GET", "/api/v1/cluster", ANSWER)

    assert json.loads(ask("cluster", "-o", "json").stdout) == ANSWER
    assert yaml.safe_load(ask("cluster", "-o", "yaml").stdout) == ANSWER


def test_one_node(script: Any, ask: Any) -> None:
    """Said in a sentence, which is no error."""
    script.on("GET", "/api/v1/cluster", {"enabled": False})

    result = ask("cluster")

    assert result.exit_code == 0
    assert "no cluster" in result.output


def test_what_an_answer_lacks_is_said_beside_the_table(script: Any, ask: Any) -> None:
    """With any command; on standard error, so that a pipe gets the table alone."""
    lacks = [
        {
            "node": "0000000b",
            "address": "10.0.0.2:8080",
            "shards": [1, 3],
            "reason": "did not answer in time",
        },
        {"node": None, "address": None, "shards": [2], "reason": "it has no owner"},
    ]
    script.on("GET", "/api/v1/arms", {"table_version": 1, "arms": [], "steering": {}, "incomplete": lacks})

    result = ask("arms")

    assert "node 0000000b (10.0.0.2:8080), shards 1, 3: did not answer in time" in result.stderr
    assert "no node, shards 2: it has no owner" in result.stderr
    assert "incomplete" not in result.stdout


def checks(script: Any, ask: Any, **changes: Any) -> dict[str, list[str]]:
    """State and message of every check by its name."""
    script.on("GET", "/health/detailed", HEALTHY)
    script.on("GET", "/api/v1/cluster", ANSWER | changes)
    found: dict[str, list[str]] = {}
    for row in json.loads(ask("doctor", "-o", "json").stdout)["checks"]:
        found.setdefault(row["check"], []).append(f"{row['state']} {row['message']}")
    return found


def test_the_doctor_finds_a_cluster_well(script: Any, ask: Any) -> None:
    """One line for the nodes, one for the shards."""
    found = checks(script, ask)

    assert found["nodes"] == ["ok 2 answer, with the same configuration, version and time"]
    assert found["shards"] == ["ok 2, and each has an owner"]


@pytest.mark.parametrize(
    ("changes", "check", "words"),
    [
        ({"nodes": [NODE, OTHER | {"answers": False}]}, "nodes", "warn node 0000000b"),
        (
            {"nodes": [NODE, OTHER | {"answers": False, "reason": "refuses this node: no such secret"}]},
            "nodes",
            "does not answer: it refuses this node: no such secret",
        ),
        ({"nodes": [NODE, NODE, OTHER | {"config_hash": "ffff"}]}, "nodes", "another configuration (ffff"),
        ({"nodes": [NODE, NODE, OTHER | {"program": "0.9"}]}, "nodes", "another version (0.9"),
        ({"nodes": [NODE, OTHER | {"clock_skew_s": -5.0}]}, "clock", "warn node 0000000b"),
        ({"nodes": [NODE, OTHER | {"clock_skew_s": 90.0}]}, "clock", "fail node 0000000b"),
        ({"nodes": [NODE, OTHER | {"late": [0]}]}, "tables", "newest table of shards 0"),
        ({"nodes": [NODE, OTHER | {"engines_down": ["kafka"]}]}, "kafka", "does not reach it"),
        ({"shards": [IDLE | {"reason": "why not"}]}, "shards", "nobody drives shards 0: why not"),
        (
            {"shards": [IDLE | {"shard": shard, "reason": "why not"} for shard in (0, 1, 2, 5)]},
            "shards",
            "nobody drives shards 0-2, 5: why not",
        ),
        ({"shards": []}, "shards", "not known yet"),
        ({"partitions": 1}, "shards", "fail the topic has 1 partitions for 2 shards"),
        ({"partitions": 5}, "shards", "ok 3 partitions are beyond"),
    ],
)
def test_the_doctor_finds_what_is_wrong(
    script: Any, ask: Any, changes: dict[str, Any], check: str, words: str
) -> None:
    """Between the nodes."""
    assert any(words in line for line in checks(script, ask, **changes)[check])


def test_the_doctor_on_one_node_says_nothing_of_a_cluster(script: Any, ask: Any) -> None:
    """Nor does a server from before there were any."""
    script.on("GET", "/health/detailed", HEALTHY)
    script.on("GET", "/api/v1/cluster", {"enabled": False}, (404, {"error": {"code": "NOT_FOUND"}}))
    for _ in range(2):
        rows = json.loads(ask("doctor", "-o", "json").stdout)["checks"]
        assert not {row["check"] for row in rows} & {"nodes", "shards"}


def test_the_doctor_tells_an_engines_own_words(script: Any, ask: Any) -> None:
    """They stand under the engines of the health page."""
    components = {"redis": "degraded", "state_directory": "degraded"}
    engines = {"redis": {"up": False, "error": "connection refused", "since": 0.0, "errors": 1}}
    fleeting = {"error": "in memory only"}
    health = HEALTHY | {"components": components, "engines": engines, "state_directory": fleeting}
    script.on("GET", "/health/detailed", health)

    rows = {row["check"]: row for row in json.loads(ask("doctor", "-o", "json").stdout)["checks"]}

    assert rows["redis"]["message"] == "degraded: connection refused"
    assert "redis.url" in rows["redis"]["fix"]
    assert rows["state_directory"]["message"] == "degraded: in memory only"
