"""Header blocks and the small pieces of HTTP that do not need a connection."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.routing import Upstream
from proxy.http1.client import Origin
from proxy.http1.framing import chunk, encode_headers, is_host, last_chunk, status_line


def test_encode_headers():
    assert encode_headers([("a", "b"), (b"X-Y", b"\xff\t")]) == b"a: b\r\nX-Y: \xff\t\r\n"
    assert encode_headers([]) == b""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a", "b\r\nc: d"),
        ("a", "b\n"),
        ("a", "\x00"),
        ("a\r\n", "b"),
        ("a:", "b"),
        ("", "b"),
        ("a b", "c"),
        (b"a", b"\x7f"),
    ],
)
def test_encode_headers_refuses_what_could_split(name, value):
    with pytest.raises(ValueError, match=r"header|control"):
        encode_headers([(name, value)])


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_an_encoded_header_is_always_one_line(name, value):
    try:
        block = encode_headers([(name, value)])
    except ValueError:
        return
    assert re.fullmatch(rb"[^\r\n:]+: [^\r\n]*\r\n", block)


def test_chunks():
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert last_chunk(b"") == b"0\r\n\r\n"
    assert last_chunk(b"ab") == b"2\r\nab\r\n0\r\n\r\n"


def test_status_lines():
    assert status_line(200) == b"HTTP/1.1 200 OK\r\n"
    assert status_line(299) == b"HTTP/1.1 299 \r\n"


@pytest.mark.parametrize(
    "host", [b"", b"h", b"h:1", b"127.0.0.1:80", b"[::1]", b"[::1]:443", b"a_b.c-d", b"a%20b"]
)
def test_hosts(host):
    assert is_host(host)


@pytest.mark.parametrize(
    "host", [b"a/b", b"a@b", b"a b", b"a?b", b"a#b", b"a:b", b"::1", b"[x]", b"a:123456", b"\xff"]
)
def test_not_hosts(host):
    assert not is_host(host)


def origin(base_url, **fields):
    return Origin.from_upstream(Upstream(name="u", provider="openai", base_url=base_url, **fields))


def test_origins():
    plain = origin("http://Example.com/v1")
    assert (plain.host, plain.port, plain.authority, plain.ssl_context) == (
        "example.com",
        80,
        "example.com",
        None,
    )
    secure = origin("https://[::1]:8443/v1")
    assert (secure.host, secure.port, secure.authority) == ("::1", 8443, "[::1]:8443")
    assert secure.ssl_context is not None
    assert secure.ssl_context.check_hostname
    assert not origin("https://h", verify_tls=False).ssl_context.check_hostname


def test_absolute_form_only_for_http_through_a_proxy():
    head = b"GET /a HTTP/1.1\r\nhost: h\r\n\r\n"
    assert origin("http://h:81").head(head) == head
    assert origin("https://h", proxy="http://p").head(head) == head
    through = origin("http://h:81", proxy="http://u:p%40@p:3128").head(head)
    assert through == (
        b"GET http://h:81/a HTTP/1.1\r\nproxy-authorization: Basic dTpwQA==\r\nhost: h\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("base_url", "proxy"),
    [
        ("ftp://h", None),
        ("h", None),
        ("http://", None),
        ("http://u:p@h", None),
        ("http://h\u00e9", None),
        ("http://h", "https://p"),
    ],
)
def test_unusable_addresses(base_url, proxy):
    with pytest.raises(ValueError, match="must"):
        origin(base_url, proxy=proxy)
