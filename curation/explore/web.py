"""The pages of `winnow explore`.

Data is hostile, and so is every page that the same browser has open. Therefore:

- it listens at 127.0.0.1, and answers only requests whose Host is that address or localhost with its port (a name that an
  attacker's DNS points here is another Host), whose Origin is its own, and that no other site sent (Sec-Fetch-Site);
- it answers GET alone, and nothing that it does writes anything;
- its pages run no script at all (Content-Security-Policy: default-src 'none'); templates escape whatever they print;
- pictures are decoded and encoded anew, so that a file which is two things at once arrives as a picture.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from curation import output, reporting
from curation.explore.desk import LINES, Desk, Desks
from reports import page
from schemas.errors import WinnowError

if TYPE_CHECKING:
    from aiohttp import web

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

POLICY = "default-src 'none'; style-src 'self' 'unsafe-inline'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
SIDE = 2048
"""Pixels of the longer side of a picture at most."""


def serve(
    reference: str | None = None,
    *,
    workspace: Path | None = None,
    port: int = 8766,
    seconds: float = 10.0,
    started: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve until interrupted. `started` is told the address once it answers; port 0 takes any that is free.

    Raises WinnowError where the version is not there, the port is taken, or aiohttp is missing.
    """
    try:
        from aiohttp import web  # noqa: F401
    except ImportError:
        raise WinnowError("winnow explore needs aiohttp. Install it: pip install 'winnow[report]'") from None
    desks = Desks(workspace, seconds)
    first = "/"
    if reference is not None:
        from curation.versions import open_version

        version = open_version(reference, workspace)
        first = _base(version.name, version.id)
    try:
        asyncio.run(_serve(desks, port, first, started))
    except OSError as error:
        raise WinnowError(f"Nothing can listen at port {port}: {error.strerror}. Choose another: --port 0 takes any that is free.") from error  # fmt: skip
    finally:
        desks.close()


async def _serve(desks: Desks, port: int, first: str, started: Callable[[str], None]) -> None:
    from aiohttp import web

    runner = web.AppRunner(application(desks, first), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    try:
        bound = runner.addresses[0][1]
        runner.app["port"] = bound
        started(f"http://127.0.0.1:{bound}{first}")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def application(desks: Desks, first: str = "/") -> web.Application:
    """The pages, as an application of aiohttp."""
    from aiohttp import web

    app = web.Application(middlewares=[_guard()], client_max_size=1024)
    app["port"] = None
    pages = _Pages(desks, first)
    app.router.add_get("/", pages.versions)
    app.router.add_get("/style.css", pages.style)
    app.router.add_get("/favicon.ico", pages.icon)
    base = "/v/{name}/{id}"
    app.router.add_get(base, pages.rows)
    app.router.add_get(base + "/row/{row}", pages.row)
    app.router.add_get(base + "/picture/{hash}", pages.picture)
    app.router.add_get(base + "/sql", pages.sql)
    app.router.add_get(base + "/report", pages.report)
    return app


def _guard() -> Any:
    from aiohttp import web

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        port = request.app["port"]
        hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        response: web.StreamResponse
        if request.headers.get("Host") not in hosts:
            response = web.Response(status=403, text="This page answers only to 127.0.0.1 and localhost.\n")
        elif request.headers.get("Origin", f"http://{request.host}") != f"http://{request.host}":
            response = web.Response(status=403, text="This page answers no other site.\n")
        elif request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            response = web.Response(status=403, text="This page answers no other site. Open its address itself.\n")
        elif request.method not in ("GET", "HEAD"):
            response = web.Response(status=405, text="There is nothing here to write.\n")
        else:
            try:
                response = await handler(request)
            except web.HTTPException as error:
                response = web.Response(status=error.status, text=f"{error.reason}\n", headers={k: v for k, v in error.headers.items() if k == "Location"})  # fmt: skip
            except WinnowError as error:
                response = web.Response(status=404, text=f"{error}\n")
        response.headers.setdefault("Content-Security-Policy", POLICY)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        response.headers["Cache-Control"] = "no-store"
        return response

    return guard


def _base(name: str, version_id: str) -> str:
    return f"/v/{quote(name, safe='')}/{quote(version_id, safe='')}"


class _Pages:
    """The handlers. What asks DuckDB or decodes a picture runs in threads."""

    def __init__(self, desks: Desks, first: str):
        self._desks, self._first = desks, first

    def _render(self, template: str, status: int = 200, **more: Any) -> web.Response:
        from aiohttp import web

        html = page.environment().get_template(template).render(**more)
        return web.Response(status=status, text=html, content_type="text/html", charset="utf-8")

    async def _desk(self, request: web.Request) -> tuple[Desk, str]:
        name, version_id = request.match_info["name"], request.match_info["id"]
        desk = await asyncio.to_thread(self._desks.get, name, version_id)
        return desk, _base(desk.version.name, desk.version.id)

    async def style(self, request: web.Request) -> web.Response:
        from aiohttp import web

        return web.Response(text=page.source("report.css") + page.source("explore.css"), content_type="text/css")

    async def icon(self, request: web.Request) -> web.Response:
        """None: browsers ask for one, and would log an error."""
        from aiohttp import web

        return web.Response(status=204)

    async def versions(self, request: web.Request) -> web.StreamResponse:
        found = await asyncio.to_thread(self._desks.versions)
        lines = [{**line, "link": _base(line["name"], line["id"])} for line in found]
        return self._render("explore_versions.html", versions=lines)

    async def rows(self, request: web.Request) -> web.StreamResponse:
        desk, base = await self._desk(request)
        asked = {key: request.query.get(key, "") for key in ("where", "traces", "after")}
        found, wrong = None, ""
        try:
            found = await asyncio.to_thread(desk.page, **asked)
        except WinnowError as error:
            wrong = str(error)
        following = ""
        if found is not None and found.after is not None:
            following = base + "?" + urlencode({k: v for k, v in {**asked, "after": found.after}.items() if v})
        return self._render(
            "explore_rows.html", 400 if wrong else 200, desk=desk, base=base, asked=asked, page=found, wrong=wrong, following=following
        )  # fmt: skip

    async def row(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        desk, base = await self._desk(request)
        sample = await asyncio.to_thread(desk.row, request.match_info["row"])
        if sample is None:
            raise web.HTTPNotFound(reason=f"{desk.version} has no such row.")
        outside = reporting.outside(desk.version, items=True)
        linked = _Linked(f"{base}/picture/")
        html = await asyncio.to_thread(page.card, sample, linked, outside, 20)
        solution = (sample.row or {}).get("solution")
        return self._render("explore_row.html", desk=desk, base=base, sample=sample, card=html, solution=solution)

    async def picture(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        desk, _ = await self._desk(request)
        name = request.match_info["hash"]
        side = page.THUMBNAIL if "small" in request.query else SIDE
        data = await asyncio.to_thread(_encoded, reporting.outside(desk.version, items=False), name, side)
        if data is None:
            raise web.HTTPNotFound(reason="There is no such picture in this workspace.")
        return web.Response(body=data, content_type="image/webp")

    async def sql(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        desk, base = await self._desk(request)
        query = request.query.get("q", "")
        table, wrong, seconds = None, "", 0.0
        if query.strip():
            try:
                table, seconds = await asyncio.to_thread(desk.sql, query, None if "csv" in request.query else LINES)
            except WinnowError as error:
                wrong = str(error)
        if table is not None and "csv" in request.query:
            text = await asyncio.to_thread(output.csv_text, table)
            headers = {"Content-Disposition": 'attachment; filename="result.csv"'}
            return web.Response(text=text, content_type="text/csv", charset="utf-8", headers=headers)
        csv = f"{base}/sql?" + urlencode({"q": query, "csv": "1"})
        return self._render(
            "explore_sql.html", 400 if wrong else 200, desk=desk, base=base, query=query, table=table, wrong=wrong, seconds=seconds, most=LINES, csv=csv
        )  # fmt: skip

    async def report(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        desk, _ = await self._desk(request)
        path = desk.version.path / reporting.NAME
        if not path.exists():
            raise web.HTTPNotFound(reason=f"{desk.version} has no report yet: run winnow report {desk.version}")
        # The report brings a policy of its own, which lets its one script run.
        text = await asyncio.to_thread(path.read_text, "utf-8")
        headers = {"Content-Security-Policy": "frame-ancestors 'none'"}
        return web.Response(text=text, content_type="text/html", charset="utf-8", headers=headers)


class _Linked:
    """Pictures by their address, where a report has them inside."""

    def __init__(self, base: str):
        self._base = base

    def thumbnail(self, name: str) -> str:
        return self._base + quote(name, safe="")


def _encoded(outside: page.Outside, name: str, side: int) -> bytes | None:
    picture = outside.picture(name)
    if picture is None:
        return None
    small = picture.copy()
    small.thumbnail((side, side))
    sink = io.BytesIO()
    with contextlib.closing(small):
        small.convert("RGB").save(sink, "WEBP", quality=85)
    return sink.getvalue()
