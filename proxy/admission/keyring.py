"""The worker's side of client keys: who is asking, and whether they may use what they ask for.

The invariant is default deny. Whatever goes wrong while a key is looked at refuses the request; a file that can't be
read leaves the keys as they were, a missing one leaves none. Text that a caller sends is compared by its HMAC only, and
never comes back in an answer or a log line.
"""

import hmac
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, MutableMapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from optimizer.keys import PREFIX, ClientKey, KeyFileRefused, KeyRow, decode_keys, digest_of, well_formed
from proxy.errors import ClientFault, Unavailable
from proxy.headers import CLIENT_KEY, PIN

_AUTHORIZATION: Final = b"authorization"
_BEARER: Final = b"bearer "
_OURS: Final = PREFIX.encode()
# Where SDKs put a key when they think that they talk to a provider.
_PROVIDER_STYLE: Final = (b"x-api-key", b"api-key")
_EVERYTHING: Final = ("*",)
# OpenAI's own words: there are clients that know a refused key by them, whatever status and code say (litellm 1.106).
_INCORRECT: Final = "Incorrect API key provided: "

_log = logging.getLogger("llm_optimizer.keys")


class KeyRefused(ClientFault):
    """Who is asking is not known, or not any more."""

    def __init__(self, message: str, code: str = "invalid_api_key") -> None:
        super().__init__(message, status=401, code=code)


class Keyring:
    """The keys that are valid here. ``refused`` counts bad files by reason.

    ``required`` follows the table in use; None while there is none, and nobody is let in who may have to be kept out.
    """

    def __init__(self, path: Path, *, pepper: bytes, now: Callable[[], float]) -> None:
        self.required: bool | None = None
        self.refused: Counter[str] = Counter()
        self._path = path
        self._pepper = pepper
        self._now = now
        self._seen: tuple[int, int, int] | None = None
        self._keys: dict[str, KeyRow] = {}

    def __len__(self) -> int:
        """Keys in the file, those included that only are to be told that they have ended."""
        return len(self._keys)

    def poll(self) -> None:
        """Follow the file. Costs one ``stat`` when nothing changed; a bad file is counted once and changes nothing."""
        try:
            facts = os.stat(self._path)
            seen = (facts.st_mtime_ns, facts.st_ino, facts.st_size)
            if seen == self._seen:
                return
            data = self._path.read_bytes()
        except FileNotFoundError:
            self._seen = None
            self._keys = {}
            return
        except OSError:
            self.refused["unreadable"] += 1
            return
        self._seen = seen
        try:
            self._keys = decode_keys(data, self._keys)
        except KeyFileRefused as error:
            self.refused[error.reason] += 1
            _log.error("the client key file is refused (%s); the keys stay as they were", error.reason)

    def identify(self, headers: MutableMapping[bytes, bytes]) -> ClientKey | None:
        """Who is asking; None when no key is asked for.

        A client key is taken out of ``headers`` wherever it stood, so that nothing which forwards a header of the
        caller (``auth: passthrough``) can hand it to an upstream. An ``authorization`` that is left is the caller's own
        business with a provider: it came beside a key in ``x-llm-optimizer-key``.

        Raises:
            KeyRefused: For any other reason than a valid key being there.
            Unavailable: When it is not known yet whether a key is asked for.
        """
        if self.required is None:
            raise Unavailable("The proxy is starting and has no configuration yet. Try again soon.")
        try:
            if self.required:
                return self._owner(_take_out(headers))
            _take_ours_out(headers)
        except KeyRefused:
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, it must not let anybody in
            # The message of an exception may quote what it stumbled over.
            _log.error("a key could not be checked: %s", type(error).__name__)
            raise KeyRefused("The API key could not be checked. Tell the operator of this proxy.") from None
        return None

    def _owner(self, text: bytes | None) -> ClientKey:
        if text is None:
            raise KeyRefused(
                "No API key was sent. Send one as 'Authorization: Bearer llmo-...' (the api_key of an OpenAI client) "
                "or as 'x-llm-optimizer-key: llmo-...'. The operator makes them with `llm-optimizer keys create`."
            )
        candidate = text.decode("latin-1")
        if not well_formed(candidate):
            raise KeyRefused(
                f"{_INCORRECT}it is not one of this proxy. Those begin with 'llmo-' and have 54 characters. Look for a "
                "typing error, or for a provider's key sent here."
            )
        digest = digest_of(candidate, self._pepper)
        found = self._keys.get(digest)
        if found is None or not hmac.compare_digest(found.key.digest, digest):
            raise KeyRefused(f"{_INCORRECT}it is unknown here. Ask the operator of this proxy for a new one.")
        key = found.key
        if key.revoked_at is not None:
            raise KeyRefused(
                f"{_INCORRECT}it was revoked. Ask the operator for a new one.", "api_key_revoked"
            )
        if key.expires_at is not None and key.expires_at <= self._now():
            raise KeyRefused(
                f"{_INCORRECT}it has expired. Ask the operator for a new one.", "api_key_expired"
            )
        return key


def may_use(key: ClientKey, *, route: str, plain: bool, pinned: bool) -> None:
    """Check a request's route (a plain model's name when ``plain``) and whether it pins its arm.

    Raises:
        ClientFault: 403, naming what was asked for and the scope it takes.
    """
    if not may_see(key, route=route, plain=plain):
        scope = "models" if plain else "routes"
        raise _out_of_scope(
            f"This API key may not use the {'model' if plain else 'route'} {route[:200]!r}: its scope `{scope}` does "
            f"not name it. GET /v1/models lists what the key may use; the operator gives scopes "
            f"(`llm-optimizer keys create --{scope[:-1]} ...`).",
            "model",
        )
    if pinned and not key.pin:
        raise _out_of_scope(
            "This API key may not choose the arm: that takes the scope `pin`. Leave the header x-llm-optimizer-pin "
            "out, or ask the operator for a key made with `llm-optimizer keys create --pin`.",
            PIN.decode(),
        )


def may_see(key: ClientKey, *, route: str, plain: bool) -> bool:
    """Whether a route, or a plain model, is within the key's scope; what ``GET /v1/models`` may list."""
    patterns = key.models if plain else key.routes
    return patterns == _EVERYTHING or _matches(route, patterns)


def may_pass_through(key: ClientKey) -> None:
    """Check a request for a path that is not optimized.

    Raises:
        ClientFault: 403, naming the scope it takes.
    """
    if not key.passthrough:
        raise _out_of_scope(
            "This API key may not use paths that are passed through to an upstream: that takes the scope "
            "`passthrough`. Ask the operator for a key made with `llm-optimizer keys create --passthrough`.",
            None,
        )


def _out_of_scope(message: str, param: str | None) -> ClientFault:
    return ClientFault(message, param=param, status=403, code="key_scope")


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _take_out(headers: MutableMapping[bytes, bytes]) -> bytes | None:
    """The one key that is presented, None when there is none; it is out of ``headers`` then.

    Raises:
        KeyRefused: For different keys in different headers.
    """
    own = headers.pop(CLIENT_KEY, None)
    others = [(_AUTHORIZATION, _bearer(headers.get(_AUTHORIZATION, b"")))]
    others += [(name, headers[name].strip()) for name in _PROVIDER_STYLE if name in headers]
    others = [(name, value) for name, value in others if value]
    if own is not None:
        key: bytes | None = own.strip()
        others = [(name, value) for name, value in others if _OURS in value]
    else:
        key = others[0][1] if others else None
    for name, value in others:
        if value != key:
            raise KeyRefused(
                "The headers carry different API keys. Send the key of this proxy in x-llm-optimizer-key, or in one "
                "header alone."
            )
        del headers[name]
    return key or None


def _take_ours_out(headers: MutableMapping[bytes, bytes]) -> None:
    """Where no key is asked for, a client may still send the one it has; no upstream needs to see it.

    Of the headers that a key can stand in, these are the ones that are ever forwarded.
    """
    for name in (_AUTHORIZATION, b"x-api-key"):
        if _OURS in headers.get(name, b""):
            del headers[name]


def _bearer(value: bytes) -> bytes:
    """The token of an ``authorization`` header; empty for other schemes, unless a key of ours stands there."""
    if value[:7].lower() == _BEARER:
        return value[7:].strip()
    return value if _OURS in value else b""
