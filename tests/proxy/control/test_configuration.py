"""The configuration in use: what a swap reports."""

from dataclasses import replace

import pytest

from optimizer import events
from proxy.config.load import load_text
from proxy.config.problems import Problem
from proxy.control.configuration import APPLIED, REJECTED, UNCHANGED, Configuration, History, needs_restart

TEXT = "upstreams: {u: {base_url: 'http://h/v1'}}\nmodels: {m: {}, n: {}}\nroutes: {chat: {arms: [m, n]}}\n"


class Journal:
    """Keeps what is written."""

    def __init__(self):
        self.rows = []

    def write(self, kind, data):
        self.rows.append((kind, data))


@pytest.fixture
def journal():
    return Journal()


@pytest.fixture
def configuration(tmp_path, journal):
    return Configuration(
        load_text(TEXT, {}),
        path=None,
        environ={},
        generated_key=lambda: "key",
        history=History(tmp_path),
        journal=journal,
        now=lambda: 1.0,
    )


def test_a_reload_names_the_optimizations_that_it_ends(configuration, journal):
    """In its report and in the event."""
    offered = load_text(TEXT + "server: {timeout_ms: 5}\n", {})

    report = configuration.offer(offered, trigger="api", apply=lambda _: ["opt_1", "opt_2"])

    assert (report.result, report.superseded) == (APPLIED, ("opt_1", "opt_2"))
    ((kind, data),) = journal.rows
    assert (kind, data["superseded"]) == (events.CONFIG_RELOADED, ["opt_1", "opt_2"])


def test_a_reload_that_ends_none_says_so(configuration):
    """Whether it is used, needless or refused."""
    offered = load_text(TEXT + "server: {timeout_ms: 5}\n", {})

    def refuse(_):
        raise ValueError("no table")

    reports = [
        configuration.offer(load_text(TEXT, {}), trigger="api", apply=refuse),
        configuration.offer(offered, trigger="api", apply=refuse),
        configuration.offer(offered, trigger="api", apply=lambda _: None),
    ]

    assert [report.result for report in reports] == [UNCHANGED, REJECTED, APPLIED]
    assert [report.superseded for report in reports] == [(), (), ()]


def test_another_database_needs_a_restart():
    """It is opened when the process starts."""
    before = load_text(TEXT, {})
    after = load_text(TEXT, {"DATABASE_URL": "postgresql://db/x"})

    assert needs_restart(before, after) == ("database",)
    assert needs_restart(before, replace(before, secrets={"literal:x": "y"})) == ()


def test_problems_are_remembered_until_the_file_is_well_again(configuration):
    """Whoever looks later is told what is wrong with the file, and nothing that is over."""
    configuration.reject((Problem("routes", "is wrong"),), trigger="file")
    assert [problem.path for problem in configuration.problems] == ["routes"]

    configuration.offer(load_text(TEXT, {}), trigger="file", apply=lambda _: None)
    assert configuration.problems == ()


def test_a_key_that_has_come_is_no_longer_noted_as_missing(configuration):
    """The text is the same; what is to be said of it is not."""
    text = TEXT.replace("'http://h/v1'}", "'http://h/v1', api_key: '${KEY}'}")
    configuration.offer(load_text(text, {}), trigger="file", apply=lambda _: None)
    assert any("is not set" in str(note) for note in configuration.loaded.notes)

    report = configuration.offer(load_text(text, {"KEY": "k"}), trigger="api", apply=lambda _: None)

    assert report.result == UNCHANGED
    assert not any("is not set" in note for note in report.notes)
