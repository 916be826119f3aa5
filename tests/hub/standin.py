"""A Hub for tests: real HTTP on this machine, the routes that `huggingface_hub`, `datasets` and the publisher use.

It is strict where the Hub is: a blob must have the hash and the size that were announced, a commit may only name blobs
that are there, a parent that is no longer the head is refused (412), a tag is given once (409), writing and private
reading need the token. Blobs lie on disk, so sets larger than memory pass through.

`faults` makes routes fail, each as often as it says: a status, `cut` (the connection ends with nothing done), `lost`
(all is done, and the reply is lost), `hang` (no reply for as long as the client waits).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from aiohttp import web

TOKEN = "hf_" + "TestOnly" * 4
ROUTES = {
    "whoami": ("GET", r"/api/whoami-v2"),
    "create": ("POST", r"/api/repos/create"),
    "validate": ("POST", r"/api/validate-yaml"),
    "preupload": ("POST", r"/api/datasets/(?P<repo>[^/]+/[^/]+)/preupload/(?P<rev>[^/]+)"),
    "commit": ("POST", r"/api/datasets/(?P<repo>[^/]+/[^/]+)/commit/(?P<rev>[^/]+)"),
    "tag": ("POST", r"/api/datasets/(?P<repo>[^/]+/[^/]+)/tag/(?P<rev>[^/]+)"),
    "refs": ("GET", r"/api/datasets/(?P<repo>[^/]+/[^/]+)/refs"),
    "tree": ("GET", r"/api/datasets/(?P<repo>[^/]+/[^/]+)/tree/(?P<rev>[^/]+)(?:/(?P<path>.+))?"),
    "paths": ("POST", r"/api/datasets/(?P<repo>[^/]+/[^/]+)/paths-info/(?P<rev>[^/]+)"),
    "info": ("GET", r"/api/datasets/(?P<repo>[^/]+/[^/]+)(?:/revision/(?P<rev>[^/]+))?"),
    "batch": ("POST", r"/datasets/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch"),
    "verify": ("POST", r"/datasets/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/verify"),
    "put": ("PUT", r"/storage/(?P<oid>[0-9a-f]{64})"),
    "part": ("PUT", r"/storage/(?P<oid>[0-9a-f]{64})/(?P<part>\d+)"),
    "complete": ("POST", r"/storage/(?P<oid>[0-9a-f]{64})/complete"),
    "resolve": ("GET", r"/datasets/(?P<repo>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<path>.+)"),
}
PATTERNS = {name: (method, re.compile(pattern)) for name, (method, pattern) in ROUTES.items()}
ROOT = Path(__file__).parents[2]
PAGE = 50
"""Entries of a tree that one reply holds."""


@dataclass(frozen=True)
class File:
    """A file of a commit: in git (`data`), or a large one, by the sha256 of its bytes."""

    size: int
    oid: str
    sha256: str | None = None
    data: bytes = b""


@dataclass
class Repo:
    private: bool
    commits: list[tuple[str, str, dict[str, File]]] = field(default_factory=list)
    """(id, message, files), the newest last"""
    tags: dict[str, str] = field(default_factory=dict)
    blobs: set[str] = field(default_factory=set)
    """Large files that were uploaded and verified."""

    @property
    def head(self) -> str:
        return self.commits[-1][0]

    def at(self, rev: str) -> tuple[str, dict[str, File]]:
        rev = unquote(rev)
        oid = self.head if rev == "main" else self.tags.get(rev, rev)
        for commit, _, files in self.commits:
            if commit == oid:
                return commit, files
        raise refuse(404, "RevisionNotFound", f"Invalid rev id: {rev}")


@dataclass
class Fault:
    route: str
    kind: int | str
    times: int = 1
    after: int = 0
    """Let so many requests of the route pass before."""


def refuse(status: int, code: str, message: str) -> web.HTTPException:
    kinds: dict[int, type[web.HTTPException]] = {
        400: web.HTTPBadRequest, 401: web.HTTPUnauthorized, 404: web.HTTPNotFound, 409: web.HTTPConflict,
        412: web.HTTPPreconditionFailed, 422: web.HTTPUnprocessableEntity,
    }  # fmt: skip
    headers = {"X-Error-Code": code, "X-Error-Message": message}
    return kinds[status](text=json.dumps({"error": message}), content_type="application/json", headers=headers)


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class StandIn:
    """The server. `url` says where; `repos`, `log` and `received` say what happened."""

    def __init__(self, root: Path, *, part_size: int | None = None, large: int = 1000, keep: bool = True):
        self.root = root
        self.part_size = part_size
        self.large = large
        """Files from so many bytes on, and all Parquet, are large ones."""
        self.keep = keep
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.log: list[tuple[str, str]] = []
        self.transfers: list[list[str]] = []
        """What each LFS batch offered to send by."""
        """(route, path) of every request"""
        self.received = 0
        """Bytes of request bodies, as they came off the wire"""
        self.token_seen_at: set[str] = set()
        """Routes that were shown the token"""
        self.on_request: Callable[[str, int], None] = lambda route, n: None
        """Called in the server's thread with the route and the number of the request."""
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait(10)

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)

        async def start() -> None:
            app = web.Application(client_max_size=1 << 30, handler_args={"auto_decompress": False})
            app.router.add_route("*", "/{tail:.*}", self._handle)
            self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await self._runner.setup()
            site = web.TCPSite(self._runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

        self._loop.run_until_complete(start())
        ready.set()
        self._loop.run_forever()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    # -------------------------------------------------------------------------------------------------- one request

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        method = "GET" if request.method == "HEAD" else request.method
        name, match = next(
            ((n, m) for n, (wanted, p) in PATTERNS.items() if wanted == method and (m := p.fullmatch(path))), ("", None)
        )
        if match is None:
            raise refuse(404, "EntryNotFound", f"no such route: {request.method} {path}")
        self.log.append((name, path))
        if request.headers.get("Authorization") is not None:
            self.token_seen_at.add(name)
        self.on_request(name, len(self.log))
        fault = self._fault(name)
        if isinstance(fault, int):
            await self._drain(request)
            headers = {"Retry-After": "1"} if fault == 429 else {}
            return web.json_response({"error": "on purpose"}, status=fault, headers=headers)
        if fault == "hang":
            await asyncio.sleep(60)
        if fault == "cut":
            return self._cut(request)
        handler: Callable[..., Awaitable[web.StreamResponse]] = getattr(self, f"_{name}")
        response = await handler(request, **{k: v for k, v in match.groupdict().items() if v is not None})
        return self._cut(request) if fault == "lost" else response

    def _fault(self, route: str) -> int | str | None:
        for fault in self.faults:
            if fault.route == route and fault.times > 0:
                if fault.after > 0:
                    fault.after -= 1
                    return None
                fault.times -= 1
                return fault.kind
        return None

    @staticmethod
    def _cut(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def _drain(self, request: web.Request) -> None:
        async for chunk in request.content.iter_any():
            self.received += len(chunk)

    async def _json(self, request: web.Request) -> Any:
        body = await request.read()
        self.received += len(body)
        return json.loads(body)

    def _writer(self, request: web.Request) -> None:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise refuse(401, "Unauthorized", "Invalid credentials")

    def _repo(self, request: web.Request, name: str) -> Repo:
        repo = self.repos.get(name)
        if repo is None or (repo.private and request.headers.get("Authorization") != f"Bearer {TOKEN}"):
            raise refuse(404, "RepoNotFound", "Repository not found")
        return repo

    # ----------------------------------------------------------------------------------------------------- metadata

    async def _whoami(self, request: web.Request) -> web.Response:
        self._writer(request)
        return web.json_response({"name": "me", "type": "user", "orgs": [{"name": "org"}], "auth": {}})

    async def _create(self, request: web.Request) -> web.Response:
        self._writer(request)
        asked = await self._json(request)
        assert asked["type"] == "dataset", asked
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if name in self.repos:
            raise refuse(409, "Conflict", "You already created this dataset repo")
        data = b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"
        first = hashlib.sha1(name.encode()).hexdigest()
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        repo = Repo(
            private, [(first, "initial commit", {".gitattributes": File(len(data), git_oid(data), None, data)})]
        )
        self.repos[name] = repo
        return web.json_response({"url": f"{self.url}/datasets/{name}", "name": name, "id": name})

    async def _validate(self, request: web.Request) -> web.Response:
        asked = await self._json(request)
        errors = [] if asked["content"].startswith("---\n") else [{"message": "no front matter"}]
        return web.json_response({"errors": errors, "warnings": []}, status=400 if errors else 200)

    async def _info(self, request: web.Request, repo: str, rev: str = "main") -> web.Response:
        found = self._repo(request, repo)
        oid, files = found.at(rev)
        siblings = [{"rfilename": path} for path in sorted(files)]
        body = {"id": repo, "sha": oid, "private": found.private, "tags": [], "downloads": 0, "likes": 0}
        return web.json_response({**body, "gated": False, "disabled": False, "siblings": siblings})

    async def _refs(self, request: web.Request, repo: str) -> web.Response:
        found = self._repo(request, repo)
        branches = [{"name": "main", "ref": "refs/heads/main", "targetCommit": found.head}]
        tags = [{"name": t, "ref": f"refs/tags/{t}", "targetCommit": oid} for t, oid in found.tags.items()]
        return web.json_response({"branches": branches, "tags": tags, "converts": []})

    @staticmethod
    def _entry(path: str, file: File) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": file.size, "oid": file.oid}
        if file.sha256:
            entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 134}
        return entry

    async def _tree(self, request: web.Request, repo: str, rev: str, path: str = "") -> web.Response:
        _, files = self._repo(request, repo).at(rev)
        below = f"{path.rstrip('/')}/" if path else ""
        inside = {p: f for p, f in files.items() if p.startswith(below)}
        if not inside:
            raise refuse(404, "EntryNotFound", f"{path} does not exist on {rev}")
        entries, folders = [], set()
        recursive = request.query.get("recursive", "false").lower() in ("true", "1")
        for name, file in sorted(inside.items()):
            parts = name.removeprefix(below).split("/")
            depth = len(parts) - 1 if recursive else min(1, len(parts) - 1)
            folders.update(below + "/".join(parts[: i + 1]) for i in range(depth))
            if recursive or len(parts) == 1:
                entries.append(self._entry(name, file))
        entries += [{"type": "directory", "path": f, "size": 0, "oid": "0" * 40} for f in sorted(folders)]
        start = int(request.query.get("cursor", 0))
        headers = {}
        if start + PAGE < len(entries):
            again = request.url.update_query(cursor=start + PAGE)
            headers["Link"] = f'<{self.url}{again.path_qs}>; rel="next"'
        return web.json_response(entries[start : start + PAGE], headers=headers)

    async def _paths(self, request: web.Request, repo: str, rev: str) -> web.Response:
        _, files = self._repo(request, repo).at(rev)
        body = await request.read()
        if request.content_type == "application/json":
            paths = json.loads(body)["paths"]
        else:
            paths = (await request.post()).getall("paths")
        return web.json_response([self._entry(p, files[p]) for p in paths if p in files])

    # ------------------------------------------------------------------------------------------------------ writing

    async def _preupload(self, request: web.Request, repo: str, rev: str) -> web.Response:
        self._writer(request)
        self._repo(request, repo).at(rev)
        files = (await self._json(request))["files"]
        assert len(files) <= 256, "at most 256 files a call"
        answer = []
        for file in files:
            base64.b64decode(file["sample"], validate=True)
            is_large = file["path"].endswith(".parquet") or file["size"] >= self.large
            mode = "lfs" if is_large else "regular"
            answer.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None})
        return web.json_response({"files": answer})

    async def _batch(self, request: web.Request, repo: str) -> web.Response:
        self._writer(request)
        asked = await self._json(request)
        assert asked["operation"] == "upload" and asked["hash_algo"] == "sha256", asked
        have = self._repo(request, repo).blobs
        self.transfers.append(asked.get("transfers", []))
        objects = []
        for one in asked["objects"]:
            answer = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in have:
                href, header = f"{self.url}/storage/{one['oid']}", {}
                if self.part_size and one["size"] > self.part_size:
                    parts = -(-one["size"] // self.part_size)
                    header = {"chunk_size": str(self.part_size)} | {str(i): f"{href}/{i}" for i in range(1, parts + 1)}
                    href += "/complete"
                verify = {"href": f"{self.url}/datasets/{repo}.git/info/lfs/verify"}
                answer["actions"] = {"upload": {"href": href, "header": header}, "verify": verify}
            objects.append(answer)
        return web.json_response({"transfer": "basic", "objects": objects})

    async def _receive(self, request: web.Request, path: Path) -> str:
        """Write a body to a file; its sha256. A body that is cut leaves nothing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        beside = path.with_suffix(f".{id(request)}.partial")
        with (beside if self.keep else Path("/dev/null")).open("wb") as sink:
            async for chunk in request.content.iter_any():
                digest.update(chunk)
                sink.write(chunk)
                size += len(chunk)
                self.received += len(chunk)
        if size != int(request.headers["Content-Length"]):
            raise refuse(400, "BadRequest", "the body was cut")
        if self.keep:
            beside.replace(path)
        return digest.hexdigest()

    def blob(self, oid: str) -> Path:
        return self.root / "lfs" / oid

    async def _put(self, request: web.Request, oid: str) -> web.Response:
        if await self._receive(request, self.blob(oid)) != oid:
            self.blob(oid).unlink(missing_ok=True)
            raise refuse(400, "BadDigest", "the bytes have another sha256")
        return web.Response(headers={"ETag": f'"{oid[:32]}"'})

    async def _part(self, request: web.Request, oid: str, part: str) -> web.Response:
        etag = await self._receive(request, self.blob(f"{oid}.{part}"))
        return web.Response(headers={"ETag": f'"{etag}"'})

    async def _complete(self, request: web.Request, oid: str) -> web.Response:
        asked = await self._json(request)
        digest = hashlib.sha256()
        with self.blob(oid).open("wb") as sink:
            for number, part in enumerate(asked["parts"], start=1):
                data = self.blob(f"{oid}.{number}").read_bytes()
                if part != {"partNumber": number, "etag": f'"{hashlib.sha256(data).hexdigest()}"'}:
                    raise refuse(400, "InvalidPart", f"part {number} is another one")
                digest.update(data)
                sink.write(data)
        if asked["oid"] != oid or digest.hexdigest() != oid:
            self.blob(oid).unlink()
            raise refuse(400, "BadDigest", "the bytes have another sha256")
        return web.json_response({})

    async def _verify(self, request: web.Request, repo: str) -> web.Response:
        self._writer(request)
        asked = await self._json(request)
        path = self.blob(asked["oid"])
        if self.keep and (not path.exists() or path.stat().st_size != asked["size"]):
            raise refuse(404, "EntryNotFound", "no such object, or of another size")
        self._repo(request, repo).blobs.add(asked["oid"])
        return web.json_response({})

    async def _commit(self, request: web.Request, repo: str, rev: str) -> web.Response:
        self._writer(request)
        found = self._repo(request, repo)
        body = await request.read()
        self.received += len(body)
        assert request.content_type == "application/x-ndjson" and rev == "main"
        lines = [json.loads(line) for line in body.splitlines() if line]
        header = lines[0]["value"]
        assert lines[0]["key"] == "header" and header["summary"], lines[0]
        if header.get("parentCommit") not in (None, found.head):
            raise refuse(412, "PreconditionFailed", "A commit has happened since. Please refresh and try again.")
        files = dict(found.commits[-1][2])
        for line in lines[1:]:
            key, value = line["key"], line["value"]
            path = value["path"]
            if key == "file":
                data = base64.b64decode(value["content"], validate=True)
                files[path] = File(len(data), git_oid(data), None, data)
            elif key == "lfsFile":
                if value["algo"] != "sha256" or value["oid"] not in found.blobs:
                    raise refuse(422, "BadRequest", f"{path}: its content was never uploaded")
                if self.keep and self.blob(value["oid"]).stat().st_size != value["size"]:
                    raise refuse(422, "BadRequest", f"{path}: another size")
                pointer = (
                    f"version https://git-lfs.github.com/spec/v1\noid sha256:{value['oid']}\nsize {value['size']}\n"
                )
                files[path] = File(value["size"], git_oid(pointer.encode()), value["oid"])
            elif key == "deletedFile":
                if path not in files:
                    raise refuse(422, "BadRequest", f"{path} is not there to be deleted")
                del files[path]
            else:
                raise refuse(400, "BadRequest", f"no such operation: {key}")
        oid = hashlib.sha1(found.head.encode() + body).hexdigest()
        found.commits.append((oid, header["summary"], files))
        url = f"{self.url}/datasets/{repo}/commit/{oid}"
        return web.json_response({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    async def _tag(self, request: web.Request, repo: str, rev: str) -> web.Response:
        self._writer(request)
        found = self._repo(request, repo)
        name = (await self._json(request))["tag"]
        if name in found.tags:
            raise refuse(409, "Conflict", "Tag reference exists already")
        found.tags[name] = found.at(rev)[0]
        return web.json_response({})

    # ------------------------------------------------------------------------------------------------------ reading

    async def _resolve(self, request: web.Request, repo: str, rev: str, path: str) -> web.StreamResponse:
        commit, files = self._repo(request, repo).at(rev)
        file = files.get(unquote(path))
        if file is None:
            raise refuse(404, "EntryNotFound", f"{path} does not exist on {rev}")
        etag = file.sha256 or file.oid
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if file.sha256:
            headers |= {"X-Linked-ETag": f'"{etag}"', "X-Linked-Size": str(file.size)}
        data = self.blob(file.sha256).read_bytes() if file.sha256 else file.data
        status, wanted = 200, request.headers.get("Range")
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first or 0), int(last) + 1 if last else len(data)
            headers["Content-Range"] = f"bytes {start}-{min(stop, len(data)) - 1}/{len(data)}"
            data, status = data[start:stop], 206
        if request.method == "HEAD":
            headers["Content-Length"] = str(len(data))
            return web.Response(status=status, headers=headers)
        return web.Response(status=status, headers=headers, body=data)


def environment(standin: StandIn, cache: Path, *, xet: bool = False) -> dict[str, str]:
    """Variables for a process whose Hub is the stand-in and whose cache is a folder of its own."""
    settings = {
        "HF_HOME": str(cache), "HF_ENDPOINT": standin.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": str(int(not xet)),
        "HF_HUB_DISABLE_TELEMETRY": "1", "WINNOW_HUB_TIMEOUT": "5",
    }  # fmt: skip
    return {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))} | settings
