"""What is refused: every problem at once, each with its path, its line and a way out."""

import pytest

from proxy.config.load import load_text
from proxy.config.problems import ConfigProblems, show_path, suggest


def problems_of(text, environ=None):
    with pytest.raises(ConfigProblems) as caught:
        load_text(text, environ or {})
    return caught.value.problems


SINGLE = {
    "unknown top-level key": ("servr: {}", "servr", "Did you mean 'server'?"),
    "unknown block": ("model_selction: {}", "model_selction", "Did you mean 'model_selection'?"),
    "unknown key": ("server: {prt: 1}", "server.prt", "Did you mean 'port'?"),
    "unknown key in a list": (
        "routes: {chat: {arms: [gpt-4, {modl: x, model: gpt-4o}]}}",
        "routes.chat.arms[1].modl",
        "Did you mean 'model'?",
    ),
    "unknown strategy": (
        "optimization: {strategies: [cost_reducton]}",
        "optimization.strategies[0]",
        "Did you mean 'cost_reduction'?",
    ),
    "unknown policy": (
        "routes: {chat: {arms: [gpt-4], policy: tompson}}",
        "routes.chat.policy",
        "Did you mean 'thompson'?",
    ),
    "unknown model": (
        "routes: {chat: {arms: [my-model]}}",
        "routes.chat.arms[0].model",
        "",
    ),
    "misspelt model": (
        "routes: {chat: {arms: [claud-3-opus]}}",
        "routes.chat.arms[0].model",
        "Did you mean 'claude-3-opus'?",
    ),
    "unknown listed model": (
        "model_selection: {models: [gpt-4, my-model]}",
        "model_selection.models",
        "",
    ),
    "unknown upstream": (
        "models: {m: {upstream: opnai}}",
        "models.m.upstream",
        "Did you mean 'openai'?",
    ),
    "unknown prompt": (
        "prompts: {brief: Be brief.}\nroutes: {chat: {arms: [{model: gpt-4, prompt: breif}]}}",
        "routes.chat.arms[0].prompt",
        "Did you mean 'brief'?",
    ),
    "unknown provider": (
        "upstreams: {x: {provider: antropic, base_url: 'http://h/v1'}}",
        "upstreams.x.provider",
        "Did you mean 'anthropic'?",
    ),
    "unknown baseline": (
        "routes: {chat: {arms: [gpt-4], baseline: gpt-5}}",
        "routes.chat.baseline",
        "",
    ),
    "unknown home": ("routes: {chat: {arms: [gpt-4], home: nowhere}}", "routes.chat.home", ""),
    "unknown objective": (
        "routes: {chat: {arms: [gpt-4], objectives: [qualty]}}",
        "routes.chat.objectives[0].name",
        "Did you mean 'quality'?",
    ),
    "unknown criterion": (
        "model_selection: {models: [gpt-4], criteria: [costs]}",
        "model_selection.criteria[0].name",
        "Did you mean 'cost'?",
    ),
    "unknown test metric": (
        "prompt_optimization: {metrics: [respnse_quality]}",
        "prompt_optimization.metrics[0]",
        "Did you mean 'response_quality'?",
    ),
    "unknown passthrough upstream": ("passthrough: {default: nowhere}", "passthrough.default", ""),
    "port out of range": ("server: {port: 70000}", "server.port", ""),
    "port is no number": ("server: {port: http}", "server.port", ""),
    "truth value for a number": ("server: {workers: yes}", "server.workers", ""),
    "infinite": ("server: {timeout_ms: .inf}", "server.timeout_ms", ""),
    "too large to be exact": ("server: {max_body_bytes: 9007199254740993}", "server.max_body_bytes", ""),
    "too large for anything": ("server: {timeout_ms: 1.0e+308}", "server.timeout_ms", ""),
    "number for a text": ("routes: {chat: {arms: [4]}}", "routes.chat.arms[0]", ""),
    "scheme": ("upstreams: {x: {base_url: 'ftp://h/v1'}}", "upstreams.x.base_url", ""),
    "no scheme": ("upstreams: {x: {base_url: 'localhost:8000'}}", "upstreams.x.base_url", ""),
    "credentials in the address": (
        "upstreams: {x: {base_url: 'http://u:p@h/v1'}}",
        "upstreams.x.base_url",
        "",
    ),
    "key in the query": ("upstreams: {x: {base_url: 'http://h/v1?key=1'}}", "upstreams.x.base_url", ""),
    "metadata address": (
        "upstreams: {x: {base_url: 'http://169.254.169.254/v1'}}",
        "upstreams.x.base_url",
        "",
    ),
    "mapped metadata address": (
        "upstreams: {x: {base_url: 'http://[::ffff:169.254.169.254]/v1'}}",
        "upstreams.x.base_url",
        "",
    ),
    "credential as a header": (
        "upstreams: {x: {base_url: 'http://h', headers: {api-key: abc}}}",
        "upstreams.x.headers.api-key",
        "",
    ),
    "framing header": (
        "upstreams: {x: {base_url: 'http://h', headers: {Content-Length: '3'}}}",
        "upstreams.x.headers.Content-Length",
        "",
    ),
    "header injection": (
        'upstreams: {x: {base_url: "http://h", headers: {x-a: "1\\r\\nx-b: 2"}}}',
        "upstreams.x.headers.x-a",
        "",
    ),
    "key without use": (
        "upstreams: {x: {base_url: 'http://h', auth: none, api_key: '${K}'}}",
        "upstreams.x.api_key",
        "",
    ),
    "key missing": ("upstreams: {x: {base_url: 'http://h', auth: key}}", "upstreams.x.api_key", ""),
    "key in another tool's notation": (
        "upstreams: {openai: {api_key: os.environ/OPENAI_API_KEY}}",
        "upstreams.openai.api_key",
        "",
    ),
    "secret with a default": (
        "upstreams: {openai: {api_key: '${K:-sk-abc}'}}",
        "upstreams.openai.api_key",
        "",
    ),
    "relative socket": ("upstreams: {x: {unix_socket: run/x.sock}}", "upstreams.x.unix_socket", ""),
    "proxy with credentials": (
        "upstreams: {x: {base_url: 'http://h', proxy: 'http://u:p@proxy:3128'}}",
        "upstreams.x.proxy",
        "",
    ),
    "no such CA file": (
        "upstreams: {x: {base_url: 'https://h', ca_file: /nowhere/ca.pem}}",
        "upstreams.x.ca_file",
        "",
    ),
    "floor too high": (
        "routes: {chat: {arms: [gpt-4, gpt-4o, o3], policy: {floor: 0.4}}}",
        "routes.chat.policy.floor",
        "At most 0.333333 is possible.",
    ),
    "shares do not sum to 1": (
        "routes: {chat: {arms: [gpt-4], policy: {type: fixed, probabilities: {gpt-4: 0.5}}}}",
        "routes.chat.policy.probabilities",
        "",
    ),
    "share of nothing": (
        "routes: {chat: {arms: [gpt-4], policy: {type: fixed, probabilities: {gpt-5: 1}}}}",
        "routes.chat.policy.probabilities.gpt-5",
        "",
    ),
    "shares of a learning policy": (
        "routes: {chat: {arms: [gpt-4], policy: {type: ucb, probabilities: {gpt-4: 1}}}}",
        "routes.chat.policy.probabilities",
        "",
    ),
    "no arms": ("routes: {chat: {}}", "routes.chat.arms", ""),
    "duplicate arm": ("routes: {chat: {arms: [gpt-4, gpt-4]}}", "routes.chat.arms[1]", ""),
    "the same arm under another id": (
        "routes: {chat: {arms: [gpt-4, {model: gpt-4, id: other}]}}",
        "routes.chat.arms[1]",
        "",
    ),
    "arm id with blanks": (
        "routes: {chat: {arms: [{model: gpt-4, id: 'a b'}]}}",
        "routes.chat.arms[0].id",
        "",
    ),
    "forbidden parameter": (
        "routes: {chat: {arms: [{model: gpt-4, parameters: {messages: []}}]}}",
        "routes.chat.arms[0].parameters.messages",
        "",
    ),
    "parameter that no JSON can hold": (
        "routes: {chat: {arms: [gpt-4, {model: gpt-4, parameters: {seed: 99999999999999999999}}]}}",
        "routes.chat.arms[1].parameters.seed",
        "",
    ),
    "route name": ("routes: {'a b': {arms: [gpt-4]}}", 'routes["a b"]', ""),
    "empty pattern": ("routes: {chat: {arms: [gpt-4], match: ['a b']}}", "routes.chat.match[0]", ""),
    "same pattern twice": (
        "routes: {a: {arms: [gpt-4], match: ['x*']}, b: {arms: [gpt-4], match: ['x*']}}",
        "routes.b.match[0]",
        "",
    ),
    "sticky header missing": (
        "routes: {chat: {arms: [gpt-4], sticky: {by: header}}}",
        "routes.chat.sticky.header",
        "",
    ),
    "sticky header that holds the client key": (
        "access: {client_keys: true}\nroutes: {chat: {arms: [gpt-4], sticky: {by: header, header: Authorization}}}",
        "routes.chat.sticky.header",
        "",
    ),
    "template without its place": ("prompts: {p: {template: Hello}}", "prompts.p.template", ""),
    "empty prompt": ("prompts: {p: {}}", "prompts.p", ""),
    "reserved prompt": ("prompts: {default: Be brief.}", "prompts.default", ""),
    "weights": (
        "routes: {chat: {arms: [gpt-4], objectives: [{name: cost, weight: 0}]}}",
        "routes.chat.objectives",
        "",
    ),
    "direction": (
        "optimization: {multi_objective: {objectives: [{name: cost, direction: maximize}]}}",
        "optimization.multi_objective.objectives[0].direction",
        "",
    ),
    "metric twice": (
        "metrics: {custom: [a_metric, a_metric]}",
        "metrics.custom[1].name",
        "",
    ),
    "built-in metric": ("metrics: {custom: [response_quality]}", "metrics.custom[0].name", ""),
    "metric bounds": ("metrics: {custom: [{name: m, min: 2, max: 1}]}", "metrics.custom[0].max", ""),
    "negative price": (
        "models: {gpt-4: {price: {input: -1, output: 2}}}",
        "models.gpt-4.price.input",
        "",
    ),
    "half a price": ("models: {gpt-4: {price: {input: 1}}}", "models.gpt-4.price.output", ""),
    "stages fall": (
        "deployment: {canary: {stages: [{percentage: 50, duration_sec: 1}, {percentage: 10, duration_sec: 1}]}}",
        "deployment.canary.stages[1].percentage",
        "",
    ),
    "stage without duration": (
        "deployment: {canary: {stages: [{percentage: 50}]}}",
        "deployment.canary.stages[0].duration_sec",
        "",
    ),
    "target above 1": ("cost_reduction: {target: 40}", "cost_reduction.target", ""),
    "no brokers": ("kafka: {topic: t}", "kafka.brokers", ""),
    "broker without port": ("kafka: {brokers: [localhost]}", "kafka.brokers[0]", ""),
    "passthrough of our own": (
        "passthrough: {/v1/chat/completions: openai}",
        'passthrough["/v1/chat/completions"]',
        "",
    ),
    "passthrough prefix": ("passthrough: {/audio: openai}", 'passthrough["/audio"]', ""),
    "admin listener": ("admin: {listen: '9090'}", "admin.listen", ""),
    "log level": ("log: {level: lowd}", "log.level", ""),
    "variable not set": ("server: {host: '${NOPE}'}", "server.host", ""),
    "duplicate key": ("server: {port: 1}\nserver: {port: 2}\n", "server", ""),
    "tag": ("server: !!python/object:os.system {}", "server", ""),
    "binary": ("server: {host: !!binary aGk=}", "server.host", ""),
    "list at the top": ("- server", "", ""),
    "not YAML": ("server: [", "", ""),
    "two documents": ("server: {}\n---\nserver: {}\n", "", ""),
    "tabs": ("server:\n\tport: 1\n", "", ""),
}


@pytest.mark.parametrize(("text", "path", "suggestion"), SINGLE.values(), ids=SINGLE)
def test_single_problem_is_named_with_its_path(text, path, suggestion):
    """One mistake gives one problem, at the key that has to be changed."""
    problems = problems_of(text)

    assert [problem.path for problem in problems] == [path]
    assert suggestion in (problems[0].suggestion or "")


def test_all_problems_are_reported_at_once_in_the_order_of_the_file():
    """Schema mistakes do not hide each other, nor the cross-checks of sound parts."""
    text = """\
servr: {}
server:
  port: x
models:
  broken: {price: {input: -1, output: 1}}
  lost: {upstream: nowhere}
routes:
  one:
    arms: [broken, {modl: gpt-4}]
  two:
    arms: [gpt-4, gpt-9000-turbo, unheard-of]
    policy: {floor: 0.9}
"""

    problems = problems_of(text)

    assert [(problem.line, problem.path) for problem in problems] == [
        (1, "servr"),
        (3, "server.port"),
        (5, "models.broken.price.input"),
        (6, "models.lost.upstream"),
        (9, "routes.one.arms[1].model"),
        (9, "routes.one.arms[1].modl"),
        (11, "routes.two.arms[2].model"),
        (12, "routes.two.policy.floor"),
    ]


def test_a_part_that_lacks_a_key_takes_nothing_around_it_along():
    """A judge without its model goes as a whole; its other mistakes must not take the route, and then all routes."""
    text = """\
models: {m: {upstream: openai, price: {input: 1, output: 1}}}
routes:
  one:
    arms: [m]
    judge: {rate: 7, foo: 1}
    drift: {keep: 2}
  two:
    arms: [m]
    baseline: x
    context: {client: [{header: x-a, values: [1, 2]}, {name: a}, {name: "b c", header: x-b}]}
"""

    problems = problems_of(text)

    assert [(problem.line, problem.path) for problem in problems] == [
        (5, "routes.one.judge.model"),
        (5, "routes.one.judge.rate"),
        (5, "routes.one.judge.foo"),
        (6, "routes.one.drift.keep"),
        (9, "routes.two.baseline"),
        (10, "routes.two.context.client[0].name"),
        (10, "routes.two.context.client[0].values[0]"),
        (10, "routes.two.context.client[0].values[1]"),
        (10, "routes.two.context.client[2].name"),
        (10, "routes.two.context.client[1]"),
    ]


def test_reference_to_a_refused_entry_is_not_blamed_as_well():
    """The model is there, only its price is wrong."""
    problems = problems_of("models: {m: {upstream: openai, price: 3}}\nroutes: {chat: {arms: [m]}}")

    assert [problem.path for problem in problems] == ["models.m.price"]


def test_a_fallback_to_a_refused_arm_is_not_blamed_as_well():
    """The arm is there, only its model is not."""
    problems = problems_of("routes: {chat: {arms: [gpt-4, {model: my-model, id: x}], fallbacks: [x]}}")

    assert [problem.path for problem in problems] == ["routes.chat.arms[1].model"]


def test_what_stands_behind_a_refused_entry_keeps_its_number():
    """The entry is put aside while the others are checked."""
    problems = problems_of(
        "routes: {chat: {arms: [{id: a}, gpt-4, {prompt: p}, {model: gpt-4, prompt: nope}, nowhere]}}"
    )

    assert [problem.path for problem in problems] == [
        "routes.chat.arms[0].model",
        "routes.chat.arms[2].model",
        "routes.chat.arms[3].prompt",
        "routes.chat.arms[4].model",
    ]


def test_both_places_with_different_values_name_both():
    """A block at the top level and under `optimization` is one block."""
    problems = problems_of(
        "cost_reduction: {target: 0.4}\noptimization: {cost_reduction: {target_reduction: 0.3}}"
    )

    assert len(problems) == 1
    assert "cost_reduction.target" in str(problems[0])
    assert "optimization.cost_reduction.target_reduction" in str(problems[0])


def test_both_places_with_the_same_values_are_one_block():
    """Numeric strings are numbers, also when compared."""
    loaded = load_text(
        "model_selection: {models: [gpt-4], enabled: true}\ncost_reduction: {target: '0.40'}\n"
        "optimization: {model_selection: {models: [gpt-4]}, cost_reduction: {target_reduction: 0.4}}",
        {},
    )

    block = loaded.source.file.optimization
    assert block.cost_reduction.target_reduction == 0.4
    assert block.model_selection.models == ["gpt-4"]


def test_huge_and_deep_documents_are_refused():
    """Anchors can not blow a small file up."""
    bomb = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
        f"{name}: &{name} [{', '.join(['*' + before] * 8)}]\n"
        for before, name in zip("abcdefg", "bcdefgh", strict=True)
    )

    assert problems_of(bomb)[0].path == ""
    assert problems_of("[" * 100 + "]" * 100)[0].path == ""


def test_anchors_and_merge_keys_work():
    """The core of YAML that people use to stay brief."""
    loaded = load_text(
        "upstreams:\n  a: &base {base_url: 'http://127.0.0.1:1/v1', connect_timeout_ms: 7}\n"
        "  b: {<<: *base, base_url: 'http://127.0.0.1:2/v1'}\n",
        {},
    )

    assert [(u.name, u.base_url, u.connect_s) for u in loaded.settings.upstreams] == [
        ("a", "http://127.0.0.1:1/v1", 0.007),
        ("b", "http://127.0.0.1:2/v1", 0.007),
    ]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("routes", "chat", "arms", 1, "model"), "routes.chat.arms[1].model"),
        (("models", "gpt-3.5-turbo", "price"), 'models["gpt-3.5-turbo"].price'),
    ],
)
def test_paths_are_written_as_people_write_them(path, text):
    """Keys that are not plain words are quoted."""
    assert show_path(path) == text


def test_suggestions():
    """The nearest name, else all of few, else nothing."""
    assert suggest("Prot", ["port", "host"]) == "Did you mean 'port'?"
    assert suggest("zzz", ["port", "host"]) == "Known: host, port."
    assert suggest("zzz", [f"name-{i}" for i in range(20)]) is None
