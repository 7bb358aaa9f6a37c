"""Who may use the admin surface: a pure judgement over one request's headers.

The invariant is default deny: an endpoint asks for a key unless it says otherwise, and a presented key that is
wrong is refused even where no key was needed. The judgement reads the method and the headers, never the path,
so what is routed and what is authorised can't be two different things.
"""

import enum
import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from optimizer.durable import replace_file

PEER_HEADER: Final = "x-llm-optimizer-peer"
WORKER_HEADER: Final = "x-llm-optimizer-worker"
KEY_PREFIX: Final = "lopt-admin-"
LOCAL: Final = "local"

_LOCAL_HOSTS: Final = frozenset(("localhost", "127.0.0.1", "::1"))
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?", re.IGNORECASE)
_READS: Final = frozenset(("GET", "HEAD", "OPTIONS"))
# What a reverse proxy adds. X-Real-IP is nginx's habit where others send X-Forwarded-For.
_PROXY_MARKS: Final = frozenset(("forwarded", "via", "x-real-ip"))

HOW_TO_GET_IN: Final = (
    "Send 'Authorization: Bearer <admin key>' or 'x-api-key: <admin key>'. The key is the one you configured "
    "(admin.key), or the one in secrets/admin.key of the state directory. Without a key only local requests "
    "are served: from the same machine, to localhost, not through a proxy, and with "
    "'Content-Type: application/json' when they change something."
)


class Reach(enum.Enum):
    """What an endpoint is for, hence who may use it."""

    OPEN = "open"
    """Anyone: files that are the same for everybody and say nothing about this product's traffic."""
    HEALTH = "health"
    METRICS = "metrics"
    DATA = "data"
    """Anyone that a worker let in; the worker proves itself with its token."""
    ADMIN = "admin"
    WORKER = "worker"
    """A worker itself, on nobody's behalf: neither a key nor being local opens it."""


@dataclass(frozen=True, slots=True)
class AccessRules:
    """The configured side of the judgement. ``key_digests`` come from ``digest``; ``hosts`` are lower-case names."""

    key_digests: tuple[bytes, ...] = ()
    require_key: bool = False
    hosts: frozenset[str] = frozenset()
    health_open: bool = True
    metrics_open: bool = True


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, as far as access is concerned: header names in lower case, every value in order.

    ``direct_peer`` is the address of a caller that connected over TCP itself (``admin.listen``); None means that the
    request came over the unix socket, where the peer is what a worker says.
    """

    method: str
    headers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    direct_peer: str | None = None

    def all(self, name: str) -> Sequence[str]:
        """Every value of a header."""
        return self.headers.get(name, ())


@dataclass(frozen=True, slots=True)
class Verdict:
    """``allowed`` opens the endpoint; ``admin`` says the caller has earned details too; ``reason`` is for the 401.

    ``actor`` is how the audit calls an admitted operator: by a fingerprint of the key, or ``local`` without one.
    """

    allowed: bool
    admin: bool
    reason: str = ""
    actor: str = ""


def judge(asked: Asked, reach: Reach, rules: AccessRules, *, worker_token: str) -> Verdict:
    """Decide on one request."""
    if reach is Reach.WORKER:
        # What a worker forwards names its caller, so that no path a client thinks of leads here.
        allowed = _is_from_worker(asked, worker_token) and PEER_HEADER not in asked.headers
        return Verdict(allowed=allowed, admin=False, reason="" if allowed else "This is for workers only.")
    presented = _presented_keys(asked)
    if presented:
        if all(_matches(key, rules.key_digests) for key in presented):
            return Verdict(allowed=True, admin=True, actor=f"admin key {digest(presented[0]).hex()[:8]}")
        # The data endpoints carry the caller's own credentials, which are none of ours.
        refusal = "The key is not an admin key."
    else:
        refusal = _why_not_local(asked, rules, worker_token)
        if not refusal:
            return Verdict(allowed=True, admin=True, actor=LOCAL)
    return Verdict(allowed=_is_open(asked, reach, rules, worker_token), admin=False, reason=refusal)


def digest(key: str) -> bytes:
    """What is kept of a key: enough to recognise it."""
    # aiohttp decodes header bytes with surrogateescape; encoding must not fail on what it lets through.
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def obtain_key(path: Path) -> tuple[str, bool]:
    """The generated admin key and whether it was made just now; the file is 0600.

    Raises:
        OSError: The file can be neither read nor made.
    """
    try:
        key = path.read_text("utf-8").strip()
    except FileNotFoundError:
        key = ""
    if key:
        return key, False
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    replace_file(path, f"{key}\n".encode())
    return key, True


def _is_open(asked: Asked, reach: Reach, rules: AccessRules, worker_token: str) -> bool:
    match reach:
        case Reach.OPEN:
            return True
        case Reach.HEALTH:
            return rules.health_open
        case Reach.METRICS:
            return rules.metrics_open
        case Reach.DATA:
            return _is_from_worker(asked, worker_token)
        case Reach.ADMIN | Reach.WORKER:
            return False


def _presented_keys(asked: Asked) -> list[str]:
    keys = [value.strip() for value in asked.all("x-api-key")]
    for value in asked.all("authorization"):
        scheme, _, rest = value.strip().partition(" ")
        keys.append(rest.strip() if scheme.lower() == "bearer" else value)
    return keys


def _matches(key: str, digests: Iterable[bytes]) -> bool:
    candidate = digest(key)
    # Every digest is compared, so that the time tells nothing about which one matched.
    return bool([1 for known in digests if hmac.compare_digest(candidate, known)])


def _is_from_worker(asked: Asked, worker_token: str) -> bool:
    shown = asked.all(WORKER_HEADER)
    return (
        asked.direct_peer is None
        and bool(worker_token)
        and len(shown) == 1
        and hmac.compare_digest(shown[0].encode("utf-8", "surrogateescape"), worker_token.encode())
    )


def _why_not_local(asked: Asked, rules: AccessRules, worker_token: str) -> str:
    """Empty when a request without a key counts as local, else the reason in a sentence."""
    if rules.require_key:
        return "A key is required (admin.require_key)."
    if not _is_loopback(_peer(asked, worker_token)):
        return "The request does not come from this machine."
    for name in asked.headers:
        if name in _PROXY_MARKS or name.startswith("x-forwarded"):
            return f"The request came through a proxy ({name})."
    hosts = asked.all("host")
    if len(hosts) != 1 or not _is_our_host(hosts[0], rules.hosts):
        return "The Host header is not localhost or a configured name (admin.hosts)."
    if not _is_same_origin(asked, hosts[0]):
        return "The request comes from a page of another origin."
    if asked.method not in _READS and not _is_json(asked):
        return "A change needs 'Content-Type: application/json'."
    return ""


def _peer(asked: Asked, worker_token: str) -> str:
    """Where the request comes from, as far as somebody we trust says so; empty otherwise."""
    if asked.direct_peer is not None:
        return asked.direct_peer
    peers = asked.all(PEER_HEADER)
    return peers[0] if _is_from_worker(asked, worker_token) and len(peers) == 1 else ""


def _is_loopback(peer: str) -> bool:
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _is_our_host(host: str, configured: frozenset[str]) -> bool:
    parsed = _HOST.fullmatch(host)
    if parsed is None:
        return False
    name = parsed.group(1).lower().strip("[]")
    return name in _LOCAL_HOSTS or name in configured


def _is_same_origin(asked: Asked, host: str) -> bool:
    own = (f"http://{host}".lower(), f"https://{host}".lower())
    sites = asked.all("sec-fetch-site")
    return all(origin.lower() in own for origin in asked.all("origin")) and all(
        site.lower() in ("same-origin", "none") for site in sites
    )


def _is_json(asked: Asked) -> bool:
    types = asked.all("content-type")
    return len(types) == 1 and types[0].partition(";")[0].strip().lower() == "application/json"
