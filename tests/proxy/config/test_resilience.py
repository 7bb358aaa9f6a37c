"""Retries, fallbacks, deadlines, breakers, limits: what is written, what it becomes, and what is said about it."""

import pytest

from optimizer.routing import BreakerRules, Limits, Quota, Resilience
from proxy.config.load import load_text
from proxy.config.problems import ConfigProblems

KEYS = {"OPENAI_API_KEY": "sk-test-openai", "ANTHROPIC_API_KEY": "sk-test-anthropic"}
LOCAL = "upstreams: {sim: {base_url: 'http://127.0.0.1:9000/v1'}}\n"
PRICED = "price: {input: 1, output: 1}, capabilities: []"
MODELS = LOCAL + f"models: {{a: {{{PRICED}}}, b: {{{PRICED}}}, c: {{{PRICED}}}}}\n"

# What is refused: text, path of the one problem, words of the suggestion.
REFUSED = {
    "body that never fits": (
        "server: {max_body_bytes: 1000, in_flight_bytes: 999}",
        "server.in_flight_bytes",
        "",
    ),
    "negative delay": ("server: {shed_delay_ms: -1}", "server.shed_delay_ms", ""),
    "misspelt access key": ("access: {client_key: true}", "access.client_key", "'client_keys'"),
    "away": (
        "access: {when_optimizer_away: {rates: opened}}",
        "access.when_optimizer_away.rates",
        "Did you mean 'open'?",
    ),
    "breaker with no failures": (
        "upstreams: {openai: {breaker: {consecutive_failures: 0}}}",
        "upstreams.openai.breaker.consecutive_failures",
        "",
    ),
    "breaker rate": (
        "upstreams: {openai: {breaker: {error_rate: 50}}}",
        "upstreams.openai.breaker.error_rate",
        "",
    ),
    "breaker window": (
        "upstreams: {openai: {breaker: {window_ms: 1}}}",
        "upstreams.openai.breaker.window_ms",
        "",
    ),
    "breaker opens longer than it may": (
        "upstreams: {openai: {breaker: {open_ms: 2000, max_open_ms: 1000}}}",
        "upstreams.openai.breaker.max_open_ms",
        "",
    ),
    "breaker as a text": ("upstreams: {openai: {breaker: strict}}", "upstreams.openai.breaker", ""),
    "share of retries": ("upstreams: {openai: {retry_share: 20}}", "upstreams.openai.retry_share", ""),
    "two ways to go on": (
        "models: {gpt-4: {capabilities: [prefill, prefill_continue]}}",
        "models.gpt-4.capabilities",
        "",
    ),
    "no attempts": (
        "routes: {chat: {arms: [gpt-4], retries: {attempts: 0}}}",
        "routes.chat.retries.attempts",
        "",
    ),
    "many attempts": ("routes: {chat: {arms: [gpt-4], retries: 11}}", "routes.chat.retries", ""),
    "attempts as a word": ("routes: {chat: {arms: [gpt-4], retries: often}}", "routes.chat.retries", ""),
    "negative attempts": ("routes: {chat: {arms: [gpt-4], retries: -1}}", "routes.chat.retries", ""),
    "misspelt retries key": (
        "routes: {chat: {arms: [gpt-4], retries: {atempts: 2}}}",
        "routes.chat.retries.atempts",
        "Did you mean 'attempts'?",
    ),
    "back-off without a wait": (
        "routes: {chat: {arms: [gpt-4], retries: {backoff_ms: 0}}}",
        "routes.chat.retries.backoff_ms",
        "",
    ),
    "back-off that shrinks": (
        "routes: {chat: {arms: [gpt-4], retries: {backoff_ms: 500, max_backoff_ms: 400}}}",
        "routes.chat.retries.max_backoff_ms",
        "",
    ),
    "total below first token": (
        "routes: {chat: {arms: [gpt-4], timeouts: {first_token_ms: 500, total_ms: 400}}}",
        "routes.chat.timeouts.total_ms",
        "",
    ),
    "total of nothing": (
        "routes: {chat: {arms: [gpt-4], timeouts: {total_ms: 0}}}",
        "routes.chat.timeouts.total_ms",
        "",
    ),
    "long hold": (
        "routes: {chat: {arms: [gpt-4], streams: {hold_ms: 10001}}}",
        "routes.chat.streams.hold_ms",
        "",
    ),
    "large hold": (
        "routes: {chat: {arms: [gpt-4], streams: {hold_tokens: 1001}}}",
        "routes.chat.streams.hold_tokens",
        "",
    ),
    "hedge without an attempt": (
        "routes: {chat: {arms: [gpt-4, gpt-4o], retries: 1, hedge_after_ms: 5}}",
        "routes.chat.hedge_after_ms",
        "`retries: 2`",
    ),
    "unknown fallback": (
        "routes: {chat: {arms: [{model: gpt-4, id: big}], fallbacks: [bgi]}}",
        "routes.chat.fallbacks[0].model",
        "Did you mean 'big'?",
    ),
    "unknown model of a fallback": (
        "routes: {chat: {arms: [gpt-4], fallbacks: [{model: claud-3-opus, id: x}]}}",
        "routes.chat.fallbacks[0].model",
        "Did you mean 'claude-3-opus'?",
    ),
    "unknown prompt of a fallback": (
        "prompts: {brief: Be brief.}\nroutes: {chat: {arms: [gpt-4], fallbacks: [{model: gpt-4o, prompt: breif}]}}",
        "routes.chat.fallbacks[0].prompt",
        "Did you mean 'brief'?",
    ),
    "the same fallback twice": (
        "routes: {chat: {arms: [gpt-4], fallbacks: [gpt-4o, {model: gpt-4o, id: x}]}}",
        "routes.chat.fallbacks[1]",
        "",
    ),
    "an arm as a fallback under another id": (
        "routes: {chat: {arms: [gpt-4], fallbacks: [{model: gpt-4, id: x}]}}",
        "routes.chat.fallbacks[0]",
        "",
    ),
    "another fallback under an arm's id": (
        "routes: {chat: {arms: [{model: gpt-4, id: x}], fallbacks: [{model: gpt-4o, id: x}]}}",
        "routes.chat.fallbacks[0]",
        "Give it an `id`.",
    ),
    "limit of nothing": (
        "routes: {chat: {arms: [gpt-4], limits: {requests_per_minute: 0}}}",
        "routes.chat.limits.requests_per_minute",
        "",
    ),
    "budget of nothing": (
        "routes: {chat: {arms: [gpt-4], limits: {usd_per_day: '0'}}}",
        "routes.chat.limits.usd_per_day",
        "",
    ),
    "negative limit": (
        "routes: {chat: {arms: [gpt-4], limits: {tokens_per_minute: -1}}}",
        "routes.chat.limits.tokens_per_minute",
        "",
    ),
    "budget that can not be counted": (
        "models: {m: {upstream: openai}}\nroutes: {c: {arms: [gpt-4], fallbacks: [m], limits: {usd_per_month: 5}}}",
        "routes.c.limits.usd_per_month",
        "'m'",
    ),
}


@pytest.mark.parametrize(("text", "path", "suggestion"), REFUSED.values(), ids=REFUSED)
def test_single_problem_is_named_with_its_path(text, path, suggestion):
    """One mistake gives one problem, at the key that has to be changed."""
    with pytest.raises(ConfigProblems) as caught:
        load_text(text, {})

    assert [problem.path for problem in caught.value.problems] == [path]
    assert suggestion in (caught.value.problems[0].suggestion or "")


def route_of(body, text=MODELS, environ=KEYS):
    return load_text(f"{text}routes: {{r: {{{body}}}}}", environ).settings.routes[0]


def messages_of(body, text=MODELS):
    loaded = load_text(f"{text}routes: {{r: {{{body}}}}}", KEYS)
    return [(note.path, note.message) for note in loaded.notes]


def test_defaults_are_those_of_the_types():
    """A file that says nothing gets what the frozen types say, and no note."""
    loaded = load_text(MODELS + "routes: {r: {arms: [a]}}", KEYS)
    route, upstream = loaded.settings.routes[0], loaded.settings.upstreams[0]

    assert (route.resilience, route.fallbacks, route.quota) == (Resilience(), (), None)
    assert (upstream.breaker, upstream.retry_share, upstream.retry_floor) == (BreakerRules(), 0.2, 3)
    assert loaded.settings.limits == Limits()
    assert not loaded.settings.access.client_keys
    assert loaded.notes == ()


def test_every_key_of_a_route_arrives():
    """In seconds where the file has milliseconds."""
    route = route_of(
        "arms: [a, b], retries: {attempts: 5, same_arm: 2, backoff_ms: 100, max_backoff_ms: 300, retry_after_ms: 0},"
        "timeouts: {first_token_ms: 7000, total_ms: 9000}, hedge_after_ms: 1500,"
        "streams: {hold_ms: 200, hold_tokens: 8, resume: true},"
        "limits: {requests_per_minute: 1, tokens_per_minute: 2, usd_per_day: 0.5, usd_per_month: 4}"
    )

    assert route.resilience == Resilience(
        attempts=5,
        same_arm=2,
        backoff_s=0.1,
        max_backoff_s=0.3,
        retry_after_s=0.0,
        first_token_s=7.0,
        total_s=9.0,
        hold_s=0.2,
        hold_tokens=8,
        resume=True,
        hedge_s=1.5,
    )
    assert route.quota == Quota(1, 2, 0.5, 4.0)


@pytest.mark.parametrize(
    ("written", "attempts"),
    [("3", 3), ("0", 1), ("false", 1), ("1", 1), ("true", 3), ("'2'", 2), ("'0'", 1), ("'off'", 1), ("", 3)],
)
def test_retries_in_short(written, attempts):
    """A number is all attempts; nothing less than one is possible."""
    assert route_of(f"arms: [a], retries: {written}").resilience.attempts == attempts


@pytest.mark.parametrize(
    "written", ["false", "{enabled: false}", "'false'", "{enabled: false, open_ms: 5000}"]
)
def test_a_breaker_that_is_off(written):
    """Never opens, however it was written."""
    loaded = load_text(f"upstreams: {{x: {{base_url: 'http://h', breaker: {written}}}}}", KEYS)

    assert loaded.settings.upstreams[0].breaker == BreakerRules(consecutive=0)


def test_every_key_of_a_breaker_arrives():
    """And the longest time follows the first one unless it is written."""
    text = "upstreams: {x: {base_url: 'http://h', breaker: {consecutive_failures: 2, error_rate: 0.9,"
    text += " min_requests: 7, window_ms: 3000, open_ms: 30000}, retry_share: 0, retry_floor: 0}}"

    upstream = load_text(text, KEYS).settings.upstreams[0]

    assert upstream.breaker == BreakerRules(2, 0.9, 7, 3.0, 30.0, 30.0)
    assert (upstream.retry_share, upstream.retry_floor) == (0.0, 0)


@pytest.mark.parametrize(
    ("written", "first_token_s"),
    [
        ("", 14.0),
        ("timeouts: {}", 14.0),
        ("timeouts: {total_ms: 3000}", 3.0),
        ("timeouts: {total_ms: 30000}", 14.0),
        ("timeouts: {first_token_ms: null}", None),
        ("timeouts: {first_token_ms: null, total_ms: 5}", None),
        ("timeouts: {first_token_ms: 1}", 0.001),
    ],
)
def test_the_first_token_is_waited_for_twice_the_servers_patience(written, first_token_s):
    """Unless the route says otherwise; null is a word of its own there."""
    text = "server: {timeout_ms: 7000}\n" + MODELS

    assert route_of(f"arms: [a], {written}", text).resilience.first_token_s == first_token_s


def test_a_model_may_need_longer_than_its_route_says():
    """Its own patience stands with the model."""
    loaded = load_text(LOCAL + "models: {slow: {first_token_timeout_ms: 90000}, quick: {}}", {})

    assert {model.name: model.first_token_s for model in loaded.settings.models} == {
        "slow": 90.0,
        "quick": None,
    }


def test_fallbacks_are_arms_of_the_route_or_outside_of_it():
    """A text that is an arm's id means that arm; a model makes an arm that takes no part in the bandit."""
    route = route_of(
        "arms: [{model: a, id: main}, {model: b, parameters: {top_p: 1}}],"
        "fallbacks: [c, 'b#1', main, {model: c, prompt: brief}, {model: c, id: own, parameters: {top_p: 1}}]",
        MODELS + "prompts: {brief: Be brief.}\n",
    )

    assert [arm.id for arm in route.arms] == ["main", "b#1"]
    assert [arm.id for arm in route.fallbacks] == ["c", "b#1", "main", "c+brief", "own"]
    assert [arm in route.arms for arm in route.fallbacks] == [False, True, True, False, False]
    assert route.fallbacks[4].parameters == {"top_p": 1}


def test_an_arms_id_goes_before_a_models_name():
    """And what comes to the same as an arm is that arm."""
    route = route_of("arms: [{model: a, id: b}, {model: c, id: third}], fallbacks: [b, c]")

    assert [(arm.id, arm.model) for arm in route.fallbacks] == [("b", "a"), ("third", "c")]


def test_a_model_that_is_only_a_fallback_survives_the_export():
    """Also one of the built-in catalogue."""
    loaded = load_text("routes: {r: {arms: [gpt-4o], fallbacks: [gpt-4o-mini]}}", KEYS)

    assert {model.name for model in loaded.settings.models} == {"gpt-4o", "gpt-4o-mini"}


def test_vectors_of_a_fallback_that_can_not_be_compared_are_pointed_out():
    """The same model elsewhere is fine, another one is not."""
    text = (
        "upstreams: {one: {base_url: 'http://one/v1'}, two: {base_url: 'http://two/v1'}}\nmodels:\n"
        "  here: {upstream: one, model: embedder-1, price: {input: 1, output: 0}}\n"
        "  there: {upstream: two, model: embedder-1, price: {input: 1, output: 0}}\n"
        "  other: {upstream: two, model: embedder-2, price: {input: 1, output: 0}}\n"
    )

    fine = messages_of("arms: [here], fallbacks: [there]", text)
    noted = messages_of("arms: [here], fallbacks: [there, other]", text)

    assert fine == []
    assert [path for path, _ in noted] == ["routes.r.fallbacks"]
    assert "'other'" in noted[0][1]


def test_going_on_needs_an_arm_that_can():
    """Claude before 4.6 can; a stranger has to be declared."""
    able = LOCAL + "models: {mine: {capabilities: [prefill_continue], price: {input: 1, output: 1}}}\n"

    assert [path for path, _ in messages_of("arms: [a], streams: {resume: true}")] == [
        "routes.r.streams.resume"
    ]
    assert messages_of("arms: [mine], streams: {resume: true}", able) == []
    assert messages_of("arms: [gpt-4o], fallbacks: [claude-haiku-4-5], streams: {resume: true}", "") == []


def test_a_hedge_without_another_arm_is_a_note():
    """An optimization may leave a route with one arm, and what it is then has to load again."""
    text = "routes: {chat: {arms: [gpt-4], fallbacks: [gpt-4], hedge_after_ms: 5}}"
    loaded = load_text(text, {"OPENAI_API_KEY": "x", "ANTHROPIC_API_KEY": "x"})

    assert [note.path for note in loaded.notes] == ["routes.chat.hedge_after_ms"]
    assert loaded.settings.routes[0].resilience.hedge_s == 0.005


def test_what_costs_an_unknown_amount_has_no_budget():
    """Every arm without a price is named, once; limits of requests and tokens need none."""
    text = LOCAL + "models: {a: {}, b: {}, c: {price: {input: 1, output: 2}}}\n"
    body = "arms: [a, c], fallbacks: [b, a], limits: {usd_per_day: 1, usd_per_month: 10}"

    with pytest.raises(ConfigProblems) as caught:
        route_of(body, text)
    free = route_of("arms: [a], limits: {tokens_per_minute: 5}", text)

    assert [(problem.path, problem.suggestion) for problem in caught.value.problems] == [
        ("routes.r.limits.usd_per_day", "Give `price` under models, at 'a'."),
        ("routes.r.limits.usd_per_day", "Give `price` under models, at 'b'."),
    ]
    assert free.quota == Quota(tokens_per_minute=5)


def test_a_limit_of_nothing_is_explained():
    """It would lock everybody out; what was probably meant has other words."""
    with pytest.raises(ConfigProblems) as caught:
        route_of("arms: [a], limits: {requests_per_minute: 0}")

    assert "keys revoke" in str(caught.value)


def test_flat_routes_take_limits_and_fallbacks_beside_their_arms():
    """The short way makes the route `auto`; `routes` adds to it."""
    text = "model_selection: {models: [gpt-4o, gpt-4o-mini]}\n"
    text += "routes: {auto: {fallbacks: [gpt-4.1], limits: {usd_per_day: 3}, retries: 2}}"

    route = load_text(text, KEYS).settings.routes[0]

    assert (route.name, [arm.id for arm in route.arms]) == ("auto", ["gpt-4o", "gpt-4o-mini"])
    assert [arm.id for arm in route.fallbacks] == ["gpt-4.1"]
    assert (route.resilience.attempts, route.quota) == (2, Quota(usd_per_day=3.0))


def test_access_and_limits_of_the_listener():
    """Off by default; what the file says arrives, `closed` and `open` as truth values."""
    text = "access: {client_keys: true, when_optimizer_away: {rates: closed, budgets: open}}\n"
    text += "server: {drain_delay_ms: 250, in_flight_bytes: 40000000, shed_delay_ms: 0}"

    settings = load_text(text, KEYS).settings

    assert settings.access.client_keys
    assert (settings.access.rates_open, settings.access.budgets_open) == (False, True)
    assert (settings.limits.drain_delay_s, settings.limits.shed_delay_s) == (0.25, 0.0)
    assert settings.limits.in_flight_bytes == 40_000_000


def test_room_for_the_largest_body_follows_its_bound():
    """A file that only raises `max_body_bytes` stays valid."""
    limits = load_text("server: {max_body_bytes: 1073741824}", KEYS).settings.limits

    assert limits.in_flight_bytes == limits.max_body_bytes == 1024**3


@pytest.mark.parametrize(
    ("host", "client_keys", "noted"), [("0.0.0.0", "false", True), ("0.0.0.0", "true", False)]
)
def test_an_open_address_without_keys_is_pointed_out(host, client_keys, noted):
    """With the way to close it."""
    notes = load_text(f"server: {{host: {host}}}\naccess: {{client_keys: {client_keys}}}", KEYS).notes

    assert [note.path for note in notes] == ["server.host"] * noted
    assert all("llm-optimizer keys create" in note.message for note in notes)


def test_client_keys_beside_passed_on_credentials():
    """Both want the Authorization header; the caller has to know which goes where."""
    text = "upstreams: {x: {base_url: 'http://h', auth: passthrough}}\n"

    notes = load_text(text + "access: {client_keys: true}", KEYS).notes

    assert [note.path for note in notes] == ["upstreams.x.auth"]
    assert "x-llm-optimizer-key" in notes[0].message
    assert load_text(text, KEYS).notes == ()


def test_models_that_their_provider_has_given_up_are_pointed_out():
    """Where the file names them; not those that a prompt test finds in the catalogue, nor a namesake elsewhere."""
    named = load_text("routes: {r: {arms: [gpt-4o, claude-3-opus, gpt-3.5-turbo]}}", KEYS).notes
    found = load_text("prompt_optimization: {variants: ['Hm: {question}']}", KEYS).notes
    elsewhere = load_text(LOCAL + "models: {gpt-3.5-turbo: {upstream: sim}}", KEYS).notes

    assert [(note.path, note.message.partition(",")[0]) for note in named] == [
        ("routes.r.arms[1].model", "claude-3-opus: retired by Anthropic in January 2026"),
        ("routes.r.arms[2].model", "gpt-3.5-turbo: shut down by OpenAI on 2026-10-23"),
    ]
    assert not [note for note in found if "catalogue" in note.message]
    assert elsewhere == ()


def test_the_environment_reaches_the_new_keys():
    """As text, in short and in YAML's flow style."""
    environ = KEYS | {
        "LLM_OPTIMIZER__ACCESS__CLIENT_KEYS": "true",
        "LLM_OPTIMIZER__ROUTES__R__RETRIES": "0",
        "LLM_OPTIMIZER__ROUTES__R__TIMEOUTS": "{first_token_ms: null}",
        "LLM_OPTIMIZER__ROUTES__R__FALLBACKS": "[b]",
        "LLM_OPTIMIZER__ROUTES__R__LIMITS__REQUESTS_PER_MINUTE": "5",
        "LLM_OPTIMIZER__UPSTREAMS__SIM__BREAKER": "false",
    }

    loaded = load_text(MODELS + "routes: {r: {arms: [a]}}", environ)
    route = loaded.settings.routes[0]

    assert loaded.settings.access.client_keys
    assert (route.resilience.attempts, route.resilience.first_token_s) == (1, None)
    assert [arm.id for arm in route.fallbacks] == ["b"]
    assert route.quota == Quota(requests_per_minute=5)
    assert loaded.settings.upstreams[0].breaker.consecutive == 0
