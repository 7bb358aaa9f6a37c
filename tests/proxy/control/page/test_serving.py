"""Serving the page: what is there exactly as it was built, and nothing else."""

import gzip
import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from proxy.control.page.files import INDEX, read
from proxy.control.page.serving import PATHS, Page, accepts_gzip

SCRIPT = "assets/index-abc123.js"
LARGE = b"export const text = 'a line that repeats';\n" * 20_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bundle = tmp_path / "bundle"
    (bundle / "assets").mkdir(parents=True)
    (bundle / INDEX).write_text("<!doctype html><title>page</title>")
    (bundle / SCRIPT).write_bytes(LARGE)
    (bundle / "assets" / "icon-1.svg").write_text("<svg/>")
    (tmp_path / "secret.txt").write_text("secret")
    (bundle / "link.txt").symlink_to(tmp_path / "secret.txt")
    return bundle


class Asking:
    """Asks one server without any cleverness about paths, encodings or redirects."""

    def __init__(self, session: aiohttp.ClientSession, server: TestServer) -> None:
        self._session = session
        self._server = server

    async def __call__(
        self, path: str, method: str = "GET", **headers: str
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        url = URL(f"http://{self._server.host}:{self._server.port}{path}", encoded=True)
        async with self._session.request(
            method,
            url,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
            allow_redirects=False,
        ) as answer:
            return answer, await answer.read()


@pytest.fixture
async def ask(folder: Path) -> AsyncIterator[Asking]:
    app = web.Application()
    page = Page(folder)
    for path in PATHS:
        app.router.add_route("GET", path, page.serve)
        app.router.add_route("HEAD", path, page.serve)
    async with (
        TestServer(app) as server,
        aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=("Accept-Encoding",)) as session,
    ):
        yield Asking(session, server)


@pytest.mark.parametrize("path", ["/ui", "/ui/", "/ui/index.html"])
async def test_the_index_is_asked_for_again_each_time(ask: Asking, path: str) -> None:
    answer, body = await ask(path)
    assert answer.status == 200
    assert body.startswith(b"<!doctype html>")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_hashed_file_is_kept_for_ever_and_sent_compressed(ask: Asking) -> None:
    plain, body = await ask(f"/ui/{SCRIPT}")
    small, zipped = await ask(f"/ui/{SCRIPT}", accept_encoding="br, gzip")
    assert body == LARGE == gzip.decompress(zipped)
    assert "Content-Encoding" not in plain.headers
    assert small.headers["Content-Encoding"] == "gzip"
    assert plain.headers["ETag"] != small.headers["ETag"]
    assert "immutable" in small.headers["Cache-Control"]
    assert small.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert small.headers["Vary"] == "Accept-Encoding"


async def test_whoever_has_it_is_told_so(ask: Asking) -> None:
    answer, _ = await ask(f"/ui/{SCRIPT}")
    for known in (
        answer.headers["ETag"],
        f'"other", {answer.headers["ETag"]}',
        f"W/{answer.headers['ETag']}",
    ):
        again, body = await ask(f"/ui/{SCRIPT}", if_none_match=known)
        assert (again.status, body) == (304, b"")
        assert again.headers["ETag"] == answer.headers["ETag"]
    again, body = await ask(f"/ui/{SCRIPT}", if_none_match='"other"')
    assert again.status == 200


async def test_head_tells_all_but_the_file(ask: Asking) -> None:
    answer, body = await ask(f"/ui/{SCRIPT}", "HEAD")
    assert body == b""
    assert answer.headers["Content-Length"] == str(len(LARGE))


@pytest.mark.parametrize(
    "path",
    [
        "/ui/nothing",
        "/ui/../secret.txt",
        "/ui/..%2fsecret.txt",
        "/ui/%2e%2e/secret.txt",
        "/ui/assets/../../secret.txt",
        "/ui/..\\secret.txt",
        "/ui//etc/passwd",
        "/ui/link.txt",
        "/ui/assets",
        "/ui/assets/",
        "/ui/index.html%00.js",
        "/ui/<script>alert(1)</script>",
    ],
)
async def test_nothing_else_is_served(ask: Asking, path: str) -> None:
    answer, body = await ask(path)
    assert answer.status == 404
    assert b"secret" not in body or b"<code>" in body
    assert b"<script>" not in body
    assert b"root:" not in body


async def test_a_page_that_was_not_built_says_how(tmp_path: Path) -> None:
    app = web.Application()
    app.router.add_route("GET", PATHS[0], Page(tmp_path / "none").serve)
    async with (
        TestServer(app) as server,
        aiohttp.ClientSession() as session,
        session.get(server.make_url("/ui")) as answer,
    ):
        assert answer.status == 503
        assert "make page" in await answer.text()


async def test_a_page_built_again_is_served_without_a_restart(ask: Asking, folder: Path) -> None:
    assert (await ask("/ui"))[1].endswith(b"<title>page</title>")
    (folder / SCRIPT).unlink()
    (folder / "assets" / "index-def.js").write_text("next")
    (folder / INDEX).write_text("<title>the next page</title>")
    assert (await ask("/ui"))[1] == b"<title>the next page</title>"
    assert (await ask("/ui/assets/index-def.js"))[1] == b"next"
    assert (await ask(f"/ui/{SCRIPT}"))[0].status == 404
    (folder / INDEX).unlink()
    assert (await ask("/ui"))[0].status == 503


@given(st.text(st.characters(codec="ascii"), max_size=60))
def test_any_accept_encoding_is_understood_or_not(offered: str) -> None:
    assert accepts_gzip(offered) in (True, False)


@pytest.mark.parametrize(
    ("offered", "taken"),
    [
        ("gzip", True),
        ("br, GZIP;q=0.5", True),
        ("*", True),
        ("gzip;q=0, *", False),
        ("gzip;q=x", False),
        ("", False),
        ("br", False),
    ],
)
def test_gzip_is_sent_to_whoever_takes_it(offered: str, taken: bool) -> None:
    assert accepts_gzip(offered) is taken


def test_a_bundle_is_read_the_same_way_everywhere(folder: Path) -> None:
    first = read(folder)
    os.utime(folder / SCRIPT, (1, 1))
    second = read(folder)
    assert first is not None
    assert second is not None
    assert first.files == second.files
    assert "link.txt" not in first.files
