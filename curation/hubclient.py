"""HTTP to the Hub, for publishing: one function that asks and asks again, and one that sends a file.

The Hub's own client gives up on a 503, 429 or 412 of some routes and waits without end on others, so the routes that
publishing needs are spoken here. A request that fails for a reason that may pass (a cut connection, no reply in time,
408, 412, 429, 5xx) is made again, later each time, or when the Hub says (`Retry-After`). Reading a published set goes
through `huggingface_hub` (curation/hub.py).

The token is shown to the Hub's own address alone, never to the storage that files are sent to; no message holds it.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from schemas.errors import DamagedError, WinnowError

BLOCK = 1 << 20
PASSING = {408, 412, 425, 429, 500, 502, 503, 504}
"""Statuses that may be gone a moment later."""
LONGEST_WAIT = 300.0


class HubError(WinnowError):
    """The Hub did not do what it was asked. `status` 0: there was no reply."""

    def __init__(self, message: str, status: int = 0, code: str = ""):
        super().__init__(message)
        self.status = status
        self.code = code

    @property
    def may_pass(self) -> bool:
        return self.status == 0 or self.status in PASSING


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would take the token along."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


@dataclass(frozen=True)
class Reply:
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body) if self.body else {}


@dataclass
class Hub:
    """One Hub, as one user."""

    endpoint: str
    token: str | None = field(default=None, repr=False)
    tries: int = 8
    """How often one request is made before the error counts."""
    first_wait: float = 1.0
    """Seconds before the second try; doubled for each further one, up to a minute, give or take a quarter."""
    timeout: float = 60.0
    """Seconds without a byte after which a request counts as failed."""
    sleep: Callable[[float], None] = time.sleep
    note: Callable[[str], None] = lambda text: None
    """Told of every try that failed."""

    def __post_init__(self) -> None:
        self.endpoint = self.endpoint.rstrip("/")
        self._opener = urllib.request.build_opener(_NoRedirects)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        lines: Sequence[Any] | None = None,
        tries: int | None = None,
    ) -> Reply:
        """The reply to a request: `body` goes as JSON, `lines` as one JSON value a line. Raises HubError."""
        url = path if path.startswith("http") else f"{self.endpoint}{path}"
        headers = {"Accept": "application/json", "User-Agent": "winnow"}
        data = None
        if lines is not None:
            data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
            headers["Content-Type"] = "application/x-ndjson"
        elif body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/vnd.git-lfs+json" if ".git/info/lfs" in url else "application/json"
        if self._own(url) and self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        return self.again(lambda: self._once(method, url, data, headers), tries)

    def again(self, attempt: Callable[[], Reply], tries: int | None = None) -> Reply:
        """Make an attempt until it succeeds, fails for good, or has failed `tries` times."""
        last = tries or self.tries
        for number in range(1, last + 1):
            try:
                return attempt()
            except _Failed as failed:
                if not failed.error.may_pass or number == last:
                    raise failed.error from None
                self.pause(number, failed.error, failed.wait)
        raise AssertionError("unreachable")

    def pause(self, number: int, error: HubError, wait: float | None = None) -> None:
        """Wait after try `number`."""
        seconds = min(self.first_wait * 2 ** (number - 1), 60.0) * random.uniform(0.75, 1.25)
        seconds = max(seconds, min(wait or 0.0, LONGEST_WAIT))
        self.note(f"{str(error).splitlines()[0]} Trying again in {seconds:.0f} s.")
        self.sleep(seconds)

    def _own(self, url: str) -> bool:
        return urlsplit(url)[:2] == urlsplit(self.endpoint)[:2]

    def _once(self, method: str, url: str, data: Any, headers: Mapping[str, str]) -> Reply:
        request = urllib.request.Request(url, data=data, headers=dict(headers), method=method)
        where = f"{method} {urlsplit(url).path}"
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                return Reply({k.lower(): v for k, v in response.headers.items()}, response.read())
        except urllib.error.HTTPError as error:
            with error:
                raise _Failed(self._refused(where, error), _retry_after(error.headers)) from None
        except DamagedError:
            raise
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            said = str(reason) or type(reason).__name__
            raise _Failed(HubError(f"{self.endpoint} did not answer {where}: {said}."), None) from None

    def _refused(self, where: str, error: urllib.error.HTTPError) -> HubError:
        code = error.headers.get("X-Error-Code", "")
        said = error.headers.get("X-Error-Message", "")
        if not said:
            try:
                said = str(json.loads(error.read(1 << 16)).get("error", ""))
            except (OSError, ValueError, AttributeError, http.client.HTTPException):
                said = ""
        message = f"The Hub answered {where} with {error.code}{f': {said}' if said else ''}."
        if error.code in (401, 403):
            message += "\nLog in with a token that may write there: `hf auth login`, or HF_TOKEN."
        elif 300 <= error.code < 400:
            message += "\nThe repo has another name now: use that one."
        return HubError(message, error.code, code)

    # ------------------------------------------------------------------------------------------------------- files

    def send(self, action: Mapping[str, Any], path: Path, sha256: str, size: int, sent: Callable[[int], None]) -> None:
        """Send a file where an LFS action says, whole or in parts. Its bytes are hashed as they go.

        `sent` is told the bytes of each block; a negative number takes back what has to be sent again. Raises
        DamagedError where the file is not what `sha256` says.
        """
        upload = action["upload"]
        header = dict(upload.get("header") or {})
        if (step := header.pop("chunk_size", None)) is None:
            self.again(lambda: self._put(upload["href"], path, 0, size, header, sent, sha256))
        else:
            urls = [url for number, url in sorted((int(k), v) for k, v in header.items() if k.isdigit())]
            if len(urls) != -(-size // int(step)):
                raise HubError(f"The Hub gave {len(urls)} addresses for the parts of {path.name}.", 422)
            parts = []
            for number, url in enumerate(urls):
                start, stop = number * int(step), min((number + 1) * int(step), size)
                reply = self.again(lambda u=url, a=start, b=stop: self._put(u, path, a, b, {}, sent, None))  # type: ignore[misc]
                parts.append({"partNumber": number + 1, "etag": reply.headers.get("etag", "")})
            self.ask("POST", upload["href"], {"oid": sha256, "parts": parts})
        if verify := action.get("verify"):
            self.ask("POST", verify["href"], {"oid": sha256, "size": size})

    def _put(
        self,
        url: str,
        path: Path,
        start: int,
        stop: int,
        headers: Mapping[str, str],
        sent: Callable[[int], None],
        sha256: str | None,
    ) -> Reply:
        count = 0
        digest = hashlib.sha256()
        block = bytearray(BLOCK)

        def blocks() -> Iterator[memoryview]:
            nonlocal count
            with path.open("rb", buffering=0) as file:
                file.seek(start)
                while count < stop - start:
                    view = memoryview(block)[: min(BLOCK, stop - start - count)]
                    read = file.readinto(view)
                    if not read:
                        raise DamagedError(f"{path} became shorter while it was sent.")
                    count += read
                    if sha256 is not None:
                        digest.update(view[:read])
                        if start + count == stop and digest.hexdigest() != sha256:
                            raise DamagedError(
                                f"{path} has other bytes than were written (sha256 differs). Nothing was published.\n"
                                "`winnow fsck` names what is damaged."
                            )
                    yield view[:read]
                    sent(read)

        length = {"Content-Length": str(stop - start), "Content-Type": "application/octet-stream"}
        try:
            return self._once("PUT", url, blocks(), {**length, **headers})
        except _Failed:
            sent(-count)
            raise


class _Failed(Exception):
    """One failed try."""

    def __init__(self, error: HubError, wait: float | None):
        super().__init__(str(error))
        self.error = error
        self.wait = wait


def _retry_after(headers: Any) -> float | None:
    """Seconds that the server asks to wait. RFC 9110, 10.2.3; a date counts as a minute."""
    value = headers.get("Retry-After")
    if value is None:
        return None
    return float(value) if value.strip().isdigit() else 60.0


# ----------------------------------------------------------------------------------------------------------- a dataset


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repo: `sha256` of large ones, else the git blob id alone."""

    size: int
    oid: str
    sha256: str | None


@dataclass(frozen=True)
class Dataset:
    """A dataset repo."""

    hub: Hub
    repo: str

    @property
    def _api(self) -> str:
        return f"/api/datasets/{self.repo}"

    def info(self) -> Mapping[str, Any] | None:
        """sha (the head of main), private, …; None where there is no such repo, or none that the token may see."""
        try:
            found: Mapping[str, Any] = self.hub.ask("GET", f"{self._api}/revision/main").json()
        except HubError as error:
            if error.status == 404 and error.code in ("RepoNotFound", ""):
                return None
            if error.status == 401 and error.code == "RepoNotFound":  # the Hub's word to strangers
                return None
            raise
        return found

    def create(self, private: bool) -> None:
        """Make the repo; that it exists is no error."""
        organization, _, name = self.repo.partition("/")
        body = {"name": name, "organization": organization, "type": "dataset"}
        body["visibility"] = "private" if private else "public"
        try:
            self.hub.ask("POST", "/api/repos/create", body)
        except HubError as error:
            if error.status != 409:
                raise

    def tree(self, revision: str) -> dict[str, RemoteFile]:
        """All files of a revision."""
        files: dict[str, RemoteFile] = {}
        url: str | None = f"{self._api}/tree/{quote(revision, safe='')}?recursive=true&expand=false"
        while url:
            reply = self.hub.ask("GET", url)
            for entry in reply.json():
                if entry["type"] == "file":
                    sha256 = entry["lfs"]["oid"].removeprefix("sha256:") if entry.get("lfs") else None
                    files[entry["path"]] = RemoteFile(entry["size"], entry["oid"], sha256)
            url = _next(reply.headers.get("link", ""))
        return files

    def read(self, revision: str, path: str) -> bytes:
        """A small file."""
        return self.hub.ask("GET", f"/datasets/{self.repo}/resolve/{quote(revision, safe='')}/{quote(path)}").body

    def tags(self) -> dict[str, str]:
        """tag -> commit"""
        refs = self.hub.ask("GET", f"{self._api}/refs").json()
        return {tag["name"]: tag["targetCommit"] for tag in refs["tags"]}

    def tag(self, name: str, commit: str, message: str) -> None:
        """Give a commit a tag; that it has it already is no error."""
        try:
            self.hub.ask("POST", f"{self._api}/tag/{commit}", {"tag": name, "message": message})
        except HubError as error:
            if error.status != 409 or self.tags().get(name) != commit:
                raise

    def modes(self, files: Sequence[tuple[str, int, bytes]]) -> dict[str, str]:
        """path -> `lfs` or `regular`, of files given as (path, size, first 512 bytes)."""
        import base64

        found: dict[str, str] = {}
        for start in range(0, len(files), 256):
            asked = [
                {"path": path, "size": size, "sample": base64.b64encode(sample).decode()}
                for path, size, sample in files[start : start + 256]
            ]
            for file in self.hub.ask("POST", f"{self._api}/preupload/main", {"files": asked}).json()["files"]:
                if file.get("shouldIgnore"):
                    raise HubError(f"The .gitignore of {self.repo} hides {file['path']}. Remove it there first.", 422)
                found[file["path"]] = file["uploadMode"]
        return found

    def wanted(self, blobs: Sequence[tuple[str, int]]) -> dict[str, Mapping[str, Any]]:
        """sha256 -> how to send it, of those among (sha256, size) that the Hub does not have."""
        body = {"operation": "upload", "transfers": ["basic", "multipart"], "hash_algo": "sha256"}
        body_objects = [{"oid": sha256, "size": size} for sha256, size in blobs]
        url = f"/datasets/{self.repo}.git/info/lfs/objects/batch"
        found: dict[str, Mapping[str, Any]] = {}
        for one in self.hub.ask("POST", url, {**body, "objects": body_objects}).json()["objects"]:
            if "error" in one:
                raise HubError(f"The Hub refuses a file: {one['error'].get('message')}.", one["error"].get("code", 422))
            if one.get("actions"):
                found[one["oid"]] = one["actions"]
        return found

    def commit(self, operations: Sequence[Mapping[str, Any]], parent: str, message: str) -> str:
        """Make one commit on main; its id. One try: whoever calls looks first what became of it."""
        header = {"key": "header", "value": {"summary": message, "description": "", "parentCommit": parent}}
        reply = self.hub.ask("POST", f"{self._api}/commit/main", lines=[header, *operations], tries=1)
        return str(reply.json()["commitOid"])

    def validate_card(self, text: str) -> list[str]:
        """What the Hub says is wrong with a card's front matter."""
        try:
            answer = self.hub.ask("POST", "/api/validate-yaml", {"repoType": "dataset", "content": text}).json()
        except HubError as error:
            if error.status == 400:
                return [str(error)]
            raise
        return [str(problem.get("message", problem)) for problem in answer.get("errors", ())]


def _next(link: str) -> str | None:
    """The address of the next page. RFC 8288."""
    for part in link.split(","):
        address, _, relation = part.partition(";")
        if 'rel="next"' in relation:
            return address.strip().strip("<>")
    return None
