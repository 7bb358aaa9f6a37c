"""Both sides of our HTTP/1.1, by the invariants that its tests define beside the engine."""

import importlib.util
from pathlib import Path

from loadtests.fuzzing.target import Target

_SOURCE = Path(__file__).resolve().parents[2] / "tests" / "proxy" / "http1" / "fuzzing.py"
_TOKENS = (
    b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n", b"\r\n\r\n", b"0\r\n\r\n",
    b"Host: h\r\n", b"\n", b"\r",
    b"HTTP/1.1", b"HTTP/1.0", b"GET / ", b"POST ", b"Connection: close\r\n", b"Expect: 100-continue\r\n",
    b"chunked, identity",
    b"1;x=y\r\na\r\n", b"Trailer: x\r\n", b"HTTP/1.1 204 X\r\n", b"HTTP/1.1 100 C\r\n\r\n",
    b"Upgrade: h2c\r\n", b"\x00", b"\t", b" ",
    b"ffffffffffffffff\r\n", b"Content-Encoding: gzip\r\n", b"http://h/", b"*", b":",
)  # fmt: skip


def targets() -> list[Target]:
    """Requests at the server's parser, replies at the upstream's."""
    found = importlib.util.spec_from_file_location("http1_fuzzing", _SOURCE)
    if found is None or found.loader is None:
        raise FileNotFoundError(_SOURCE)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)

    return [
        Target("http-requests", module.fuzz_requests, module.SEED_REQUESTS, _TOKENS, ("proxy/http1/",)),
        Target("http-replies", module.fuzz_replies, module.SEED_REPLIES, _TOKENS, ("proxy/http1/",)),
    ]
