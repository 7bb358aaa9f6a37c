"""Both exports load again to the same settings, keep variables, and hold no secret."""

import random
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config.export import export
from proxy.config.load import load, load_text
from proxy.config.models import File
from proxy.config.models_base import Block
from proxy.config.normalise import STRATEGY_BLOCKS
from proxy.config.problems import ConfigProblems

ROOT = Path(__file__).parents[3]
PLANTED = "sk-planted-secret-0123456789abcdef"

FULL = """\
# Ünïcödé before the key moves offsets by bytes, not by letters: ééé
server: {port: '${PORT}', timeout_ms: 1234.5, max_body_bytes: 1073741824, drain_delay_ms: 1.5, shed_delay_ms: 0}
access: {client_keys: true, when_optimizer_away: {rates: closed}}
upstreams:
  a: {base_url: 'http://${HOST}/v1', api_key: '${KEY}', headers: {x-a: '1'}, proxy: 'http://proxy:3128',
    breaker: {window_ms: '${WINDOW:-333.3}', open_ms: 50000}, retry_share: 1, retry_floor: 0, allow_private: true}
  b: {provider: anthropic, base_url: 'https://b', api_key: 'SECRET'}  # was sk-0123456789abcdefghij, SECRET
  c: {unix_socket: /run/c.sock, paths: {chat: '/x/{model}?v=1'}, total_timeout_ms: 0.1, verify_tls: false,
    breaker: false}
models:
  m: {upstream: a, model: '${MODEL:-m-1}', price: {input: 1, output: 2, request: 0.001}, capabilities: [tools]}
  n: {upstream: b, model: claude-3-opus, stream_usage: false, first_token_timeout_ms: 0.7}
  s: {upstream: b, model: claude-3-haiku}
  o: {upstream: c, endpoints: [embeddings]}
prompts:
  p: {system: 'costs $${MONEY} and ${NAME:-x}', mode: set}
  q: "Ask: {question}"
routes:
  r:
    match: ['${PATTERN:-gpt-*}', 'x*']
    arms:
    - m
    - {model: n, prompt: p, parameters: {temperature: 0.1, stop: ['$${x}', null]}}
    - {model: m, prompt: q, id: z}
    baseline: z
    policy: {type: fixed, probabilities: {m: 0.2, z: 0.8}}
    sticky: user
    home: a
    fallbacks: [z, m, {model: s, prompt: p, parameters: {top_k: 3}}, s]
    retries: {attempts: '${ATTEMPTS:-4}', backoff_ms: 5000}
    timeouts: {first_token_ms: null, total_ms: 1234.5}
    streams: {hold_ms: 0.3, hold_tokens: 5, resume: true}
    hedge_after_ms: 1.1
    limits: {requests_per_minute: 60, usd_per_month: 0.3}
    objectives: [quality, {name: stars, weight: 0.1, direction: maximize, scale: 5}]
    context:
      lexical: '${WORDS:-true}'
      client: [{name: tier, header: X-Tier, values: 'free,paid'}, {name: age, metadata: a.b, min: -1, max: 0.3}]
    constraints:
      {target_reduction: 0.1, cost_per_day_usd: '${BUDGET:-12.5}', quality_threshold: 0.95, latency_p95_ms: 0.7}
    drift: false
    judge: {model: s, rubric: 'Is it $${right}?', rate: 0.3}
  quick: {arms: [m], retries: 0, timeouts: {total_ms: 10}}
metrics: {custom: [{name: stars, min: 1, max: 5}]}
passthrough: {default: a, /v1/audio: c}
kafka:
  brokers: '${BROKERS:-k1:1,k2:2}'
  request_timeout_ms: 1
  compression: none
  security: {protocol: SASL_SSL, mechanism: plain, username: me, password: SECRET}
database: {url: 'postgres://user:SECRET@db/x'}
redis: {url: 'redis://:${REDIS_PASSWORD:-}@cache:6379/0'}
cluster: {secret: 'SECRET-of-the-cluster', advertise: '${HOST}', shards: '${SHARDS:-3}'}
admin: {key: '${ADMIN}', keys: ['SECRET', 'file:/run/admin'], require_key: true}
optimization: {enabled: false, strategies: [cost_reduction], cost_reduction: {target: '0.40'}}
deployment:
  guard_lease_sec: 3
  environment: staging
  health_check: {error_rate_threshold: '${RATE:-0.25}'}
  canary:
    stages: [{percentage: '${SHARE:-0.5}', duration_sec: 1, max_wait_sec: 1.5}, {percentage: 99.9, duration_sec: 0}]
    health_check: {quality_threshold: 1, interval_sec: 0.5}
webhooks:
- {name: hook, url: 'https://h/${HOOK:-x}', secret: '${KEY}', events: 'optimization.*'}
- {url: 'http://h.example:8/', secret: 'SECRET'}
""".replace("SECRET", PLANTED)
ENVIRON = {
    "PORT": "8081",
    "HOST": "127.0.0.1:1",
    "KEY": PLANTED,
    "ADMIN": PLANTED,
    "REDIS_URL": f"redis://:{PLANTED}@c",
}


@pytest.mark.parametrize("source", ["effective", "file"])
def test_export_loads_again_and_holds_no_secret(source):
    """With everything that a configuration can say."""
    loaded = load_text(FULL, ENVIRON)

    text = export(loaded, source=source)
    again = load_text(text, ENVIRON)

    assert PLANTED not in text
    assert "0123456789abcdefghij" not in text
    assert again.settings == loaded.settings
    assert (again.listen, again.admin, again.log) == (loaded.listen, loaded.admin, loaded.log)
    assert export(again, source="effective") == export(loaded, source="effective")


def test_effective_export_keeps_variables():
    """In their places, secrets included."""
    document = yaml.safe_load(export(load_text(FULL, ENVIRON)))

    assert document["server"]["port"] == "${PORT}"
    assert document["upstreams"]["a"]["base_url"] == "http://${HOST}/v1"
    assert document["upstreams"]["a"]["api_key"] == "${KEY}"
    assert document["models"]["m"]["model"] == "${MODEL:-m-1}"
    assert document["prompts"]["p"]["system"] == "costs $${MONEY} and ${NAME:-x}"
    assert document["upstreams"]["a"]["breaker"]["window_ms"] == "${WINDOW:-333.3}"
    assert document["routes"]["r"]["retries"]["attempts"] == "${ATTEMPTS:-4}"
    assert document["routes"]["r"]["timeouts"]["first_token_ms"] is None
    assert document["routes"]["r"]["fallbacks"][:2] == ["z", "m"]
    assert document["routes"]["r"]["match"] == ["${PATTERN:-gpt-*}", "x*"]
    assert document["kafka"]["brokers"] == "${BROKERS:-k1:1,k2:2}"
    assert document["admin"]["key"] == "${ADMIN}"
    assert document["redis"]["url"] == "${REDIS_URL}"
    assert document["cluster"]["advertise"] == "${HOST}"
    assert document["cluster"]["secret"].startswith("literal:")
    assert document["cluster"]["shards"] == "${SHARDS:-3}"
    assert document["kafka"]["security"]["password"].startswith("literal:")
    assert document["database"]["url"].startswith("literal:")
    assert document["webhooks"] == [
        {"name": "hook", "url": "https://h/${HOOK:-x}", "secret": "${KEY}", "events": ["optimization.*"]},
        {"name": "h.example", "url": "http://h.example:8/", "secret": document["webhooks"][1]["secret"]},
    ]
    assert document["webhooks"][1]["secret"].startswith("literal:")
    assert document["deployment"]["canary"]["stages"][0]["percentage"] == "${SHARE:-0.5}"
    assert document["deployment"]["health_check"] == {"error_rate_threshold": "${RATE:-0.25}"}


def test_file_export_is_the_file_when_it_holds_no_secret():
    """Byte for byte, comments included."""
    text = "# mine\nserver:   {port: ${PORT:-1}}\nredis: {url: 'redis://:${REDIS_PASSWORD:-}@cache'}\n"
    text = text.replace("${PORT:-1}", "'${PORT:-1}'")

    assert export(load_text(text, {}), source="file") == text


def test_file_export_replaces_keys_in_place():
    """Quoted, plain, anchored, in blocks: only the key changes."""
    text = (
        "upstreams:\n"
        f"  a: {{base_url: 'http://h', api_key: &k \"{PLANTED}\"}}  # anchored\n"
        "  b:\n    base_url: http://h\n    api_key: *k\n"
        f"  c:\n    base_url: http://h\n    api_key: |\n      {PLANTED}-2\n    max_connections: 3\n"
        f"# api_key: {PLANTED}\n"
    )
    loaded = load_text(text, {})

    exported = export(loaded, source="file")

    assert PLANTED not in exported
    assert "&k literal:" in exported
    assert "# anchored" in exported
    assert load_text(exported, {}).settings == loaded.settings


def test_a_key_that_the_environment_overrides_is_not_exported():
    """It stands in the file all the same."""
    text = f"upstreams: {{a: {{base_url: 'http://h', api_key: {PLANTED}}}}}\n"
    environ = {"LLM_OPTIMIZER__UPSTREAMS__A__API_KEY": "other", "DATABASE_URL": "postgres://h/d"}
    loaded = load_text(text, environ)

    for source in ("effective", "file"):
        exported = export(loaded, source=source)
        assert PLANTED not in exported
        assert load_text(exported, environ).settings == loaded.settings


def test_environment_values_are_written_as_values():
    """Except where a password may be."""
    loaded = load_text("", {"SERVER_PORT": "9", "DATABASE_URL": f"postgres://u:{PLANTED}@h/d?x=1"})

    document = yaml.safe_load(export(loaded))

    assert document["server"]["port"] == 9
    assert document["database"] == {"url": "${DATABASE_URL}", "max_connections": 20, "timeout_sec": 5}


names = st.text("abcxyz0129.-_", min_size=1, max_size=8).filter(lambda name: name[0].isalnum())
texts = st.text(min_size=1, max_size=20).filter(lambda text: text.strip() and "\x85" not in text)
numbers = st.floats(0.001, 1e6, allow_nan=False)


@st.composite
def resilience(draw, arms):
    """What a route may say about failures, whole and in part, in long and in short."""
    first = draw(st.none() | numbers)
    blocks = {
        "fallbacks": draw(st.lists(st.sampled_from(arms), unique=True)),
        "retries": draw(
            st.integers(2, 10)
            | st.fixed_dictionaries(
                {"attempts": st.integers(2, 10)},
                optional={
                    "same_arm": st.integers(0, 20),
                    "backoff_ms": st.floats(1, 1e5),
                    "retry_after_ms": st.just(0) | numbers,
                },
            )
        ),
        "timeouts": {"first_token_ms": first, "total_ms": draw(st.floats(first or 1, 1e7))},
        "streams": {
            "hold_ms": draw(st.floats(0, 10_000)),
            "hold_tokens": draw(st.integers(0, 1000)),
            "resume": draw(st.booleans()),
        },
        "limits": draw(
            st.dictionaries(
                st.sampled_from(["requests_per_minute", "tokens_per_minute"]), st.integers(1, 10**9)
            )
            | st.dictionaries(st.sampled_from(["usd_per_day", "usd_per_month"]), numbers)
        ),
    }
    if len(arms) > 1:
        blocks["hedge_after_ms"] = draw(numbers)
    return {key: blocks[key] for key in draw(st.sets(st.sampled_from(sorted(blocks))))}


@st.composite
def learning(draw, models):
    """Context, constraints, drift and judge, whole and in part, in long and in short."""
    feature = st.fixed_dictionaries({"metadata": texts.map(lambda text: text.replace("${", "$${"))}) | (
        st.fixed_dictionaries(
            {"header": st.sampled_from(["x-a", "X-B"])},
            optional={"values": st.lists(st.sampled_from(["on", "1", "no"]), min_size=1, max_size=16)},
        )
    )
    blocks = {
        "context": st.booleans()
        | st.fixed_dictionaries(
            {},
            optional={
                "enabled": st.booleans(),
                "lexical": st.booleans(),
                "lexical_size": st.integers(1, 64),
                "client": st.lists(feature, max_size=3).map(
                    lambda found: [{"name": f"f{index}", **one} for index, one in enumerate(found)]
                ),
            },
        ),
        "constraints": st.fixed_dictionaries(
            {},
            optional={
                "cost_per_request_usd": numbers,
                "target_reduction": st.floats(0.001, 0.999),
                "max_request_usd": numbers,
                "quality_floor": st.floats(0.001, 1),
                "quality_threshold": st.floats(0.001, 1),
            },
        ),
        "drift": st.booleans() | st.fixed_dictionaries({"keep": st.floats(0, 1), "threshold": numbers}),
        "judge": st.sampled_from(models)
        | st.fixed_dictionaries(
            {"model": st.sampled_from(models)},
            optional={"name": names, "rate": st.floats(0.001, 1), "usd_per_day": numbers},
        ),
    }
    return {key: draw(blocks[key]) for key in sorted(draw(st.sets(st.sampled_from(sorted(blocks)))))}


breakers = st.booleans() | st.fixed_dictionaries(
    {},
    optional={
        "consecutive_failures": st.integers(1, 1000),
        "error_rate": st.floats(0.001, 1),
        "min_requests": st.integers(1, 1000),
        "window_ms": st.floats(100, 600_000),
        "open_ms": st.floats(10, 600_000),
    },
)


@st.composite
def deployments(draw):
    """Plans of every kind, with bounds in either place."""
    shares = sorted(draw(st.sets(st.floats(0.001, 100), max_size=4)))
    bounds = {
        "error_rate_threshold": st.floats(0.001, 0.999),
        "latency_p95_threshold_ms": numbers,
        "quality_threshold": st.floats(0, 1),
        "interval_sec": numbers,
    }
    places = [st.fixed_dictionaries({}, optional=dict(part)) for part in batched(bounds.items())]
    return {
        "environment": draw(texts).replace("${", "$${"),
        "auto_promote": draw(st.booleans()),
        "health_check": draw(places[0]),
        "canary": {
            "enabled": draw(st.booleans()),
            "stages": [
                {
                    "percentage": share,
                    "duration_sec": draw(st.just(0) | numbers),
                    "min_samples": draw(st.integers(0, 9)),
                }
                for share in shares
            ],
            "health_check": draw(places[1]),
        },
    }


def batched(items):
    """Halves of something."""
    items = list(items)
    return items[: len(items) // 2], items[len(items) // 2 :]


@st.composite
def documents(draw):
    models = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    contents = draw(st.lists(texts, max_size=3, unique=True))
    prompts = {f"prompt-{index}": content for index, content in enumerate(contents)}
    arms = draw(
        st.lists(
            st.tuples(st.sampled_from(models), st.sampled_from([None, *prompts])),
            min_size=1,
            max_size=5,
            unique=True,
        )
    )
    ids = [f"arm-{index}" for index in range(len(arms))]
    return {
        "server": {"timeout_ms": draw(numbers), "drain_delay_ms": draw(st.just(0) | numbers)},
        "access": {"client_keys": draw(st.booleans())},
        "optimization": {
            "interval_sec": draw(st.floats(1, 1e6)),
            "quality_threshold": draw(st.none() | st.floats(0, 1)),
            "cost_reduction": {"target_reduction": draw(st.floats(0.001, 0.999))},
        },
        "deployment": draw(deployments()),
        "upstreams": {
            "u": {
                "base_url": "http://h/v1",
                "connect_timeout_ms": draw(numbers),
                "retry_share": draw(st.floats(0, 1)),
                "breaker": draw(breakers),
            }
        },
        "models": {
            name: {
                "price": {"input": draw(numbers), "output": draw(numbers)},
                "first_token_timeout_ms": draw(st.none() | numbers),
            }
            for name in models
        },
        "prompts": {name: {"system": text.replace("${", "$${")} for name, text in prompts.items()},
        "routes": {
            "r": {
                "arms": [
                    {"model": model, "id": name} | ({"prompt": prompt} if prompt else {})
                    for name, (model, prompt) in zip(ids, arms, strict=True)
                ],
                "policy": {"half_life_hours": draw(numbers)},
                "objectives": [{"name": "quality", "weight": draw(numbers)}],
                **draw(resilience(ids)),
                **draw(learning(models)),
            }
        },
    }


@given(documents())
@settings(max_examples=60, deadline=None)
def test_every_configuration_survives_its_export(document):
    """Numbers to the last bit, texts to the last letter."""
    loaded = load_text(yaml.safe_dump(document, allow_unicode=True), {})

    assert load_text(export(loaded), {}).settings == loaded.settings


DAMAGED = (
    *("access", "server", "upstreams", "models", "routes"),
    *("optimization", "deployment", "webhooks", "database", "kafka", "redis", "cluster"),
)
ODD_VALUES = [
    *(None, 0, -1, 1, 11, 0.5, 1e308, 10**20, True, False),
    *("", "x", "m", "z", "0", "false", "auto", "${NOPE}", "${PORT}"),
    *([], [None], ["m", "m"], {}, {"model": "m"}, {"model": "n", "id": "z"}),
]


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_configuration_is_refused_or_survives_its_export(seed):
    """Whatever stands where something else should: problems without secrets, never another error."""
    rng = random.Random(seed)
    whole = yaml.safe_load(FULL)
    accepted, refused = 0, []

    for _ in range(30):
        document = deepcopy(whole)
        for _ in range(rng.choice([1, 1, 2, 4])):
            _damage(document, rng)
        try:
            loaded = load_text(yaml.safe_dump(document), ENVIRON)
        except ConfigProblems as problems:
            refused.append(str(problems))
            continue
        accepted += 1
        assert load_text(export(loaded), ENVIRON).settings == loaded.settings

    assert accepted
    assert refused
    assert not [text for text in refused if PLANTED in text]


def _damage(document, rng):
    """Take away or replace one value in the parts that say where requests go."""
    *path, last = rng.choice([path for path in _paths(document) if path[0] in DAMAGED])
    place = document
    for part in path:
        place = place[part]
    if isinstance(place, dict) and rng.random() < 0.25:
        del place[last]
    else:
        place[last] = deepcopy(rng.choice(ODD_VALUES))


def _paths(value, path=()):
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in children:
        yield (*path, key)
        yield from _paths(child, (*path, key))


def test_the_example_loads_without_any_environment_and_survives_its_exports():
    """`config.yaml` is documentation that works."""
    loaded = load(ROOT / "config.yaml", {})

    assert load_text(export(loaded), {}).settings == loaded.settings
    assert export(loaded, source="file") == (ROOT / "config.yaml").read_text()
    assert {route.name for route in loaded.settings.routes} == {
        "auto",
        "gpt-4o",
        "gpt-4o-mini",
        "assistant",
        "split",
    }
    assert {note.message for note in loaded.notes if note.path.startswith("models")} == set()


def test_the_example_mentions_every_key():
    """A key that nobody can find does not exist."""
    text = (ROOT / "config.yaml").read_text()

    missing = {key for key in _keys(File) if f"{key}:" not in text}

    assert missing <= {
        # Said in words beside their siblings, or synonyms of what is shown.
        "keys",
        "unix_socket",
        "quality_floor",
        "max_wait_sec",
        "interval_sec",
        "cost_per_request_threshold_usd",
        "non_inferiority_margin",
    }
    assert set(STRATEGY_BLOCKS) <= _keys(File)


def _keys(block):
    found = set()
    for name, field in block.model_fields.items():
        found.add(name)
        for part in _blocks_in(field.annotation):
            found |= _keys(part)
    return found


def _blocks_in(annotation):
    if isinstance(annotation, type) and issubclass(annotation, Block):
        return [annotation]
    return [block for part in getattr(annotation, "__args__", ()) for block in _blocks_in(part)]
