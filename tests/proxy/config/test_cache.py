"""Routes that keep answers: what is written, what is missing, and what workers are told."""

import pytest
import yaml

from optimizer.evidence import NoEvidence
from optimizer.publisher import Publisher
from optimizer.routing import CacheStore, Caching, RoutingTable
from optimizer.table_file import decode, encode
from proxy.config.export import export
from proxy.config.load import Loaded, load_text
from proxy.config.problems import ConfigProblems

ROUTE = """
upstreams: {up: {base_url: "http://127.0.0.1:1/v1", auth: none, allow_private: true}}
models: {m: {upstream: up, price: {input: 1, output: 1}}}
routes: {r: {arms: [m], cache: %s}}
"""
REDIS = "redis: {url: 'redis://:planted-password@cache:6379/1', max_connections: 3}\n"


def _loaded(cache: str, more: str = "") -> Loaded:
    return load_text(ROUTE % cache + more, {})


def _table(loaded: Loaded) -> RoutingTable:
    table = Publisher(seed=1).build(loaded.settings, NoEvidence(), version=1, now=0.0)
    return decode(encode(table))[0]


@pytest.mark.parametrize(
    ("text", "caching"),
    [
        ("true", Caching()),
        ("'on'", Caching()),
        ("{}", Caching()),
        ("false", None),
        ("{enabled: false, ttl_sec: 5}", None),
        ("{ttl_sec: 5, temperature_zero_only: true}", Caching(ttl_s=5.0, cold_only=True)),
        ("{max_entry_bytes: 10, shared_between_keys: true}", Caching(max_entry_bytes=10, shared=True)),
    ],
)
def test_the_block(text, caching):
    loaded = _loaded(text)
    assert loaded.settings.routes[0].caching == caching
    table = _table(loaded)
    assert (table.routes[0].caching, table.cache_store) == (caching, None)
    again = load_text(export(loaded), {})
    assert again.settings.routes == loaded.settings.routes


@pytest.mark.parametrize(
    "text", ["{ttl_sec: 0}", "{ttl_sec: 99999999}", "{max_entry_bytes: 0}", "{store: disk}", "{ttl: 5}", "5"]
)
def test_what_makes_no_sense_is_refused(text):
    with pytest.raises(ConfigProblems) as caught:
        _loaded(text)
    assert all(problem.path.startswith("routes.r.cache") for problem in caught.value.problems)


def test_answers_in_redis_need_one():
    with pytest.raises(ConfigProblems) as caught:
        _loaded("{store: redis}")
    assert [problem.path for problem in caught.value.problems] == ["routes.r.cache.store"]


def test_workers_are_told_where_redis_is():
    """By reference: the table holds no password, and only routes that ask for it make workers learn the address."""
    loaded = _loaded("{store: redis}", REDIS)
    assert loaded.settings.redis is not None
    assert "redis" not in [note.path for note in loaded.notes]
    reference = loaded.settings.redis.url
    assert loaded.upstream_secrets[reference] == "redis://:planted-password@cache:6379/1"
    table = _table(loaded)
    assert table.cache_store == CacheStore(reference, "default", 3)
    assert b"planted-password" not in encode(table)
    assert "planted-password" not in export(loaded)

    unused = _loaded("true", REDIS)
    assert unused.upstream_secrets == {}
    assert _table(unused).cache_store is None
    assert "redis" in [note.path for note in unused.notes]


def test_memory_has_a_bound():
    assert _table(_loaded("true")).limits.cache_bytes == 64 * 1024 * 1024
    assert _table(_loaded("true", "server: {cache_bytes: 0}")).limits.cache_bytes == 0


def test_the_example_is_what_true_means():
    text = yaml.safe_load(export(_loaded("true")))["routes"]["r"]["cache"]
    assert text == {
        "enabled": True,
        "ttl_sec": 300,
        "max_entry_bytes": 262144,
        "shared_between_keys": False,
        "store": "memory",
        "temperature_zero_only": False,
    }
