"""The comparison: a bare pass-through of an aiohttp server and an aiohttp client on uvloop.

It decides, records and measures nothing. Streams are relayed chunk by chunk, other replies whole.

``python -m loadtests.baseline --port P --upstream URL [--ca FILE]``
"""

import argparse
import asyncio
import signal
import ssl

import aiohttp
import uvloop
from aiohttp import web


class PassThrough:
    """Forwards every POST under /v1 to one upstream."""

    def __init__(self, session: aiohttp.ClientSession, upstream: str) -> None:
        self._session = session
        self._upstream = upstream

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {"content-type": "application/json", "authorization": "Bearer upstream-key"}
        async with self._session.post(self._upstream + request.path, data=body, headers=headers) as reply:
            kind = reply.headers.get("content-type", "application/json")
            if not kind.startswith("text/event-stream"):
                return web.Response(
                    body=await reply.read(), status=reply.status, headers={"content-type": kind}
                )
            response = web.StreamResponse(status=reply.status, headers={"content-type": kind})
            await response.prepare(request)
            async for data in reply.content.iter_any():
                await response.write(data)
            await response.write_eof()
            return response


async def serve(port: int, upstream: str, ca_file: str | None) -> None:
    """Serve on loopback until SIGTERM or SIGINT; print the port when ready."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    context = ssl.create_default_context(cafile=ca_file) if ca_file else True
    connector = aiohttp.TCPConnector(limit=0, ssl=context)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/{rest:.*}", PassThrough(session, upstream).handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=2048).start()
        print(f"listening on {runner.addresses[0][1]}", flush=True)
        await stop.wait()
        await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--ca", default=None)
    options = parser.parse_args()
    uvloop.run(serve(options.port, options.upstream, options.ca))


if __name__ == "__main__":
    main()
