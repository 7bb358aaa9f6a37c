"""The environment: overrides, variables in values, secrets by name."""

import pytest

from proxy.config.load import load, load_text
from proxy.config.problems import ConfigProblems
from proxy.config.secrets import literal_reference, parse, resolve

PLANTED = "sk-planted-secret-0123456789abcdef"


@pytest.mark.parametrize(
    ("environ", "attribute", "value"),
    [
        ({"SERVER_HOST": "::1"}, "host", "::1"),
        ({"SERVER_PORT": "1"}, "port", 1),
        ({"SERVER_WORKERS": "3"}, "workers", 3),
        ({"SERVER_PORT": ""}, "port", 80),
        ({"LLM_OPTIMIZER__SERVER__PORT": "2"}, "port", 2),
    ],
)
def test_environment_beats_the_file(environ, attribute, value):
    """An empty variable counts as not set."""
    loaded = load_text("server: {host: 127.0.0.1, port: 80, workers: 2}", environ)

    assert getattr(loaded.listen, attribute) == value


def test_any_key_can_be_set():
    """Also lists, and blocks that the file does not have."""
    loaded = load_text(
        "",
        {
            "LLM_OPTIMIZER__OPTIMIZATION__STRATEGIES": "[model_selection]",
            "LLM_OPTIMIZER__MODEL_SELECTION__MODELS": "gpt-4,gpt-4o",
            "LLM_OPTIMIZER__LOG__LEVEL": "WARN",
        },
    )

    assert [route.name for route in loaded.settings.routes] == ["auto", "gpt-4", "gpt-4o"]
    assert loaded.log.level == "warning"


def test_wrong_values_and_unknown_keys_of_the_environment_are_problems():
    """Named like those of the file."""
    with pytest.raises(ConfigProblems) as caught:
        load_text("", {"SERVER_PORT": "http", "LLM_OPTIMIZER__SERVR__PORT": "1"})

    assert {problem.path for problem in caught.value.problems} == {"server.port", "servr"}


def test_variables_in_values():
    """With default, empty, escaped, several in one value, in numbers."""
    loaded = load_text(
        "server: {port: '${PORT}', workers: '${WORKERS:-4}'}\n"
        "prompts: {p: {system: 'I am ${A}-${B:-b}; $${C} ${not a variable} ${E:-}'}}",
        {"PORT": "81", "A": "a", "WORKERS": ""},
    )

    assert (loaded.listen.port, loaded.listen.workers) == (81, 4)
    assert loaded.settings.variants[1].system == "I am a-b; ${C} ${not a variable} "


def test_every_missing_variable_is_a_problem():
    """All at once, as everything else."""
    with pytest.raises(ConfigProblems) as caught:
        load_text("server: {host: '${A}'}\nprompts: {p: '${B} {question}'}", {})

    assert [problem.path for problem in caught.value.problems] == ["server.host", "prompts.p"]


@pytest.mark.parametrize(
    ("written", "reference"),
    [
        ("${MY_KEY}", "env:MY_KEY"),
        ("${MY_KEY:-}", "env:MY_KEY"),
        ("env:MY_KEY", "env:MY_KEY"),
        ("file:/run/secrets/key", "file:/run/secrets/key"),
    ],
)
def test_a_secret_stays_a_reference(written, reference):
    """Its value never enters the settings, set or not."""
    text = f"upstreams: {{x: {{base_url: 'http://h/v1', api_key: '{written}'}}}}"

    for environ in ({}, {"MY_KEY": PLANTED}):
        loaded = load_text(text, environ)
        assert loaded.settings.upstreams[0].secret == reference
        assert PLANTED not in repr(loaded)
        assert loaded.secrets == {}


def test_a_missing_secret_is_a_note(tmp_path):
    """The arm is unavailable, nothing else happens."""
    text = "upstreams: {x: {base_url: 'http://h/v1', api_key: 'file:key'}}"
    path = tmp_path / "config.yaml"
    path.write_text(text)

    missing = load(path, {})
    (tmp_path / "key").write_text(PLANTED + "\n")
    found = load(path, {})

    assert [note.path for note in missing.notes] == ["upstreams.x"]
    assert found.notes == ()
    assert found.settings == missing.settings
    assert resolve(found.settings.upstreams[0].secret, {}, {}) == PLANTED


def test_a_literal_key_becomes_a_digest():
    """The value is in `secrets` only, and is not printed with it."""
    loaded = load_text(f"upstreams: {{x: {{base_url: 'http://h/v1', api_key: {PLANTED}}}}}", {})
    reference = loaded.settings.upstreams[0].secret

    assert reference == literal_reference(PLANTED)
    assert resolve(reference, {}, loaded.secrets) == PLANTED
    assert PLANTED not in repr(loaded)
    assert PLANTED not in repr(loaded.settings)
    assert PLANTED not in str(loaded.notes)


def test_an_overridden_secret_is_named_by_its_variable():
    """The environment may hold the key itself, the settings may not."""
    name = "LLM_OPTIMIZER__UPSTREAMS__OPENAI__API_KEY"

    loaded = load_text("", {name: PLANTED})

    assert {u.name: u.secret for u in loaded.settings.upstreams}["openai"] == f"env:{name}"


@pytest.mark.parametrize(
    "text",
    [
        f"upstreams: {{x: {{base_url: 'http://h', api_key: [{PLANTED}]}}}}",
        f"upstreams: {{x: {{base_url: 'http://h', api_key: 'Bearer ${{X}} {PLANTED}'}}}}",
        f"upstreams: {{x: {{base_url: 'http://h', headers: {{authorization: {PLANTED}}}}}}}",
        f"upstreams: {{x: {{base_url: 'http://u:{PLANTED}@h'}}}}",
        f"admin: {{key: {PLANTED}, keys: {PLANTED}}}",
        f"upstreams: {{x: {{api_key: '{PLANTED}}}}}",
        f"database: {{url: 'postgres://u:{PLANTED}@h/db', max_connections: x}}",
        f"server: {{port: '${{KEY}}'}}\nupstreams: {{x: {{apikey: {PLANTED}}}}}",
    ],
)
def test_problems_do_not_repeat_secrets(text):
    """Not even when the secret is what is wrong."""
    with pytest.raises(ConfigProblems) as caught:
        load_text(text, {"KEY": PLANTED})

    assert PLANTED not in str(caught.value)


def test_admin_keys_are_references():
    """One or several."""
    loaded = load_text("admin: {key: '${A}', keys: ['${B}', 'file:/c'], hosts: [box.local]}", {"A": "x"})

    assert loaded.admin.keys == ("env:A", "env:B", "file:/c")
    assert loaded.admin.hosts == ("box.local",)
    assert [note.path for note in loaded.notes if note.path.startswith("admin")] == [
        "admin.keys[0]",
        "admin.keys[1]",
    ]


@pytest.mark.parametrize("text", ["", "$KEY", "${A}${B}", "env:1x", "literal:zz", "schlüssel"])
def test_what_is_no_secret_is_refused(text):
    """With a sentence, and without the text."""
    with pytest.raises(ValueError) as caught:
        parse(text, None)

    assert not text or text not in str(caught.value)


def test_secrets_that_can_not_be_sent_are_missing(tmp_path):
    """A line break in a header would be another header."""
    (tmp_path / "two-lines").write_text("a\nb")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")

    assert resolve(f"file:{tmp_path / 'two-lines'}", {}, {}) is None
    assert resolve(f"file:{tmp_path / 'binary'}", {}, {}) is None
    assert resolve(f"file:{tmp_path}", {}, {}) is None
    assert resolve("env:X", {"X": "  "}, {}) is None
    assert resolve("nonsense", {"nonsense": "x"}, {}) is None
    assert resolve("env:X", {"X": " key \n"}, {}) == "key"
