"""Where spans go: the collector's address and the headers that open it.

Invariant: what comes out holds references to secrets, never their values.
"""

import re
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from optimizer.settings import TracingSettings
from proxy.config.compile_upstreams import SecretStore
from proxy.config.models_cluster import TracingBlock
from proxy.config.problems import Findings, KeyPath

_PATH: Final = "/v1/traces"
_BLOCK: Final = "tracing"
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_OURS: Final = frozenset(("content-type", "content-length", "content-encoding", "host", "connection"))


def compile_tracing(
    block: TracingBlock | None, secrets: SecretStore, findings: Findings
) -> TracingSettings | None:
    """The collector; None without a block, or after a problem with its address."""
    if block is None:
        return None
    headers = []
    for name, value in block.headers.items():
        path: KeyPath = (_BLOCK, "headers", name)
        if not _NAME.fullmatch(name):
            findings.problem(path, "is not a header name.")
        elif name.lower() in _OURS:
            findings.problem(path, "is a header that is set anyway.")
        else:
            reference = secrets.reference(value, path, findings)
            if reference is not None:
                if not secrets.is_known(reference):
                    findings.note(path, f"{reference} is not set; until it is, no spans are sent.")
                headers.append((name.lower(), reference))
    url = _address(block.otlp_endpoint, findings)
    return TracingSettings(url, block.sample_rate, tuple(headers)) if url is not None else None


def _address(text: str, findings: Findings) -> str | None:
    path: KeyPath = (_BLOCK, "otlp_endpoint")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        findings.problem(path, "must be an http:// or https:// address.")
        return None
    if parts.username is not None or parts.password is not None:
        findings.problem(path, "holds a password; write it as a header, such as authorization: ${NAME}.")
        return None
    if port == 4317:
        findings.note(path, "4317 is usually where a collector takes gRPC; HTTP is at 4318.")
    here = parts.path if parts.path not in ("", "/") else _PATH
    return urlunsplit((parts.scheme, parts.netloc, here, parts.query, ""))
