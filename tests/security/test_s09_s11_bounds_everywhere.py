"""S9, denial of service by one request (CVE-2024-8984); S11, a policy that a call type slips past (PYSEC-2026-4074).

Bounds of sizes and times are tried in ``tests/proxy/http1`` and ``tests/integration/test_hostile_clients.py``; here
every endpoint, streamed or not, is shown to be under the same ones and to be recorded.
"""

import time
import zlib

import pytest

from optimizer.routing import Limits

ENDPOINTS = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"prompt": "hi"},
    "/v1/embeddings": {"input": "hi"},
    "/v1/responses": {"input": "hi", "store": False},
}


@pytest.mark.parametrize(
    "path", [*ENDPOINTS, "/v1/feedback", "/v1/files", "/v1/audio/speech", "/api/v1/config/validate"]
)
async def test_no_endpoint_takes_a_larger_body(proxy, upstream, shapes, path):
    table = shapes.table(upstream.url, version=2, limits=Limits(max_body_bytes=1000))
    proxy.publish(table)
    reply = await proxy.client.post(path, content=b"x" * 1001, headers={"content-type": "application/json"})
    assert reply.status_code == 413
    assert upstream.raw == []


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("stream", [False, True])
async def test_every_endpoint_is_decided_and_recorded(proxy, upstream, path, stream):
    """One event for each, with route, arm and propensity, whatever became of it."""
    await proxy.client.post(path, json={"model": "a", "stream": stream, **ENDPOINTS[path]})
    event = await proxy.event()
    assert event["endpoint"] in path.replace("chat/completions", "chat")
    assert event["arm"] == "a"


async def test_pass_through_and_refusals_are_recorded_too(proxy, upstream):
    await proxy.client.get("/v1/files")
    await proxy.client.post("/v1/chat/completions", content=b"{")
    await proxy.client.post("/v1/embeddings", json={"model": "nowhere", "input": "x"})
    for number in (1, 2, 3):
        assert await proxy.event(number)


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(
    "body",
    [b"[" * 200_000, b'{"a":' * 100_000, b'{"model":"a","messages":' + b"[" * 100_000, b'"' + b"\\" * 1_000_000,
     b'{"model":"a","n":' + b"9" * 1_000_000 + b"}", b"{" + b'"a":1,' * 100_000 + b'"model":"a"}',
     b'{"model":"a","stop":"' + b"a" * 2_000_000, b'{"model":"' + b"*" * 100_000 + b'"}'],
    ids=["brackets", "objects", "nested messages", "backslashes", "digits", "members", "open string", "long model"],
)  # fmt: skip
async def test_no_body_costs_more_than_its_size(proxy, upstream, path, body):
    """Nested, repeated and unfinished documents are refused in time that others do not notice."""
    began = time.process_time()
    reply = await proxy.client.post(path, content=body, headers={"content-type": "application/json"})
    took = time.process_time() - began
    assert 400 <= reply.status_code < 500
    assert took < 1.0
    assert upstream.raw == []


@pytest.mark.parametrize("path", [*ENDPOINTS, "/v1/feedback"])
async def test_compressed_bodies_are_not_inflated(proxy, upstream, path):
    """Ten megabytes in ten kilobytes are no JSON here, and cost nothing."""
    bomb = zlib.compress(b"0" * 10_000_000, 9)
    reply = await proxy.client.post(path, content=bomb, headers={"content-encoding": "deflate"})
    assert 400 <= reply.status_code < 500
    assert upstream.raw == []


async def test_a_multipart_boundary_is_nobodys_business(proxy, upstream):
    """CVE-2024-8984: a boundary of any length is passed on as bytes."""
    boundary = "-" * 4000
    body = f"--{boundary}\r\ncontent-disposition: form-data; name=a\r\n\r\nx\r\n--{boundary}--{'-' * 50_000}".encode()
    began = time.process_time()
    reply = await proxy.client.post(
        "/v1/files", content=body, headers={"content-type": f"multipart/form-data; boundary={boundary}"}
    )
    assert reply.status_code == 200
    assert upstream.raw == [body]
    assert time.process_time() - began < 1.0


async def test_names_that_nobody_has_fill_no_memory(proxy):
    """Ten thousand models asked for: what is remembered of them is bounded."""
    table = proxy.worker.plane.table
    for number in range(10_000):
        table.resolve(f"nobody-{number}")
    assert len(table._resolved) <= 4096
    assert table.resolve("x" * 10_000) is None
