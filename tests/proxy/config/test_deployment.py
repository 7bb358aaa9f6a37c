"""Rollout plans, webhooks, the database: what they become, and what is refused."""

import pytest

from optimizer.settings import (
    DatabaseSettings,
    DeploymentSettings,
    HealthChecks,
    RolloutPlan,
    Stage,
    WebhookSettings,
)
from proxy.config.export import effective_yaml, file_yaml
from proxy.config.load import load_text
from proxy.config.problems import ConfigProblems
from proxy.config.secrets import literal_reference, resolve
from proxy.config.subscriptions import EVENT_NAMES
from proxy.control.webhooks import EVENT_NAMES as SENT

PLANTED = "planted-secret-0123456789abcdef"


def deployment_of(text):
    return load_text(f"deployment: {text}", {}).settings.deployment


def problems_of(text, environ=None):
    with pytest.raises(ConfigProblems) as caught:
        load_text(text, environ or {})
    assert PLANTED not in str(caught.value)
    return {problem.path: problem.message for problem in caught.value.problems}


def test_the_default_plan_is_that_of_the_optimizer():
    """Written nowhere, or written without stages."""
    assert deployment_of("{}") == DeploymentSettings()
    assert deployment_of("{canary: {enabled: true, stages: []}}") == DeploymentSettings()


def test_stages_may_be_fractions_and_end_at_all_traffic():
    """The end need not be written; too few requests are waited for, by default ten times the duration."""
    plan = deployment_of(
        "{canary: {stages: [{percentage: 0.5, duration_sec: 60}, "
        "{percentage: '12.5', duration_sec: 0, min_samples: 0, max_wait_sec: 7}]}}"
    ).plan

    assert plan.stages == (Stage(0.5, 60.0, 100, 600.0), Stage(12.5, 0.0, 0, 7.0), Stage(100.0))


def test_without_a_canary_there_are_no_stages():
    """The bounds stay."""
    plan = deployment_of("{canary: {enabled: false, health_check: {error_rate_threshold: 0.1}}}").plan

    assert plan == RolloutPlan(stages=(), checks=HealthChecks(error_rate=0.1))


def test_every_bound_arrives():
    """From both of the places where bounds may stand."""
    checks = deployment_of(
        "{health_check: {interval_sec: 5, error_rate_threshold: 0.1, quality_threshold: 0.9}, canary: {health_check: "
        "{latency_p95_threshold_ms: 2, cost_per_request_threshold_usd: 0.3, non_inferiority_margin: 0.02, "
        "error_rate_threshold: '0.10'}}}"
    ).plan.checks

    assert checks == HealthChecks(True, 5.0, 0.1, 2.0, 0.3, 0.9, 0.02)
    assert not deployment_of("{health_check: {enabled: false}}").plan.checks.enabled


def test_a_bound_of_its_own_goes_before_the_optimizers():
    """`optimization.quality_threshold` is for whoever has none."""
    text = "optimization: {quality_threshold: 0.95}\ndeployment: {health_check: {quality_threshold: 0.5}}"

    assert load_text(text, {}).settings.deployment.plan.checks.quality_ratio == 0.5


@pytest.mark.parametrize(
    ("text", "approval"),
    [
        ("{}", False),
        ("{auto_promote: false}", True),
        ("{environment: staging}", True),
        ("{environment: Staging, auto_promote: true}", True),
        ("{environment: production, auto_promote: true}", False),
    ],
)
def test_who_promotes(text, approval):
    """A person in staging, and wherever the file says so; a contradiction is pointed out."""
    loaded = load_text(f"deployment: {text}", {"OPENAI_API_KEY": "x", "ANTHROPIC_API_KEY": "x"})

    assert loaded.settings.deployment.plan.approval is approval
    assert ["deployment.auto_promote" in note.path for note in loaded.notes] == [True] * ("Staging" in text)


def test_every_problem_of_a_plan_is_named_at_once():
    """Stages that do not rise, waits that are too short, bounds that disagree or are none."""
    assert problems_of(
        """\
deployment:
  health_check: {quality_threshold: 0.9, non_inferiority_margin: 2}
  canary:
    stages:
    - {percentage: 10}
    - {percentage: 10, duration_sec: 60, max_wait_sec: 59}
    - {percentage: 101}
    - {percentage: 5, duration_sec: -1, min_samples: 1.5}
    health_check: {quality_threshold: 0.8, error_rate_threshold: 0, latency_threshold_ms: 5}
"""
    ).keys() == {
        "deployment.canary.stages[0].duration_sec",
        "deployment.canary.stages[1].percentage",
        "deployment.canary.stages[1].max_wait_sec",
        "deployment.canary.stages[2].percentage",
        "deployment.canary.stages[3].percentage",
        "deployment.canary.stages[3].duration_sec",
        "deployment.canary.stages[3].min_samples",
        "deployment.health_check.non_inferiority_margin",
        "deployment.health_check.quality_threshold",
        "deployment.canary.health_check.error_rate_threshold",
        "deployment.canary.health_check.latency_threshold_ms",
    }


def test_webhooks():
    """In short and in long; the secret is a reference, the events may be patterns."""
    loaded = load_text(
        "webhooks:\n- https://a.example/x\n"
        "- {name: b, url: 'http://127.0.0.1:9/', secret: '${HOOK}', events: 'optimization.deployed,optimization.*'}\n"
        f"- {{url: 'https://${{HOST}}/c', secret: {PLANTED}, events: ['*.rolled_back']}}\n",
        {"HOST": "c.example", "OPENAI_API_KEY": "x", "ANTHROPIC_API_KEY": "x"},
    )
    reference = literal_reference(PLANTED)

    assert loaded.settings.webhooks == (
        WebhookSettings("a.example", "https://a.example/x"),
        WebhookSettings("b", "http://127.0.0.1:9/", "env:HOOK", ("optimization.deployed", "optimization.*")),
        WebhookSettings("c.example", "https://c.example/c", reference, ("*.rolled_back",)),
    )
    assert resolve(reference, {}, loaded.secrets) == PLANTED
    assert {note.path for note in loaded.notes} == {"webhooks[1].secret", "webhooks[2].secret"}
    assert PLANTED not in effective_yaml(loaded) + file_yaml(loaded) + repr(loaded)


def test_every_problem_of_webhooks_is_named_at_once():
    """Addresses that are none or hold a password, names that are taken, events that never come."""
    assert problems_of(
        f"""\
webhooks:
- ftp://a.example
- https://u:{PLANTED}@b.example
- https://c.example
- {{url: 'https://c.example/2', events: [optimization.deploid]}}
- {{name: c.example, url: 'https://d.example'}}
- {{secret: {PLANTED}}}
- {{url: 'https://e.example', events: [optimization.rolled_bak, 'rollout.*'], secret: 'a ${{B}}'}}
- {{url: 'https://169.254.169.254/'}}
- {{url: 'https://[f'}}
- {{url: 'https://g.example/{PLANTED} x'}}
"""
    ).keys() == {
        "webhooks[0].url",
        "webhooks[1].url",
        "webhooks[3]",
        "webhooks[4].name",
        "webhooks[5].url",
        "webhooks[6].events[0]",
        "webhooks[6].events[1]",
        "webhooks[6].secret",
        "webhooks[7].url",
        "webhooks[8].url",
        "webhooks[9].url",
    }


def test_events_that_may_be_asked_for_are_those_that_are_sent():
    """One list in two places."""
    assert set(EVENT_NAMES) == set(SENT)


def test_a_database_without_a_password_is_shown_as_it_is():
    """It is a secret reference all the same; who resolves it gets the address."""
    for url in (
        "postgresql://localhost/optimizer",
        "postgres://me@db:5433/x?sslmode=require",
        "postgresql+psycopg://db/x",
        "postgresql:///x?host=/run/postgresql&port=5433",
        "sqlite:////var/lib/o.sqlite3",
    ):
        loaded = load_text(f"database: {{url: '{url}', timeout_sec: 2.5, max_connections: 3}}", {})

        assert loaded.settings.database == DatabaseSettings(literal_reference(url), 3, 2.5)
        assert resolve(literal_reference(url), {}, loaded.secrets) == url
        assert url in effective_yaml(loaded)
        assert url in file_yaml(loaded)
        assert not [note for note in loaded.notes if note.path.startswith("database")]
        assert load_text(effective_yaml(loaded), {}).settings == loaded.settings


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{PLANTED}@db/x",
        f"postgresql://db/x?password={PLANTED}",
        f"postgresql://me:{PLANTED}@${{DB_HOST}}/x",
    ],
)
def test_a_database_password_is_never_written(url):
    """The exports name it by a digest, which loads to the same settings."""
    loaded = load_text(f"# {PLANTED}-old\ndatabase: {{url: '{url}'}}  # {url}\n", {"DB_HOST": "db"})
    reference = loaded.settings.database.url

    assert resolve(reference, {}, loaded.secrets) == url.replace("${DB_HOST}", "db")
    assert PLANTED not in repr(loaded)
    for text in (effective_yaml(loaded), file_yaml(loaded)):
        assert f"{url.partition('://')[2]}" not in text
        assert "@db/x" not in text
        assert reference in text
        assert load_text(text, {"DB_HOST": "db"}).settings == loaded.settings


def test_a_variable_in_the_place_of_the_password_stays():
    """Then nothing secret stands in the file."""
    text = "database: {url: 'postgresql://me:${PGPASSWORD}@${HOST:-db}/x'}\n"
    environ = {"PGPASSWORD": PLANTED}
    loaded = load_text(text, environ)

    assert resolve(loaded.settings.database.url, {}, loaded.secrets) == f"postgresql://me:{PLANTED}@db/x"
    assert file_yaml(loaded) == text
    assert "postgresql://me:${PGPASSWORD}@${HOST:-db}/x" in effective_yaml(loaded)
    assert PLANTED not in repr(loaded) + effective_yaml(loaded)
    assert load_text(effective_yaml(loaded), environ).settings == loaded.settings


@pytest.mark.parametrize(
    ("written", "environ", "reference"),
    [
        ("${DB}", {"DB": f"postgres://me:{PLANTED}@db/x"}, "env:DB"),
        ("env:DB", {}, "env:DB"),
        ("file:/nowhere/url", {}, "file:/nowhere/url"),
        (f"postgres://me:{PLANTED}@db/x", {"DATABASE_URL": "postgres://p/x"}, "env:DATABASE_URL"),
        (f"postgres://me:{PLANTED}#{PLANTED}@db/x", {"DATABASE_URL": "postgres://p/x"}, "env:DATABASE_URL"),
        (f"postgres://me:{PLANTED}@${{DB}}/x", {"DATABASE_URL": "postgres://p/x"}, "env:DATABASE_URL"),
    ],
)
def test_a_reference_to_the_database_stays_one(written, environ, reference):
    """The environment goes before the file; what is not there yet is a note, not a problem."""
    loaded = load_text(f"database: {{url: '{written}'}}", environ)

    assert loaded.settings.database.url == reference
    assert ("database.url" in {note.path for note in loaded.notes}) is (not environ)
    for text in (effective_yaml(loaded), file_yaml(loaded)):
        assert PLANTED not in text
        assert load_text(text, environ).settings == loaded.settings


def test_what_is_no_database_is_refused():
    """Wherever the address comes from, and without repeating it."""
    for text, environ in (
        ("database: {url: 'mysql://db/x'}", {}),
        (f"database: {{url: '{PLANTED}'}}", {}),
        ("database: {url: '${DB}'}", {"DB": f"http://{PLANTED}"}),
        ("", {"DATABASE_URL": PLANTED}),
    ):
        assert problems_of(text, environ) == {"database.url": "must be a postgresql:// or sqlite:// address."}
    for url in ("sqlite://", "sqlite:///", "sqlite:///o.sqlite3", "sqlite:///:memory:", "sqlite:////"):
        assert "absolute path" in problems_of(f"database: {{url: '{url}'}}")["database.url"]
    for url in ("postgresql://db:x/y", f"postgresql://me:{PLANTED}@[db/y"):
        assert "no address" in problems_of(f"database: {{url: '{url}'}}")["database.url"]
    for url in ("postgresql://dé/x", f"postgresql://me:é{PLANTED}@db/x"):
        assert "ASCII" in problems_of(f"database: {{url: '{url}'}}")["database.url"]
    assert problems_of("database: {url: 5, max_connections: 0, timeout_sec: 0}").keys() == {
        "database.url",
        "database.max_connections",
        "database.timeout_sec",
    }


@pytest.mark.parametrize(
    ("url", "is_written"),
    [
        ("postgresql://u:${PASSWORD}@h/d", False),
        ("postgresql://u:${PASSWORD}@${HOST}/d", False),
        ("postgresql://u:hunter2@${HOST}/d", True),
        ("postgresql://u:hunter2@h/d", True),
        ("postgresql://u:${PASSWORD:-hunter2}@h/d", True),
    ],
)
def test_only_a_password_that_stands_in_the_file_is_remarked_on(url: str, is_written: bool) -> None:
    """One that comes from a variable does not, also in the middle of an address."""
    environ = {"PASSWORD": "hunter2hunter2", "HOST": "db.internal"}
    loaded = load_text(f'database: {{url: "{url}"}}', environ)

    assert any("stands in the file" in str(note) for note in loaded.notes) == is_written
    assert any("hunter2" in value for value in loaded.secrets.values())
