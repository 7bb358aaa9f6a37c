"""A light client of many event streams: opens them, counts chunks, and measures how late each arrives.

Invariant: the mock writes its monotonic clock into each chunk and both ends run on one machine, so
a chunk's delay is a subtraction. ``python -m loadtests.streams --port P --streams N --seconds S`` prints
one line ``opened`` when all streams deliver, and one JSON line with the counts at the end.
"""

import argparse
import asyncio
import json
import time

import uvloop

from loadtests.load import chat_body, request_bytes


class Window:
    """What is counted between ``open`` and ``close``."""

    def __init__(self) -> None:
        self.is_open = False
        self.chunks = 0
        self.delays_ms: list[float] = []
        self.delivering = 0
        self.broken: list[str] = []


class StreamClient(asyncio.Protocol):
    """One stream; asks again when it has ended."""

    def __init__(self, request: bytes, window: Window) -> None:
        self._request = request
        self._window = window
        self._transport: asyncio.Transport | None = None
        self._has_delivered = False
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        assert self._transport is not None
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        window = self._window
        if not self._has_delivered:
            if not data.startswith(b"HTTP/1.1 200"):
                window.broken.append(repr(data[:200]))
            self._has_delivered = True
            window.delivering += 1
        if window.is_open:
            count = data.count(b'"content":"t=')
            window.chunks += count
            if count:
                at = data.rfind(b'"content":"t=') + 13
                stamp = int(data[at : data.index(b" ", at)])
                window.delays_ms.append((time.monotonic_ns() - stamp) / 1e6)
        if b"data: [DONE]" in data and self._transport is not None:
            self._transport.write(self._request)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._closing:
            self._window.broken.append(f"connection lost: {error}")

    def close(self) -> None:
        self._closing = True
        if self._transport is not None:
            self._transport.abort()


async def drive(
    port: int, streams: int, seconds: float, *, model: str, hold: bool, ask_usage: bool = False
) -> None:
    """Open the streams, say so, count for ``seconds`` (``hold``: until a line on stdin), print counts."""
    loop = asyncio.get_running_loop()
    body = chat_body(2048, model=model, stream=True)
    if ask_usage:
        body = body[:-1] + b',"stream_options":{"include_usage":true}}'
    request = request_bytes(port, body)
    window = Window()
    clients: list[StreamClient] = []
    for start in range(0, streams, 50):
        for _ in range(start, min(streams, start + 50)):
            _, client = await loop.create_connection(lambda: StreamClient(request, window), "127.0.0.1", port)
            clients.append(client)
        await asyncio.sleep(0.02)
    deadline = time.monotonic() + 30
    while window.delivering < streams and time.monotonic() < deadline:  # noqa: ASYNC110 - a poll per 20 ms
        await asyncio.sleep(0.02)
    window.is_open = True
    print(f"opened {window.delivering}", flush=True)
    if hold:
        await loop.run_in_executor(None, input)
    else:
        await asyncio.sleep(seconds)
    window.is_open = False
    for client in clients:
        client.close()
    delays = sorted(window.delays_ms) or [0.0]
    result = {
        "streams": window.delivering,
        "chunks": window.chunks,
        "p50_ms": delays[len(delays) // 2],
        "p99_ms": delays[int(len(delays) * 0.99)],
        "broken": len(window.broken),
        "first": window.broken[:1],
    }
    print("JSON " + json.dumps(result), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--model", default="loadtest")
    parser.add_argument("--hold", action="store_true", help="until standard input ends")
    parser.add_argument("--ask-usage", action="store_true", help="include_usage")
    options = parser.parse_args()
    uvloop.run(
        drive(
            options.port,
            options.streams,
            options.seconds,
            model=options.model,
            hold=options.hold,
            ask_usage=options.ask_usage,
        )
    )


if __name__ == "__main__":
    main()
