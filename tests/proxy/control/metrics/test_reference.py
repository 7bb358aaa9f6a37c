"""The written reference of metrics: current, complete, every label explained."""

import re
from pathlib import Path
from typing import Any

from proxy.control.facts import FEEDBACK_RESULTS
from proxy.control.metrics.faults import RESULTS, result_of
from proxy.control.metrics.reference import LABELS, example, labels_of, name_of, reference

ROOT = Path(__file__).parents[4]


def test_the_page_is_current() -> None:
    """If not: `python -m proxy.control.metrics.reference > docs/metrics.md`."""
    assert (ROOT / "docs" / "metrics.md").read_text() == reference()


def test_every_metric_has_one_row_and_a_meaning_of_its_own() -> None:
    """A family without a sample would hide its labels."""
    families = example()
    names = [name_of(family) for family in families]

    assert [family.name for family in families if not family.samples] == []
    assert len(names) == len(set(names))
    assert len(families) == len({family.documentation for family in families})
    assert re.findall(r"^\| `(llm_optimizer_\w+)` \|", reference(), re.MULTILINE) == names


def test_every_label_is_explained_and_nothing_else() -> None:
    """By its name, or by metric and label."""
    keys = {
        (label, f"{name_of(family).removeprefix('llm_optimizer_')} {label}")
        for family in example()
        for label in labels_of(family)
    }

    assert [pair for pair in keys if not LABELS.keys() & set(pair)] == []
    assert set(LABELS) <= {key for pair in keys for key in pair}


def test_every_result_of_feedback_is_among_the_labels() -> None:
    """Whatever the learner counts about feedback is shown, from the start."""
    source = "".join((ROOT / "optimizer" / name).read_text() for name in ("learner.py", "counted.py"))

    assert set(re.findall(r'"feedback_(\w+)"', source)) == set(FEEDBACK_RESULTS)


def test_every_result_of_an_attempt_is_among_the_labels() -> None:
    """Words of an upstream's own are folded into one of ours."""
    attempts: list[dict[str, Any]] = [
        {"error": error, "status": status}
        for error in (None, "timeout_error", "client_gone", "hedged", "whatever")
        for status in (None, 200, 400, 401, 408, 429, 500, "x")
    ]

    assert {result_of(attempt) for attempt in attempts} <= set(RESULTS)
    assert len(RESULTS) == len(set(RESULTS))
