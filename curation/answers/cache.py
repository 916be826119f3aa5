"""Verdicts of the expensive layers, kept across runs: (gold, answer, policy) -> what symbolic work or a judge said.

One SQLite file in the workspace, safe for many processes. Only answers are kept: a time-out or an outage says
something about a machine, not about the pair, and is asked again. The cheap layers need no file; they are remembered
in memory by `functools.lru_cache`. A file that cannot be opened or written (a full disk, a lock held too long) never
stops a check: what it would have held is worked out again.

A `durable` one is a record of what was paid for: what `put` has taken survives a power cut, and a record that cannot be
read or written is an error, since a build must not ask again for what it has.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from schemas.errors import WinnowError


class VerdictCache:
    """A persistent map from keys to small JSON values. Use one per process and path; threads may share it."""

    def __init__(self, path: Path | str, *, durable: bool = False) -> None:
        self.path, self.durable = Path(path), durable
        self._local = threading.local()

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=30, isolation_level=None)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA synchronous={'FULL' if self.durable else 'NORMAL'}")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS verdicts (key BLOB PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"
            )
            self._local.connection = connection
        return connection

    @staticmethod
    def key(*parts: str) -> bytes:
        """A digest of the parts, each with its length, so that no two lists of parts collide."""
        digest = hashlib.blake2b(digest_size=24)
        for part in parts:
            raw = part.encode("utf-8", "surrogatepass")
            digest.update(len(raw).to_bytes(8, "big"))
            digest.update(raw)
        return digest.digest()

    def get(self, key: bytes) -> Any | None:
        """The value, or None."""
        with self._mishap():
            row = self._connection().execute("SELECT value FROM verdicts WHERE key = ?", (key,)).fetchone()
            return json.loads(row[0]) if row else None
        return None

    def put(self, key: bytes, value: Any) -> Any:
        """Keep a value, and return the one that is kept: the first writer of a key wins."""
        text = json.dumps(value, ensure_ascii=False, sort_keys=True)
        with self._mishap():
            done = self._connection().execute("INSERT OR IGNORE INTO verdicts VALUES (?, ?)", (key, text))
            return value if done.rowcount else self.get(key)
        return value

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Any]:
        """The values of those that are there."""
        found: dict[bytes, Any] = {}
        with self._mishap():
            for start in range(0, len(keys), 500):
                some = keys[start : start + 500]
                marks = ",".join("?" * len(some))
                rows = self._connection().execute(f"SELECT key, value FROM verdicts WHERE key IN ({marks})", some)
                found.update((bytes(key), json.loads(text)) for key, text in rows)
        return found

    def put_many(self, values: Mapping[bytes, Any]) -> None:
        """Keep several at once, all or none. The first writer of a key wins."""
        if values:
            lines = [(key, json.dumps(value, ensure_ascii=False, sort_keys=True)) for key, value in values.items()]
            with self._mishap():
                connection = self._connection()
                connection.execute("BEGIN IMMEDIATE")
                with connection:  # commits, or rolls back
                    connection.executemany("INSERT OR IGNORE INTO verdicts VALUES (?, ?)", lines)

    @contextlib.contextmanager
    def _mishap(self) -> Iterator[None]:
        """What happens where the file can't be used: nothing, or an error where it is a record."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if self.durable:
                raise WinnowError(
                    f"What was asked and answered cannot be kept in {self.path}: {error}\n"
                    "Make room there or see to its permissions; what was answered before is not asked again."
                ) from error

    def __len__(self) -> int:
        return int(self._connection().execute("SELECT count(*) FROM verdicts").fetchone()[0])
