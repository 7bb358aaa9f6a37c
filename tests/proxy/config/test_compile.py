"""Routes, models and upstreams as written: what they become, and under which identities knowledge is kept."""

import subprocess
import sys

import pytest

from optimizer.routing import Sticky
from policies.registry import POLICIES
from proxy.config.identity import arm_model_key, digest_of, model_key, variant_key
from proxy.config.known import BUILTIN
from proxy.config.load import load_text
from proxy.config.models_route import PolicyBlock
from proxy.providers.registry import CODECS

LOCAL = "upstreams: {sim: {base_url: 'http://127.0.0.1:9000/v1/'}}\n"


def settings_of(text, environ=None):
    return load_text(text, environ or {}).settings


def test_arms_get_ids_that_tell_model_prompt_and_parameters():
    """Derived ids are unique and fit into a header; explicit ones win."""
    settings = settings_of(
        LOCAL + "models: {small: {}, org/Big-70B: {}}\nprompts: {brief: Be brief.}\n"
        "routes: {chat: {arms: [small, {model: small, prompt: brief}, {model: small, parameters: {top_p: 1}},"
        "{model: small, parameters: {top_p: 0.5}}, {model: org/Big-70B, prompt: brief, parameters: {a: null}},"
        "{model: org/Big-70B, id: mine}]}}"
    )

    assert [arm.id for arm in settings.routes[0].arms] == [
        "small",
        "small+brief",
        "small#1",
        "small#2",
        "org/Big-70B+brief#1",
        "mine",
    ]
    assert settings.routes[0].arms[4].parameters == {"a": None}


def test_every_part_of_a_route_arrives():
    """The full form of a route."""
    settings = settings_of(
        LOCAL + "models: {a: {}, b: {}}\n"
        "routes: {chat: {match: ['gpt-*'], arms: [a, b], baseline: b, home: sim, optimize: false,"
        "sticky: {by: header, header: X-Session}, policy: {type: epsilon_greedy, epsilon: 0.2, half_life_hours: 2},"
        "objectives: [{name: ttft, weight: 3, scale: 0.5}]}}"
    )
    route = settings.routes[0]

    assert (route.match, route.baseline, route.home, route.optimize) == (("gpt-*",), "b", "sim", False)
    assert route.sticky == Sticky("header", "x-session")
    assert (route.policy.name, route.policy.epsilon, route.policy.half_life_s) == (
        "epsilon_greedy",
        0.2,
        7200.0,
    )
    assert [(o.metric, o.weight, o.maximize, o.scale) for o in route.objectives] == [
        ("ttft", 3.0, False, 0.5)
    ]


def test_prompts_in_short_and_long_form():
    """Text with the question is a template, other text a system prompt."""
    variants = {
        variant.name: variant
        for variant in settings_of(
            "prompts: {a: 'Q: {question}', b: Be brief., c: {system: x, mode: set, template: '{question}!'}}"
        ).variants
    }

    assert variants["default"].is_identity
    assert (variants["a"].template, variants["a"].system) == ("Q: {question}", None)
    assert (variants["b"].system, variants["b"].mode) == ("Be brief.", "prepend")
    assert (variants["c"].system, variants["c"].mode, variants["c"].template) == ("x", "set", "{question}!")


def test_a_model_is_completed_from_the_catalogue_and_the_file_wins():
    """A price of one's own, the rest as known."""
    settings = settings_of("models: {gpt-4o: {price: {input: '1', output: 2}}, mine: {model: gpt-4o-mini}}")
    models = {model.name: model for model in settings.models}

    assert (models["gpt-4o"].price.input, models["gpt-4o"].price.source) == (1.0, "config")
    assert models["gpt-4o"].context_tokens == 128000
    assert models["mine"].model_id == "gpt-4o-mini"
    assert models["mine"].price.source.startswith("builtin")


def test_a_stranger_is_taken_to_speak_what_its_provider_speaks():
    """Usage in streams is asked for unless the upstream or the model says no."""
    settings = settings_of(
        "upstreams: {sim: {base_url: 'http://127.0.0.1:9000/v1', stream_usage: false}}\n"
        "models: {small: {}, loud: {stream_usage: true}, vectors: {model: some-embedder}}"
    )
    models = {model.name: model for model in settings.models}

    assert models["small"].endpoints == {"chat", "completions", "responses"}
    assert "stream_usage" not in models["small"].capabilities
    assert "stream_usage" in models["loud"].capabilities
    assert models["vectors"].endpoints == {"embeddings"}


def test_upstream_timeouts_default_to_the_servers():
    """`server.timeout_ms` bounds waiting, never a whole stream."""
    upstream = settings_of("server: {timeout_ms: 7000}\n" + LOCAL).upstreams[0]

    assert (upstream.first_byte_s, upstream.idle_s, upstream.total_s) == (7.0, 7.0, None)
    assert upstream.base_url == "http://127.0.0.1:9000/v1"
    assert (upstream.auth, upstream.secret) == ("none", None)


@pytest.mark.parametrize(
    ("text", "socket"),
    [
        ("base_url: 'unix:/run/x.sock'", "/run/x.sock"),
        ("base_url: 'unix:///run/x.sock'", "/run/x.sock"),
        ("unix_socket: /run/x.sock", "/run/x.sock"),
    ],
)
def test_unix_sockets(text, socket):
    """Either notation."""
    upstream = settings_of(f"upstreams: {{x: {{{text}}}}}").upstreams[0]

    assert (upstream.unix_socket, upstream.base_url) == (socket, "http://localhost")


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
        ({"ALL_PROXY": "p:1"}, "http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "other, .example.com"}, None),
        ({"HTTPS_PROXY": "http://p:1", "no_proxy": "*"}, None),
    ],
)
def test_proxy_from_the_environment_only_when_asked_for(environ, proxy):
    """And with the exemptions that curl knows."""
    asked = settings_of(
        "upstreams: {x: {base_url: 'https://api.example.com', proxy_from_env: true}}", environ
    )
    silent = settings_of("upstreams: {x: {base_url: 'https://api.example.com'}}", environ)

    assert asked.upstreams[0].proxy == proxy
    assert silent.upstreams[0].proxy is None


def test_passthrough_prefixes_and_default():
    """Without a default, what is not served goes to `openai` if that is in use, else nowhere."""
    assert settings_of(LOCAL).passthrough == ()
    assert settings_of(LOCAL + "models: {gpt-4: {upstream: openai}}").passthrough == (("/v1/", "openai"),)
    assert settings_of(LOCAL + "passthrough: {default: sim, /v1/audio: openai}").passthrough == (
        ("/v1/", "sim"),
        ("/v1/audio", "openai"),
    )


def test_a_route_beats_a_model_of_its_name_and_says_so():
    """Resolution order: exact route first."""
    loaded = load_text(LOCAL + "models: {a: {}, b: {}}\nroutes: {a: {arms: [b]}}", {})

    assert "routes.a" in {note.path for note in loaded.notes}


def test_identities_are_what_they_were():
    """Golden values: a change orphans everything that was learned."""
    origin = "https://api.openai.com:443"

    assert model_key(origin, "gpt-4o") == "e162b5ffd0ff1712"
    assert arm_model_key(origin, "gpt-4o", {}) == model_key(origin, "gpt-4o")
    assert arm_model_key(origin, "gpt-4o", {"temperature": 0, "a": 1}) == "7df176c497e4be06"
    assert arm_model_key(origin, "gpt-4o", {"a": 1, "temperature": 0}) == "7df176c497e4be06"
    assert variant_key("Be brief.", "append", None) == "a744971aaed1dac5"
    assert variant_key(None, "append", "{question}!") == variant_key(None, "set", "{question}!")
    assert variant_key(None, "prepend", None) == "identity"


def test_renaming_forgets_nothing():
    """Names take no part in identities; addresses, ids, parameters and contents do."""
    text = "upstreams: {u: {base_url: 'http://h/v1'}}\nmodels: {m: {model: id}}\nprompts: {p: Hi.}\n"
    text += "routes: {r: {arms: [{model: m, prompt: p}]}}"
    other = text.replace("u:", "upstream:").replace("m:", "model-m:").replace("model: m", "model: model-m")
    other = (
        other.replace("p:", "prompt-p:")
        .replace("prompt: p", "prompt: prompt-p")
        .replace("htt" + "prompt-p:", "http:")
    )

    one, two = settings_of(text).routes[0].arms[0], settings_of(other).routes[0].arms[0]

    assert one.id != two.id
    assert (one.model_key, one.variant_key) == (two.model_key, two.variant_key)


def test_config_hash_names_the_effect_not_the_text():
    """Comments and order of keys do not count; numbers do, however they are written."""
    one = settings_of("server: {max_headers: 10}\n" + LOCAL)
    same = settings_of("# hello\n" + LOCAL + "server: {max_headers: '10'}\n")
    other = settings_of("server: {max_headers: 11}\n" + LOCAL)

    assert one.config_hash == same.config_hash != other.config_hash
    assert digest_of({"a": 1.0}) == digest_of({"a": 1})
    assert digest_of({"a": 1e308}) != digest_of({"a": 1e307})


def test_policies_and_providers_are_those_that_exist():
    """The names that the file may use are the registries' names."""
    annotation = PolicyBlock.model_fields["type"].annotation

    assert set(annotation.__args__) == set(POLICIES)
    assert set(BUILTIN) <= set(CODECS)


def test_reading_secrets_costs_a_worker_nothing():
    """No YAML, no pydantic, no numpy behind `proxy.config.secrets`."""
    code = "import sys, proxy.config.secrets, proxy.config.resolver;"
    code += "print(sorted({'pydantic', 'yaml', 'numpy', 'aiohttp'} & set(sys.modules)))"

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "[]"


def test_loading_imports_neither_the_data_plane_nor_numpy():
    """`serve` is ready in 1.5 s only if this stays lean."""
    code = (
        "import sys; from proxy.config.load import load; load(None, {});"
        "print(sorted({'numpy', 'aiohttp', 'uvloop', 'httptools', 'urllib.request'} & set(sys.modules)))"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "[]"


def test_assumptions_are_reported_once_for_all_models_that_share_them():
    """A thousand strangers make one note of each kind, and load in reasonable time."""
    names = [f"m{number}" for number in range(1000)]
    text = LOCAL + "models:\n" + "".join(f"  {name}: {{}}\n" for name in names)
    text += f"routes: {{r: {{arms: [{', '.join(names)}]}}}}\n"

    loaded = load_text(text, {})

    assert [note.path for note in loaded.notes] == ["models", "models"]
    assert "m0, m1, m2, m3, m4, m5 and 994 more" in loaded.notes[0].message
    assert len(loaded.settings.routes[0].arms) == 1000


def test_a_built_in_upstream_beside_written_ones_is_pointed_out():
    """Prompts must not go to a place that nobody meant, unseen."""
    silent = load_text(LOCAL + "models: {gpt-4: {upstream: openai}}", {"OPENAI_API_KEY": "sk-test"})
    spoken = load_text(LOCAL + "models: {gpt-4: {}}", {"OPENAI_API_KEY": "sk-test"})

    assert silent.notes == ()
    assert [note.path for note in spoken.notes] == ["models.gpt-4"]
    assert "built-in upstream openai" in spoken.notes[0].message
