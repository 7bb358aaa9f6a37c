"""What is logged is a promise: schemas describe it, old lines stay readable, and nothing is ever taken back.

``tests/golden/events`` holds lines that real products wrote, one file for each type; ``tests/golden/node`` a whole log
with what it taught. Both are added to when something new is logged and **never changed**: a test that fails here
says that somebody's consumer would break.
"""

import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator

from loadtests.event_schemas import DIRECTORY, event_schemas, page, type_of
from optimizer import events
from optimizer.history_rings import HistoryRings
from optimizer.ingest import Ingest
from optimizer.judging.judgements import Judgements
from optimizer.log.node import StateDirectory
from optimizer.rollouts.history import record_in, row_of
from optimizer.savings import Savings
from proxy.control.metrics.observer import MetricsObserver
from proxy.control.metrics.totals import Vocabulary

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
LINES = sorted((GOLDEN / "events").glob("*.jsonl"))
TYPES = {value for name, value in vars(events).items() if name.isupper() and str(value).endswith(".v1")}
RELATIVE = 1e-9


def _lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_every_type_has_a_schema_and_golden_lines():
    """One file each, named like the type."""
    schemas = event_schemas()

    assert set(schemas.documents) == TYPES
    assert {f"llm_optimizer.{path.stem}" for path in DIRECTORY.glob("*.json")} == TYPES
    assert {f"llm_optimizer.{path.stem}" for path in LINES} == TYPES
    for title, document in schemas.documents.items():
        Draft202012Validator.check_schema(document)
        assert document["properties"]["type"]["const"] == title
        assert (
            document["additionalProperties"] is document["properties"]["data"]["additionalProperties"] is True
        )


def test_the_envelope_is_one():
    """All but id, type and data is the same in every schema."""
    parts = []
    for document in event_schemas().documents.values():
        own = {"id", "type", "data"}
        parts.append({name: part for name, part in document["properties"].items() if name not in own})

    assert all(part == parts[0] for part in parts)


@pytest.mark.parametrize("path", LINES, ids=lambda path: path.stem)
def test_old_lines_are_what_the_schemas_promise(path):
    """For ever: the schemas of today describe every line that was ever written."""
    events_there = _lines(path)

    assert events_there
    assert not [problem for event in events_there for problem in event_schemas().problems(event)]


def test_schemas_are_tight():
    """A schema that takes anything would prove nothing: each refuses a line without a promised field."""
    schemas = event_schemas()
    for path in LINES:
        event = _lines(path)[0]
        document = schemas.documents[event["type"]]
        for name in document["properties"]["data"]["required"]:
            if name not in event["data"]:
                continue
            without = event | {"data": {key: value for key, value in event["data"].items() if key != name}}
            wrong = event | {"data": event["data"] | {name: object}}
            assert schemas.problems(without), (path.stem, name)
            assert schemas.problems(wrong), (path.stem, name)
        assert schemas.problems(event | {"data": event["data"] | {"made_up": 1}})
        assert schemas.problems({key: value for key, value in event.items() if key != "id"})


def test_evolution_is_additive():
    """Nothing that was ever described vanished, changed its type, or became optional.

    New fields are added to the file with ``python -m pytest`` telling which; lines of it are never changed.
    """
    promised = orjson.loads((GOLDEN / "event_fields.json").read_bytes())
    present = event_schemas().fields()

    broken = [
        f"{title}{place}"
        for title, places in promised.items()
        for place, was in places.items()
        if present.get(title, {}).get(place) != was
    ]
    unkept = [
        f"{title}{place}"
        for title, places in present.items()
        for place in places
        if place not in promised.get(title, {})
    ]
    assert not broken, "a promise was broken: make a new type instead"
    assert not unkept, f"new; add to tests/golden/event_fields.json: {unkept}"


def test_words_are_only_added():
    """What an enumeration allowed, it allows."""
    promised = orjson.loads((GOLDEN / "event_words.json").read_bytes())

    for title, places in promised.items():
        data = event_schemas().documents[title]["properties"]["data"]["properties"]
        for name, words in places.items():
            assert set(words) <= set(data[name]["enum"]), (title, name)


def test_the_page_is_made_of_the_schemas():
    """If not: `python -m loadtests.event_schemas > docs/events.md`."""
    assert (ROOT / "docs" / "events.md").read_text("utf-8") == page(event_schemas())


def test_code_and_schemas_know_the_same_words():
    """The vocabulary of ``optimizer.events``."""
    data = event_schemas().documents[events.REQUEST]["properties"]["data"]["properties"]

    assert set(data["outcome"]["enum"]) == set(events.OUTCOMES)
    assert set(data["attempts"]["items"]["properties"]["why"]["enum"]) == set(events.WHYS)
    assert data["arms"]["maxItems"] == events.INLINE_VECTOR_ARMS
    assert type_of(data["arm"]) == ["string", "null"]


def test_fields_of_the_code_are_described():
    """Every name in the table of ``optimizer.events`` is in the schema of requests."""
    rows = re.findall(r"^(\S[^=]+?)  +\S.*$", str(events.__doc__), re.MULTILINE)
    data = event_schemas().documents[events.REQUEST]["properties"]["data"]["properties"]

    names = {name for row in rows for name in re.split(r",\s*", row) if re.fullmatch(r"[a-z_.]+", name)}
    assert len(names) > 25
    assert names <= data.keys()


# --- readers ----------------------------------------------------------------------------------------


def _node(tmp_path: Path) -> StateDirectory:
    state = StateDirectory(tmp_path / "state")
    shutil.copy(GOLDEN / "node" / "node.json", state.node_file)
    state.id_key_file.write_bytes(bytes.fromhex((GOLDEN / "node" / "id_key.hex").read_text()))
    shutil.copytree(GOLDEN / "node" / "log", state.log_directory, dirs_exist_ok=True)
    return StateDirectory(state.path)


LEARNED_AT = 1795413000.0
"""Soon after the golden log was written."""


def _learn(state: StateDirectory, *consumers: Any) -> Ingest:
    ingest = Ingest(state, clock=lambda: LEARNED_AT)
    for consumer in consumers:
        ingest.add_consumer(consumer)
    while ingest.step():
        pass
    return ingest


def _sums(ingest: Ingest) -> dict[str, list[float]]:
    """Weight, sum, sum of squares and count by route, arm and signal."""
    found: dict[str, list[float]] = {}
    for row in ingest.statistics.rows():
        total = found.setdefault("|".join(row[:4]), [0.0, 0.0, 0.0, 0.0])
        for place, value in enumerate(row[6:]):
            total[place] += value
    return found


def test_an_old_log_teaches_what_it_always_taught(tmp_path):
    """The learner of today reads the log of then: the same counts, and the same sums within 1e-9."""
    ingest = _learn(_node(tmp_path))
    learned = orjson.loads((GOLDEN / "node" / "learned.json").read_bytes())
    try:
        assert ingest.counts["malformed"] == ingest.counts["torn"] == ingest.counts["invalid"] == 0
        assert {name: count for name, count in sorted(ingest.learner.counts.items()) if count} == learned[
            "counts"
        ]
        sums = _sums(ingest)
        assert sums.keys() == learned["sums"].keys()
        for key, values in learned["sums"].items():
            assert sums[key] == pytest.approx(values, rel=RELATIVE), key
    finally:
        ingest.close()


def test_consumers_take_every_old_line(tmp_path):
    """Metrics, savings and judgements read every golden line without an error; records and audit come out of theirs."""
    state = StateDirectory(tmp_path / "state")
    source = state.log_directory / "0a0a0a0a-00000001-worker"
    source.mkdir()
    (source / "00000001.jsonl").write_bytes(b"".join(path.read_bytes() for path in LINES))

    seen = MetricsObserver(Vocabulary(), now=lambda: LEARNED_AT)

    ingest = _learn(
        state,
        seen,
        Savings(
            lambda route, arm, at: None, HistoryRings(sqlite3.connect(":memory:"), now=lambda: LEARNED_AT)
        ),
        Judgements(),
    )
    try:
        assert ingest.counts["events"] == sum(len(_lines(path)) for path in LINES)
        assert ingest.counts["malformed"] == ingest.counts["consumer_errors"] == 0
    finally:
        ingest.close()
    for event in _lines(GOLDEN / "events" / "optimization.transition.v1.jsonl"):
        record, row = record_in(event["data"]), row_of(event["id"], event["type"], event["data"], 0.0)
        assert (record.id, str(record.status)) == (row.target, event["data"]["to"])
    for event in _lines(GOLDEN / "events" / "admin.audit.v1.jsonl"):
        assert row_of(event["id"], event["type"], event["data"], 0.0).actor
