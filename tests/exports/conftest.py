"""Rows, traces and pictures to export."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from types import SimpleNamespace

import pyarrow as pa
import pytest
from PIL import Image

from schemas.rows import ROW, TRACE
from schemas.verdicts import VERDICT_SCHEMA


def make_rows(records: Sequence[dict], **more: Sequence) -> pa.Table:
    """Canonical rows with ids 000…, 001… in order; further columns by keyword."""
    filled = [
        {"row_id": f"{i:03x}" + "0" * 17, "content_id": f"{i:020x}", "origin_key": str(i), "source": "made", **record}
        for i, record in enumerate(records)
    ]
    table = pa.Table.from_pylist(filled, schema=ROW)
    for name, values in more.items():
        table = table.append_column(name, pa.array(values))
    return table


def make_traces(rows: pa.Table, texts: Sequence[Sequence[str | None]], finish: str = "finished") -> pa.Table:
    """One trace per text; None is a failed one."""
    records = [
        {"row_id": row_id, "k": k, "attempt": 0, "text": text, "finish": finish if text is not None else "failed"}
        for row_id, of_row in zip(rows["row_id"].to_pylist(), texts, strict=True)
        for k, text in enumerate(of_row)
    ]
    return pa.Table.from_pylist(records, schema=TRACE)


def make_verdicts(traces: pa.Table, states: Sequence[str]) -> pa.Table:
    schema = pa.schema([("row_id", pa.string()), ("k", pa.int32()), *VERDICT_SCHEMA])
    filled = {"method": "text", "rule": "tag", "evidence": "{}", "seconds": 0.0}
    pairs = zip(traces.select(["row_id", "k"]).to_pylist(), states, strict=True)
    return pa.Table.from_pylist([{**pair, "state": state, **filled} for pair, state in pairs], schema=schema)


def picture(seed: int, size: tuple[int, int] = (40, 30), kind: str = "PNG") -> bytes:
    """A small picture, other for each seed."""
    image = Image.new("RGB", size, (seed * 37 % 256, seed * 91 % 256, seed * 53 % 256))
    image.putpixel((seed % size[0], seed % size[1]), (255, 255, 255))
    sink = io.BytesIO()
    image.save(sink, kind)
    return sink.getvalue()


class Pictures(dict[str, bytes]):
    """An image store in a dict; `asked` counts how often each hash was read."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def put(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()
        self[name] = data
        return name

    def read(self, hashes: Sequence[str]) -> dict[str, bytes]:
        self.asked += hashes
        return {name: self[name] for name in hashes if name in self}


@pytest.fixture
def make() -> SimpleNamespace:
    """make.rows, make.traces, make.verdicts, make.picture"""
    return SimpleNamespace(rows=make_rows, traces=make_traces, verdicts=make_verdicts, picture=picture)


@pytest.fixture
def pictures() -> Pictures:
    return Pictures()
