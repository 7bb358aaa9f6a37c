"""Upstream blocks to ``optimizer.routing.Upstream``: addresses checked, credentials reduced to references."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, urlsplit

from optimizer.routing import Upstream
from proxy.config.compile_resilience import compile_breaker
from proxy.config.known import ANTHROPIC, BUILTIN, OPENAI
from proxy.config.models_server import ServerBlock
from proxy.config.models_upstream import UpstreamBlock
from proxy.config.problems import Findings, KeyPath, suggest
from proxy.config.secrets import literal_reference, parse, resolve
from proxy.http1.addresses import host_problem

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?")
# Names under which credentials travel: those belong into api_key, where only a reference is kept.
_CREDENTIAL = re.compile(r"auth|api-?key|secret|token|password|cookie|credential", re.IGNORECASE)
_IN_QUERY = re.compile(rf"{_CREDENTIAL.pattern}|^key$|^sig", re.IGNORECASE)
_OURS = frozenset(
    (
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "expect",
        "host",
        "te",
        "transfer-encoding",
        "upgrade",
    )
)


@dataclass(slots=True)
class SecretStore:
    """References met so far, and the values of literal keys by reference."""

    environ: Mapping[str, str]
    base: Path | None
    literals: dict[str, str] = field(default_factory=dict)

    def reference(self, text: str, path: KeyPath, findings: Findings) -> str | None:
        """The reference that ``text`` stands for; problems go to ``findings``."""
        try:
            reference, value = parse(text, self.base)
        except ValueError as error:
            findings.problem(path, str(error))
            return None
        if value is not None:
            self.keep(value)
            findings.note(path, "the key stands in the file itself; ${NAME} or file:/path would keep it out.")
        return reference

    def keep(self, value: str) -> str:
        """The reference of a value that may be written out."""
        reference = literal_reference(value)
        self.literals[reference] = value
        return reference

    def is_known(self, reference: str) -> bool:
        return resolve(reference, self.environ, self.literals) is not None


class UpstreamCompiler:
    """Compiles upstreams by name, each once."""

    def __init__(
        self,
        blocks: Mapping[str, UpstreamBlock],
        server: ServerBlock,
        secrets: SecretStore,
        findings: Findings,
    ) -> None:
        self._blocks = blocks
        self._server = server
        self._secrets = secrets
        self._findings = findings
        self.compiled: dict[str, Upstream] = {}

    def get(self, name: str) -> Upstream | None:
        """The upstream called ``name``: configured, built-in, or both; None if it is neither."""
        if name in self.compiled:
            return self.compiled[name]
        block = self._blocks.get(name)
        if block is None and name not in BUILTIN:
            return None
        upstream = self._compile(name, block or UpstreamBlock())
        self.compiled[name] = upstream
        return upstream

    def names(self) -> list[str]:
        """Every name that ``get`` knows."""
        return sorted({*self._blocks, *BUILTIN})

    def is_implied(self, name: str) -> bool:
        """Whether a built-in upstream is used that a file with upstreams of its own does not mention."""
        return bool(self._blocks) and name not in self._blocks

    def stream_usage(self, name: str) -> bool:
        """Whether the upstream may be asked for usage in streams."""
        block = self._blocks.get(name)
        return block.stream_usage if block is not None else True

    def _compile(self, name: str, block: UpstreamBlock) -> Upstream:
        path: KeyPath = ("upstreams", name)
        provider = self._provider(name, block, path)
        base_url, unix_socket = self._address(name, block, provider, path)
        auth, secret = self._credentials(name, block, path)
        first, idle = block.first_byte_timeout_ms, block.idle_timeout_ms
        default_header = "x-api-key" if provider == ANTHROPIC else "authorization"
        return Upstream(
            name=name,
            provider=provider,
            base_url=base_url,
            auth=auth,
            secret=secret,
            key_header=self._header_name(block.key_header, (*path, "key_header")) or default_header,
            headers=self._headers(block, path),
            paths=self._paths(block, path),
            unix_socket=unix_socket,
            proxy=self._proxy(block, base_url, unix_socket, path),
            ca_file=self._ca_file(block, path),
            verify_tls=block.verify_tls,
            connect_s=block.connect_timeout_ms / 1000,
            first_byte_s=(first if first is not None else self._server.timeout_ms) / 1000,
            idle_s=(idle if idle is not None else self._server.timeout_ms) / 1000,
            total_s=block.total_timeout_ms / 1000 if block.total_timeout_ms is not None else None,
            max_connections=block.max_connections,
            keepalive_s=block.keepalive_timeout_ms / 1000,
            allow_private=block.allow_private,
            breaker=compile_breaker(block.breaker, (*path, "breaker"), self._findings),
            retry_share=block.retry_share,
            retry_floor=block.retry_floor,
        )

    def _provider(self, name: str, block: UpstreamBlock, path: KeyPath) -> str:
        builtin = BUILTIN.get(name)
        provider = block.provider or (builtin.provider if builtin is not None else OPENAI)
        if provider in BUILTIN:
            return provider
        from proxy.providers.registry import CODECS  # noqa: PLC0415  (start-up does not wait for the codecs)

        if provider not in CODECS:
            self._findings.problem(
                (*path, "provider"),
                f"there is no provider {provider!r}; for OpenAI-compatible services it is `openai`.",
                suggest(provider, {*CODECS, *BUILTIN}),
            )
            return OPENAI
        return provider

    def _address(
        self, name: str, block: UpstreamBlock, provider: str, path: KeyPath
    ) -> tuple[str, str | None]:
        builtin = BUILTIN.get(name) or BUILTIN.get(provider)
        url = block.base_url
        if url is None:
            if block.unix_socket is None and builtin is None:
                self._findings.problem((*path, "base_url"), "is required.")
            url = (
                builtin.base_url if builtin is not None and block.unix_socket is None else "http://localhost"
            )
        url = url.rstrip("/")
        where = (*path, "base_url")
        if url.startswith("unix:"):
            socket = "/" + url.removeprefix("unix:").lstrip("/")
            if block.unix_socket is not None and block.unix_socket != socket:
                self._findings.problem(where, "names another socket than unix_socket.")
            return "http://localhost", socket
        self._check_url(url, where)
        if _split(url) is None:
            url = "http://localhost"  # it is refused; what else is looked at must not stumble over it
        if block.unix_socket is not None and not block.unix_socket.startswith("/"):
            self._findings.problem((*path, "unix_socket"), "must be an absolute path.")
        return url, block.unix_socket

    def _check_url(self, url: str, where: KeyPath) -> None:
        parts = _split(url)
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            self._findings.problem(
                where,
                "must be an http, https or unix address with a host.",
                "For example https://api.openai.com/v1 or http://127.0.0.1:8000/v1.",
            )
            return
        if "@" in parts.netloc:
            self._findings.problem(where, "must not hold a user or password; use api_key.")
        if parts.fragment or any(_IN_QUERY.search(name) for name, _ in parse_qsl(parts.query)):
            self._findings.problem(
                where, "must not have a fragment or a credential in its query; use api_key."
            )
        if not all(33 <= ord(letter) < 127 for letter in url):
            self._findings.problem(where, "holds characters that are not accepted in an address.")
        problem = host_problem(parts.hostname)
        if problem is not None:
            self._findings.problem(where, problem)

    def _credentials(self, name: str, block: UpstreamBlock, path: KeyPath) -> tuple[str, str | None]:
        findings, where = self._findings, (*path, "api_key")
        builtin = BUILTIN.get(name)
        if block.auth in ("none", "passthrough"):
            if block.api_key is not None:
                findings.problem(where, f"is never sent with `auth: {block.auth}`; remove one of the two.")
            return block.auth, None
        if block.api_key is not None:
            secret = self._secrets.reference(block.api_key, where, findings)
        elif builtin is not None and (
            block.base_url is None or _host(block.base_url) == _host(builtin.base_url)
        ):
            secret = f"env:{builtin.key_variable}"
        elif block.auth == "key":
            findings.problem(where, "is required with `auth: key`.")
            return "key", None
        else:
            return "none", None
        if secret is not None and not self._secrets.is_known(secret):
            findings.note(path, f"its key {secret} is not set; until it is, its arms are unavailable.")
        return "key", secret

    def _headers(self, block: UpstreamBlock, path: KeyPath) -> tuple[tuple[str, str], ...]:
        result = []
        for name, value in block.headers.items():
            where = (*path, "headers", name)
            checked = self._header_name(name, where)
            if checked is None:
                continue
            if _CREDENTIAL.search(name):
                self._findings.problem(
                    where, "looks like a credential; write it as api_key, with key_header naming the header."
                )
            elif not _HEADER_VALUE.fullmatch(value):
                self._findings.problem(where, "must be printable ASCII on one line.")
            else:
                result.append((checked, value))
        return tuple(result)

    def _header_name(self, name: str | None, where: KeyPath) -> str | None:
        if name is None:
            return None
        if not _HEADER_NAME.fullmatch(name):
            self._findings.problem(where, "is not a header name.")
            return None
        if name.lower() in _OURS:
            self._findings.problem(where, "is a header that the proxy sets itself.")
            return None
        return name.lower()

    def _paths(self, block: UpstreamBlock, path: KeyPath) -> dict[str, str]:
        for endpoint, target in block.paths.items():
            if not target.startswith("/") or not all(33 <= ord(letter) < 127 for letter in target):
                self._findings.problem((*path, "paths", endpoint), "must start with / and hold no blanks.")
        return {str(endpoint): target for endpoint, target in block.paths.items()}

    def _proxy(
        self, block: UpstreamBlock, base_url: str, unix_socket: str | None, path: KeyPath
    ) -> str | None:
        where: KeyPath = (*path, "proxy")
        url = block.proxy
        if url is None and block.proxy_from_env and unix_socket is None:
            where = (*path, "proxy_from_env")
            url = self._proxy_from_environment(base_url)
        if url is None:
            return None
        parts = _split(url)
        if unix_socket is not None:
            self._findings.problem(where, "a unix socket is not reached through a proxy.")
        elif parts is None or parts.scheme != "http" or not parts.hostname:
            self._findings.problem(where, "must be an address such as http://proxy.example:3128.")
        elif "@" in parts.netloc:
            self._findings.problem(
                where, "must not hold a user or password: it would be published in the table."
            )
        elif (problem := host_problem(parts.hostname)) is not None:
            self._findings.problem(where, problem)
        return url

    def _proxy_from_environment(self, base_url: str) -> str | None:
        parts = _split(base_url)
        if parts is None or not parts.hostname:
            return None
        environ = self._secrets.environ
        if _is_exempt(parts.hostname, _variable(environ, "no_proxy")):
            return None
        url = _variable(environ, f"{parts.scheme}_proxy") or _variable(environ, "all_proxy")
        return url if not url or "://" in url else f"http://{url}"

    def _ca_file(self, block: UpstreamBlock, path: KeyPath) -> str | None:
        if block.ca_file is None:
            return None
        file = Path(block.ca_file)
        if not file.is_absolute():
            file = (self._secrets.base or Path.cwd()) / file
        if not file.is_file():
            self._findings.problem((*path, "ca_file"), "there is no such file.")
        return str(file)


def _variable(environ: Mapping[str, str], name: str) -> str | None:
    """A proxy variable in either case; the lower one wins, as in curl."""
    return environ.get(name) or environ.get(name.upper()) or None


def _is_exempt(host: str, exemptions: str | None) -> bool:
    """Whether ``NO_PROXY`` names the host, a domain it is in, or everything."""
    for part in (exemptions or "").lower().split(","):
        domain = part.strip().lstrip(".")
        if domain == "*" or (domain and (host == domain or host.endswith("." + domain))):
            return True
    return False


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _host(url: str) -> str | None:
    parts = _split(url)
    return parts.hostname if parts is not None else None
