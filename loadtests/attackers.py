"""Clients that hold on to a server: heads and bodies that drip, replies that nobody reads.

Invariant: they cost next to no processor time, so whoever is measured beside them is slowed by the server alone.
``python -m loadtests.attackers --port P --heads N --bodies N --readers N`` prints ``attacking`` when all are
connected, and goes on until it is stopped; who is cut off comes back.
"""

import argparse
import asyncio

import uvloop

from loadtests.load import chat_body, request_bytes

DRIP_S = 1.0
SMALL_WINDOW = 4096


async def drip(port: int, opening: bytes, piece: bytes) -> None:
    """Send ``opening``, then a piece each second until the server has had enough; again and again."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(opening)
            while not reader.at_eof():
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(DRIP_S)
        except OSError:
            await asyncio.sleep(DRIP_S)
            continue
        writer.close()


async def stare(port: int, request: bytes) -> None:
    """Ask for a stream and read nothing of it."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=SMALL_WINDOW)
            writer.write(request)
            await reader.read(1)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            while not writer.is_closing():  # noqa: ASYNC110 - a look per second costs nothing
                await asyncio.sleep(DRIP_S)
        except OSError:
            await asyncio.sleep(DRIP_S)


async def attack(port: int, *, heads: int, bodies: int, readers: int) -> None:
    """All of them, until cancelled."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
    body = head + b"content-type: application/json\r\ncontent-length: 1000000\r\n\r\n"
    stream = request_bytes(port, chat_body(2048, stream=True))
    tasks = [asyncio.ensure_future(drip(port, head, b"x-more: y\r\n")) for _ in range(heads)]
    tasks += [asyncio.ensure_future(drip(port, body, b" " * 600)) for _ in range(bodies)]
    tasks += [asyncio.ensure_future(stare(port, stream)) for _ in range(readers)]
    await asyncio.sleep(2 * DRIP_S)
    print("attacking", flush=True)
    await asyncio.gather(*tasks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--heads", type=int, default=300)
    parser.add_argument("--bodies", type=int, default=300)
    parser.add_argument("--readers", type=int, default=100)
    options = parser.parse_args()
    uvloop.run(attack(options.port, heads=options.heads, bodies=options.bodies, readers=options.readers))


if __name__ == "__main__":
    main()
