"""The rules of Prometheus: valid, each alert tested by promtool and explained in docs/alerts.md."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.monitoring.conftest import MONITORING, rules

PROMETHEUS = MONITORING / "prometheus"
PAGE = (MONITORING.parent / "docs" / "alerts.md").read_text()
PREFIX = "LLMOptimizer"
ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
HEADINGS = re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)


def test_configuration_and_rules_are_valid(promtool: Callable[..., str]) -> None:
    told = promtool("check", "config", PROMETHEUS / "prometheus.yml")
    assert told.count("SUCCESS") >= 3


@pytest.mark.slow
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_only_then(promtool: Callable[..., str], path: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", path)


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    cases = {case["name"]: case for path in TESTS for case in yaml.safe_load(path.read_text())["tests"]}
    assert {PREFIX + name for name in cases} == set(ALERTS)
    for name, case in cases.items():
        (asked,) = case["promql_expr_test"]
        assert f'alertname="{PREFIX}{name}"' in asked["expr"]
        assert asked["exp_samples"]
        # Somebody else is like the one who fires, and is not expected to.
        told_apart = [set(re.findall(r'\w+="[^"]*"', sample["labels"])) for sample in asked["exp_samples"]]
        series = [set(re.findall(r'\w+="[^"]*"', line["series"])) for line in case["input_series"]]
        assert any(not any(one <= labels for one in told_apart) for labels in series), name


def test_every_alert_says_what_to_do() -> None:
    """Its runbook is a heading of docs/alerts.md that begins with its severity, and every heading is an alert."""
    assert {PREFIX + heading for heading in HEADINGS} == set(ALERTS)
    for name, alert in ALERTS.items():
        heading = name.removeprefix(PREFIX)
        assert alert["annotations"]["runbook"] == f"docs/alerts.md#{heading.lower()}"
        assert set(alert["annotations"]) == {"summary", "description", "runbook"}
        severity = alert["labels"]["severity"]
        assert severity in ("page", "ticket")
        assert f"### {heading}\n\n**{severity}.** " in PAGE


def test_links_of_the_page_lead_somewhere() -> None:
    docs = MONITORING.parent / "docs"
    for file, anchor in re.findall(r"\]\(([\w-]*(?:\.md)?)(?:#([\w-]+))?\)", PAGE):
        text = (docs / file).read_text() if file else PAGE
        slugs = {
            re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
            for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        }
        assert not anchor or anchor in slugs, (file, anchor)
