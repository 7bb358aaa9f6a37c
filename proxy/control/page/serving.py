"""Serves the page under ``/ui``: with strong ETags, compressed where asked, under a policy that keeps it at home.

The files hold no data, so that nobody needs a key for them; everything that the page shows it asks of the admin
surface, which judges each request. A page that was not built says how to build it.
"""

import asyncio
import html
from pathlib import Path
from typing import Final

from aiohttp import web

from proxy.control.page.files import BUNDLE, INDEX, Bundle, File, mark_of, read

PATHS: Final = ("/ui", "/ui/{name:.*}")
"""What aiohttp routes here; the second one's canonical form is ``/ui/{name}``."""

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_GUARDS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_NOT_BUILT: Final = (
    "This installation was made without the files of the page. From the source tree, <code>make page</code> builds "
    "them (it brings Node.js where there is none), and a reload of this page shows the result; no restart is needed. "
    "A wheel made by <code>pip wheel .</code> contains them."
)


class Page:
    """The page as it is on the disk: it is read at the first request, and again when it was built anew."""

    def __init__(self, folder: Path = BUNDLE) -> None:
        self._folder = folder
        self._bundle: Bundle | None = None
        self._reading = asyncio.Lock()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer GET and HEAD of one path below ``/ui``."""
        name = request.match_info.get("name") or INDEX
        bundle = await self._current(fresh=name == INDEX)
        if bundle is None:
            return _text(503, "The page is not built", _NOT_BUILT)
        file = bundle.files.get(name)
        if file is None:
            asked = html.escape(request.path[:200])
            told = f'<code>{asked}</code> is no part of the page. <a href="/ui/">Open the page</a>'
            return _text(404, "Nothing is here", told)
        return _answer(request, file)

    async def _current(self, *, fresh: bool) -> Bundle | None:
        """The files; ``fresh`` looks at the disk, which happens once each time the page is opened."""
        if self._bundle is not None and (not fresh or mark_of(self._folder) == self._bundle.mark):
            return self._bundle
        async with self._reading:
            if self._bundle is None or mark_of(self._folder) != self._bundle.mark:
                # Compressing takes tens of milliseconds, which the loop has better uses for.
                self._bundle = await asyncio.to_thread(read, self._folder)
        return self._bundle


def _answer(request: web.Request, file: File) -> web.Response:
    zipped = file.zipped if accepts_gzip(request.headers.get("Accept-Encoding", "")) else None
    # Two bodies of one name are two things to a cache.
    etag = f'"{file.etag}-gz"' if zipped is not None else f'"{file.etag}"'
    headers = {**_GUARDS, "ETag": etag, "Cache-Control": file.cache_control, "Vary": "Accept-Encoding"}
    if _knows(request.headers.get("If-None-Match", ""), etag):
        return web.Response(status=304, headers=headers)
    if zipped is not None:
        headers["Content-Encoding"] = "gzip"
    return web.Response(
        body=file.body if zipped is None else zipped, headers={**headers, "Content-Type": file.content_type}
    )


def accepts_gzip(offered: str) -> bool:
    """Whether an Accept-Encoding header lets us send gzip."""
    weights: dict[str, str] = {}
    for part in offered.lower().split(","):
        coding, _, parameters = part.partition(";")
        name, _, value = parameters.strip().partition("=")
        weights[coding.strip()] = value.strip() if name.strip() == "q" else "1"
    try:
        return float(weights.get("gzip", weights.get("*", "0"))) > 0
    except ValueError:
        return False


def _knows(asked: str, etag: str) -> bool:
    return etag in (known.strip().removeprefix("W/") for known in asked.split(","))


def _text(status: int, title: str, told: str) -> web.Response:
    """A page of our own words; ``told`` is HTML."""
    text = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{title}</title><h1>{title}</h1><p>{told}</p></html>"
    )
    return web.Response(
        text=text,
        status=status,
        headers={**_GUARDS, "Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store"},
    )
