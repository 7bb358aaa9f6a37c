"""Who is asking: the keyring over a real key file, with a clock that tests turn."""

import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optimizer.keys import ClientKey, digest_of, encode_keys, new_id, new_key
from proxy.admission import keyring as keyring_module
from proxy.admission.keyring import KeyRefused, Keyring, may_pass_through, may_see, may_use
from proxy.errors import ClientFault, Unavailable

PEPPER = b"p" * 32
NOW = 1_795_000_000.0


class Ring:
    """A keyring, its file and its clock."""

    def __init__(self, path: Path) -> None:
        self.file = path / "keys.json"
        self.now = NOW
        self.texts: list[str] = []
        self.keys: list[ClientKey] = []
        self.ring = Keyring(self.file, pepper=PEPPER, now=lambda: self.now)
        self.ring.required = True

    def add(self, **changes) -> str:
        text = new_key()
        key = ClientKey(
            id=new_id(), name="ci", digest=digest_of(text, PEPPER), last4=text[-4:], created_at=NOW
        )
        self.keys.append(replace(key, **changes))
        self.texts.append(text)
        self.write()
        return text

    def write(self) -> None:
        temporary = self.file.with_suffix(".tmp")
        temporary.write_bytes(encode_keys(self.keys))
        temporary.rename(self.file)
        self.ring.poll()

    def ask(self, **headers: str) -> ClientKey | None:
        return self.ring.identify(_headers(**headers))

    def refusal(self, **headers: str) -> KeyRefused:
        with pytest.raises(KeyRefused) as caught:
            self.ask(**headers)
        fault = caught.value
        assert (fault.status, fault.kind, fault.param) == (401, "invalid_request_error", None)
        for text in (*self.texts, *[value for value in headers.values() if len(value) > 12]):
            assert text.encode() not in fault.body()
            assert text[5:48].encode() not in fault.body()
        return fault


def _headers(**headers: str) -> dict[bytes, bytes]:
    return {name.replace("_", "-").encode(): value.encode("latin-1") for name, value in headers.items()}


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    return Ring(tmp_path)


def test_a_key_is_found_in_each_of_its_places_and_taken_out(ring):
    """All four headers; whatever else was there stays."""
    text = ring.add()

    for name, value in (
        (b"x-llm-optimizer-key", text),
        (b"authorization", f"Bearer {text}"),
        (b"authorization", f"bearer   {text} "),
        (b"authorization", text),
        (b"x-api-key", text),
        (b"api-key", text),
    ):
        headers = {b"host": b"h", name: value.encode()}
        assert ring.ring.identify(headers) == ring.keys[0]
        assert headers == {b"host": b"h"}


def test_the_same_key_in_every_place_is_one_key(ring):
    """And none of the places keeps it."""
    text = ring.add()
    headers = _headers(
        x_llm_optimizer_key=text, authorization=f"Bearer {text}", x_api_key=text, api_key=text, accept="*/*"
    )

    assert ring.ring.identify(headers) == ring.keys[0]
    assert headers == {b"accept": b"*/*"}


def test_a_providers_credential_may_stand_beside_our_own_header(ring):
    """That is how `auth: passthrough` and client keys go together; it is left where it was."""
    text = ring.add()
    headers = _headers(x_llm_optimizer_key=text, authorization="Bearer sk-of-the-caller", x_api_key="other")

    assert ring.ring.identify(headers) == ring.keys[0]
    assert headers == _headers(authorization="Bearer sk-of-the-caller", x_api_key="other")


def test_different_keys_are_refused_whichever_is_valid(ring):
    """Nobody guesses which one was meant."""
    text, other = ring.add(), ring.add()

    for headers in (
        {"x_llm_optimizer_key": text, "authorization": f"Bearer {other}"},
        {"x_llm_optimizer_key": text, "authorization": f"Basic {other}"},
        {"x_llm_optimizer_key": "junk", "x_api_key": text},
        {"authorization": f"Bearer {text}", "x_api_key": other},
        {"authorization": "Bearer sk-provider", "x_api_key": text},
        {"x_api_key": text, "api_key": "sk-provider"},
        {"x_llm_optimizer_key": text, "authorization": f"Bearer sk-provider, Bearer {text}"},
    ):
        assert "different API keys" in str(ring.refusal(**headers))


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({}, "No API key was sent"),
        ({"authorization": ""}, "No API key was sent"),
        ({"authorization": "Bearer "}, "No API key was sent"),
        ({"authorization": "Basic dXNlcjpwYXNzd29yZA=="}, "No API key was sent"),
        ({"x_llm_optimizer_key": "  "}, "No API key was sent"),
        ({"authorization": "Bearer sk-proj-of-some-provider"}, "not one of this proxy"),
        ({"x_api_key": "llmo-"}, "not one of this proxy"),
        ({"x_api_key": "llmo-" + "A" * 49}, "not one of this proxy"),
        ({"x_api_key": "\xff" * 54}, "not one of this proxy"),
    ],
)
def test_refusals_say_what_to_do(ring, headers, words):
    """One code for everything that is no key of ours."""
    ring.add()
    fault = ring.refusal(**headers)

    assert words in str(fault)
    assert fault.code == "invalid_api_key"


def test_a_key_that_does_not_work_is_called_incorrect(ring):
    """In the words of OpenAI's 401, because litellm takes any other for a bad request."""
    ended, revoked = ring.add(expires_at=NOW - 1), ring.add()
    ring.keys[1] = replace(ring.keys[1], revoked_at=NOW)
    ring.write()

    for text in ("sk-of-some-provider", new_key(), ended, revoked):
        assert str(ring.refusal(x_api_key=text)).startswith("Incorrect API key provided: ")


def test_an_unknown_key_is_refused(ring):
    """Well formed, and nobody's; also the key of another node."""
    ring.add()
    assert ring.refusal(authorization=f"Bearer {new_key()}").code == "invalid_api_key"

    ring.ring._pepper = b"q" * 32
    assert ring.refusal(authorization=f"Bearer {ring.texts[0]}").code == "invalid_api_key"


def test_a_key_twice_in_one_header_is_refused(ring):
    """Repeated headers are joined; that is one text, and no key."""
    text = ring.add()

    ring.refusal(x_api_key=f"{text}, {text}")
    ring.refusal(authorization=f"Bearer {text}, Bearer {text}")


def test_a_key_ends_at_its_moment(ring):
    """Not a second before; its holder is told why."""
    text = ring.add(expires_at=NOW + 10)
    ring.now = NOW + 9.999
    assert ring.ask(x_api_key=text) is not None

    ring.now = NOW + 10
    assert ring.refusal(x_api_key=text).code == "api_key_expired"


def test_a_revoked_key_is_refused_with_the_next_poll(ring):
    """And its holder is told so; others are not touched."""
    text, other = ring.add(), ring.add()
    assert ring.ask(x_api_key=text) is not None

    ring.keys[0] = replace(ring.keys[0], revoked_at=NOW)
    ring.write()

    assert ring.refusal(x_api_key=text).code == "api_key_revoked"
    assert ring.ask(x_api_key=other) == ring.keys[1]


def test_a_bad_file_keeps_the_keys_and_is_counted_once(ring):
    """Whoever worked goes on working."""
    text = ring.add()

    for number, data in enumerate((b"", b"{}\n[]\n", encode_keys(ring.keys)[:-9] + b"somewhat\n"), 1):
        ring.file.write_bytes(data)
        os.utime(ring.file, (number, number))
        ring.ring.poll()
        ring.ring.poll()
        assert ring.ask(x_api_key=text) == ring.keys[0]
        assert ring.ring.refused.total() == number
    assert set(ring.ring.refused) == {"truncated", "format", "checksum"}

    ring.add()
    assert len(ring.ring) == 2


def test_an_unreadable_file_keeps_the_keys(ring):
    """A directory in its place is no file, and not an absent one."""
    text = ring.add()
    ring.file.unlink()
    ring.file.mkdir()
    ring.ring.poll()

    assert ring.ask(x_api_key=text) == ring.keys[0]
    assert ring.ring.refused["unreadable"] == 1


def test_without_a_file_no_key_is_valid(ring, tmp_path):
    """At the start, and when it was taken away; it counts again when it is back."""
    fresh = Keyring(tmp_path / "absent.json", pepper=PEPPER, now=lambda: NOW)
    fresh.required = True
    fresh.poll()
    text = ring.add()
    with pytest.raises(KeyRefused):
        fresh.identify(_headers(x_api_key=text))

    ring.file.unlink()
    ring.ring.poll()
    ring.refusal(x_api_key=text)

    ring.write()
    assert ring.ask(x_api_key=text) == ring.keys[0]


def test_where_no_key_is_asked_for_anybody_may_come(ring):
    """Whatever they send; but no upstream gets to see a key of ours."""
    text = ring.add()
    ring.ring.required = False

    assert ring.ask() is None
    assert ring.ask(x_api_key="junk") is None
    headers = _headers(authorization="Bearer sk-of-the-caller")
    assert ring.ring.identify(headers) is None
    assert headers == _headers(authorization="Bearer sk-of-the-caller")
    headers = _headers(authorization=f"Bearer {text}", accept="*/*")
    assert ring.ring.identify(headers) is None
    assert headers == _headers(accept="*/*")


@pytest.mark.parametrize("broken", ["well_formed", "digest_of", "_take_out"])
def test_a_broken_keyring_denies(ring, monkeypatch, caplog, broken):
    """S6: an exception lets nobody in, and its message, which may quote the key, goes nowhere."""
    text = ring.add()

    def fail(*arguments):
        raise KeyError(text)

    monkeypatch.setattr(keyring_module, broken, fail)
    with caplog.at_level(logging.DEBUG):
        ring.refusal(x_api_key=text)

    assert "KeyError" in caplog.text
    assert text not in caplog.text


def test_a_broken_clock_or_index_denies(ring):
    """S6, with the parts that are not functions."""
    text = ring.add(expires_at=NOW + 5)
    ring.now = "not a number"
    ring.refusal(x_api_key=text)

    ring.now = NOW
    ring.ring._keys = None
    ring.refusal(x_api_key=text)


def test_a_digest_is_no_key(ring):
    """Who has read the key file has no way in."""
    ring.add()
    digest = ring.keys[0].digest

    for offered in (digest, f"llmo-{digest}"[:54], f"llmo-{digest}"):
        ring.refusal(x_api_key=offered)


header_values = st.binary(max_size=80) | st.sampled_from(
    [b"Bearer", b"Bearer ", b"llmo-", b"Bearer llmo-' OR 1=1 --", b"Basic llmo-x", b"bearer\tllmo-", b", , "]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([b"authorization", b"x-api-key", b"api-key", b"x-llm-optimizer-key", b"host"]),
        header_values,
    )
)
def test_no_other_headers_let_anybody_in(ring, headers):
    """S3: whatever bytes come, the answer is 401, and nothing else is raised."""
    if not ring.keys:
        ring.add()

    with pytest.raises(KeyRefused):
        ring.ring.identify(headers)


# --- scopes -----------------------------------------------------------------------------------------


def scoped(**changes) -> ClientKey:
    base = ClientKey(id=new_id(), name="ci", digest="00" * 32, last4="abcd", created_at=NOW)
    return replace(base, **changes)


def allowed(key: ClientKey, **asked) -> bool:
    try:
        may_use(key, **{"route": "chat", "plain": False, "pinned": False, **asked})
    except ClientFault as fault:
        return (fault.status, fault.code, fault.kind) != (403, "key_scope", "invalid_request_error")
    return True


@pytest.mark.parametrize(
    ("scope", "asked", "expected"),
    [
        ({}, {}, True),
        ({}, {"plain": True, "route": "gpt-4o"}, False),
        ({}, {"pinned": True}, False),
        ({"pin": True}, {"pinned": True}, True),
        ({"routes": ()}, {}, False),
        ({"routes": ("chat",)}, {}, True),
        ({"routes": ("cha?", "x")}, {}, True),
        ({"routes": ("chat",)}, {"route": "chat2"}, False),
        ({"routes": ("chat",)}, {"route": "Chat"}, False),
        ({"routes": ("batch-*",)}, {"route": "batch-1"}, True),
        ({"models": ("gpt-*",)}, {"plain": True, "route": "gpt-4o"}, True),
        ({"models": ("gpt-*",)}, {"plain": True, "route": "claude"}, False),
        ({"models": ("*",), "routes": ()}, {"plain": True, "route": "x"}, True),
        ({"models": ("*",), "routes": ()}, {"route": "x"}, False),
        ({"models": ("*",), "pin": True, "routes": ()}, {"pinned": True}, False),
    ],
)
def test_scopes(scope, asked, expected):
    """Routes by pattern, plain models only when given, pins only when given."""
    key = scoped(**scope)

    assert allowed(key, **asked) == expected
    if not asked.get("pinned"):
        assert may_see(key, route=asked.get("route", "chat"), plain=asked.get("plain", False)) == expected


def test_a_scope_refusal_names_field_and_scope():
    """The caller knows what to leave out, or what to ask for."""
    with pytest.raises(ClientFault, match="scope `models`") as plain:
        may_use(scoped(), route="gpt-4o", plain=True, pinned=False)
    with pytest.raises(ClientFault, match="scope `routes`") as route:
        may_use(scoped(routes=()), route="chat", plain=False, pinned=False)
    with pytest.raises(ClientFault, match="scope `pin`") as pin:
        may_use(scoped(), route="chat", plain=False, pinned=True)
    with pytest.raises(ClientFault, match="scope `passthrough`") as other:
        may_pass_through(scoped())

    assert [caught.value.param for caught in (plain, route, pin, other)] == [
        "model",
        "model",
        "x-llm-optimizer-pin",
        None,
    ]
    may_pass_through(scoped(passthrough=True))


def test_before_the_first_table_nobody_comes_in(ring):
    """Whether keys are asked for is not known yet, so that neither a key nor its absence opens anything."""
    text = ring.add()
    ring.ring.required = None

    for headers in (_headers(), _headers(x_api_key=text)):
        with pytest.raises(Unavailable):
            ring.ring.identify(headers)
