"""A very fast OpenAI-shaped upstream: unary replies, event streams at a fixed pace, recorded answers.

Invariant: a reply's bytes are made before the request arrives (unary) or from a template plus a time stamp
(streams), so that the mock is never what is measured. Streams are paced by one ticker for all of them.

A request without a body is answered with the number of chunks sent so far.

``python -m loadtests.mock_upstream --port P [--reply-bytes N] [--chunks N] [--rate R]``
"""

import argparse
import asyncio
import signal
import ssl
import time
from collections.abc import Callable

import httptools
import uvloop

TICK_S = 0.001
SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\ncache-control: no-cache\r\n\r\n"
)
CHUNK_BEFORE = (
    b'data: {"id":"chatcmpl-mock","object":"chat.completion.chunk","created":1735689600,"model":"mock",'
    b'"service_tier":"default","system_fingerprint":"fp_mock","choices":[{"index":0,"delta":{"content":"t='
)
CHUNK_AFTER = b' "},"logprobs":null,"finish_reason":null}]}\n\n'
CHUNK_AFTER_USAGE = b' "},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
FINISH = (
    b'data: {"id":"chatcmpl-mock","object":"chat.completion.chunk","created":1735689600,"model":"mock",'
    b'"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}\n\n'
)
USAGE = (
    b'data: {"id":"chatcmpl-mock","object":"chat.completion.chunk","created":1735689600,"model":"mock",'
    b'"choices":[],"usage":{"prompt_tokens":500,"completion_tokens":100,"total_tokens":600}}\n\n'
)
DONE = b"data: [DONE]\n\n"

Answer = Callable[[bytes], bytes]


def unary_document(size: int = 700) -> bytes:
    """A chat completion of about ``size`` bytes."""
    before = (
        b'{"id":"chatcmpl-mock","object":"chat.completion","created":1735689600,"model":"mock",'
        b'"choices":[{"index":0,"message":{"role":"assistant","content":"'
    )
    after = (
        b'","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":500,"completion_tokens":100,"total_tokens":600,'
        b'"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},'
        b'"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0}},'
        b'"service_tier":"default","system_fingerprint":"fp_mock"}'
    )
    return before + b"lorem ipsum " * max(1, (size - len(before) - len(after)) // 12) + after


def framed(document: bytes) -> bytes:
    """A whole 200 reply around a JSON document."""
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: mock\r\n"
        b"content-length: %d\r\n\r\n" % len(document)
    ) + document


def chunked(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Pacer:
    """Writes one chunk to every open stream ``rate`` times a second, spread evenly over the period."""

    def __init__(self, *, chunks: int, rate: float) -> None:
        self.chunks = chunks
        self.sent = 0
        self._slots: list[list[Stream]] = [[] for _ in range(max(1, round(1 / rate / TICK_S)))]
        self._turn = 0
        self._next = 0.0
        self._fill = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._next = time.monotonic() + TICK_S
        loop.call_later(TICK_S, self._tick, loop)

    def add(self, stream: "Stream") -> None:
        self._slots[self._fill % len(self._slots)].append(stream)
        self._fill += 1

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._next <= time.monotonic():
            slot = self._slots[self._turn]
            self._turn = (self._turn + 1) % len(self._slots)
            self._next += TICK_S
            slot[:] = [stream for stream in slot if stream.step()]
            self.sent += len(slot)
        # A whole tick, not the rest of one: the loop rounds delays below a millisecond to none and would spin.
        loop.call_later(TICK_S, self._tick, loop)


class Stream:
    """One open event stream."""

    __slots__ = ("_after", "_ending", "_left", "_transport")

    def __init__(self, transport: asyncio.Transport, *, chunks: int, with_usage: bool) -> None:
        self._transport = transport
        self._left = chunks
        self._after = CHUNK_AFTER_USAGE if with_usage else CHUNK_AFTER
        self._ending = chunked(FINISH + (USAGE if with_usage else b"") + DONE) + b"0\r\n\r\n"

    def step(self) -> bool:
        """Send the next chunk; False when the stream is over."""
        if self._transport.is_closing():
            return False
        if self._left == 0:
            self._transport.write(self._ending)
            return False
        self._left -= 1
        self._transport.write(chunked(b"%b%d%b" % (CHUNK_BEFORE, time.monotonic_ns(), self._after)))
        return True


class MockUpstream(asyncio.Protocol):
    """One connection."""

    def __init__(self, answer: Answer, pacer: Pacer) -> None:
        self._answer = answer
        self._pacer = pacer
        self._parser = httptools.HttpRequestParser(self)
        self._body: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        transport = self._transport
        assert transport is not None
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        if not body:
            transport.write(framed(b'{"chunks":%d}' % self._pacer.sent))
            return
        # Members after the messages are near the end; the driver and the product put them there or
        # at the front, and a search from the back over 2 KB costs well under a microsecond.
        if b'"stream":true' in body or b'"stream": true' in body:
            transport.write(SSE_HEAD)
            with_usage = b'"include_usage":true' in body or b'"include_usage": true' in body
            self._pacer.add(Stream(transport, chunks=self._pacer.chunks, with_usage=with_usage))
            return
        transport.write(self._answer(body))


async def serve(
    *, port: int, answer: Answer, chunks: int, rate: float, context: ssl.SSLContext | None = None
) -> None:
    """Serve on loopback until SIGTERM or SIGINT; print the port when ready."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    pacer = Pacer(chunks=chunks, rate=rate)
    pacer.start(loop)
    server = await loop.create_server(
        lambda: MockUpstream(answer, pacer), "127.0.0.1", port, backlog=2048, ssl=context
    )
    print(f"listening on {server.sockets[0].getsockname()[1]}", flush=True)
    await stop.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--reply-bytes", type=int, default=700)
    parser.add_argument("--chunks", type=int, default=500, help="chunks of one stream")
    parser.add_argument("--rate", type=float, default=50.0, help="chunks per second and stream")
    parser.add_argument("--certificate", help="speak TLS with it")
    parser.add_argument("--key")
    options = parser.parse_args()
    context = None
    if options.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate, options.key)
    reply = framed(unary_document(options.reply_bytes))
    uvloop.run(
        serve(
            port=options.port,
            answer=lambda _: reply,
            chunks=options.chunks,
            rate=options.rate,
            context=context,
        )
    )


if __name__ == "__main__":
    main()
