"""Datasets of the Hub: fetched by the real client from a small server here, then read without any network."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
README = """---
configs:
- config_name: easy
  data_files:
  - split: train
    path: easy/train-*.parquet
  - split: test
    path: easy/test.parquet
- config_name: hard
  data_files: hard/*.parquet
---
# Sums
"""

READ = """
import json, sys
from pathlib import Path
from curation.sources import map_records, open_source
from schemas.errors import SourceError
from schemas.recipe import Source
from curation.images import ImageWriter

source, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
config = Source.model_validate({"name": "s", **source})
try:
    reader = open_source(config, recipe_dir=folder, workspace=folder / "ws")
    questions, labels = [], set()
    with ImageWriter(folder / "ws") as writer:
        for part in reader.parts():
            for raw in reader.read(part):
                questions += map_records(config, raw, writer, reader.image_root).table["question"].to_pylist()
                labels.add(raw.file)
    print(json.dumps([questions, sorted(labels), len(reader.inputs())]))
except SourceError as error:
    print(json.dumps(str(error)))
"""


def handler(root: Path) -> type[BaseHTTPRequestHandler]:
    """The few routes by which the client reads one public dataset."""
    files = {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            return

        def reply(self, code: int, body: bytes, **headers: str) -> None:
            self.send_response(code)
            for key, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def entry(self, path: str) -> dict[str, object]:
            data = files[path]
            return {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0])
            if path.startswith("/api/datasets/org/sums/tree/"):
                below = path.removeprefix("/api/datasets/org/sums/tree/").partition("/")[2]
                inside = [f for f in files if f.startswith(f"{below}/" if below else "")]
                folders = {f.rpartition("/")[0] for f in inside} - {"", below}
                entries = [self.entry(f) for f in inside]
                entries += [{"type": "directory", "path": f, "size": 0, "oid": "0" * 40} for f in sorted(folders)]
                code = 200 if entries else 404
                self.reply(code, json.dumps(entries).encode(), Content_Type="application/json")
            elif path.startswith("/api/datasets/org/sums"):
                info = {"id": "org/sums", "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "likes": 0}
                info["siblings"] = [{"rfilename": f} for f in files]
                self.reply(200, json.dumps(info).encode(), Content_Type="application/json")
            elif path.startswith("/datasets/org/sums/resolve/"):
                name = path.removeprefix("/datasets/org/sums/resolve/").partition("/")[2]
                if name in files:
                    self.reply(200, files[name], ETag=f'"{hashlib.sha1(files[name]).hexdigest()}"')
                else:
                    self.reply(404, b"", X_Error_Code="EntryNotFound")
            else:
                self.reply(404, b"", X_Error_Code="RepoNotFound")

        do_HEAD = do_GET

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
            if "/paths-info/" in self.path:
                found = [self.entry(path) for path in body.get("paths", []) if path in files]
                self.reply(200, json.dumps(found).encode(), Content_Type="application/json")
            else:
                self.reply(404, b"")

    return Handler


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """(address of a server with the dataset org/sums, a folder for the client's cache)."""
    root = tmp_path_factory.mktemp("repo")
    (root / "README.md").write_text(README)
    for name, rows in {"easy/train-0": 3, "easy/train-1": 2, "easy/test": 1, "hard/all": 4}.items():
        (root / name).parent.mkdir(exist_ok=True)
        table = pa.table({"question": [f"{name} {i}" for i in range(rows)], "unused": ["x"] * rows})
        pq.write_table(table, root / f"{name}.parquet")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(root))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", tmp_path_factory.mktemp("hub")
    server.shutdown()


def read(source: dict[str, str], cache: Path, folder: Path, endpoint: str | None) -> object:
    """Read a source in a process of its own: the client looks at its environment once, when it is imported."""
    settings = {"HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    settings |= {"HF_ENDPOINT": endpoint} if endpoint else {"HF_HUB_OFFLINE": "1"}
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))} | settings
    command = [sys.executable, "-c", READ, json.dumps(source), str(folder)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_fetched_once_then_read_without_a_network(hub: tuple[str, Path], tmp_path: Path) -> None:
    address, cache = hub
    source = {"hub": "org/sums", "config": "easy", "split": "train"}
    questions = [*(f"easy/train-0 {i}" for i in range(3)), *(f"easy/train-1 {i}" for i in range(2))]
    labels = ["org/sums/easy/train/train-0.parquet", "org/sums/easy/train/train-1.parquet"]
    assert read(source, cache, tmp_path, address) == [questions, labels, 2]
    fetched = {path.name for path in cache.rglob("*.parquet")}
    assert fetched == {"train-0.parquet", "train-1.parquet"}
    assert read(source, cache, tmp_path, None) == [questions, labels, 2]
    next(cache.rglob("train-1.parquet")).unlink()
    assert "is not (wholly) in the cache" in str(read(source, cache, tmp_path, None))
    assert read(source, cache, tmp_path, address) == [questions, labels, 2]


def test_what_is_not_there_is_named(hub: tuple[str, Path], tmp_path: Path) -> None:
    address, cache = hub
    said = read({"hub": "org/sums", "config": "easy"}, cache, tmp_path, address)
    assert "has the splits train, test; say which with `split`" in str(said)
    said = read({"hub": "org/sums", "config": "easy", "split": "dev"}, cache, tmp_path, address)
    assert "has no split 'dev'; it has train, test" in str(said)
    said = read({"hub": "org/sums@v2", "config": "easy"}, tmp_path / "empty", tmp_path, None)
    assert "hf download org/sums --repo-type dataset --revision v2" in str(said)
