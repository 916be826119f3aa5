"""The example in docs/exports.md is a working export."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq

from curation import exports
from curation.exports import parquet

DOCS = Path(__file__).parents[2] / "docs" / "exports.md"


def test_the_export_of_the_docs_works(tmp_path, make, monkeypatch):
    monkeypatch.setattr(exports.base, "REGISTRY", exports.REGISTRY.copy())
    monkeypatch.setattr(exports, "REGISTRY", exports.base.REGISTRY)
    (code,) = re.findall(r"```python\n(# pairs\.py\n.*?)```", DOCS.read_text(encoding="utf-8"), re.S)
    exec(compile(code, "pairs.py", "exec", dont_inherit=True), {"__name__": "pairs"})
    pairs = exports.REGISTRY["pairs"]
    config = pairs.config()
    rows = make.rows([{"question": "q", "answer": "1"}], split=["train"])
    table = pairs.build(config, rows, None, None).table.drop_columns(["split"])
    features = pairs.features(config, table.schema)
    parquet.write_shard(tmp_path / "x.parquet", table.select(list(features)), features=features)
    assert pq.read_table(tmp_path / "x.parquet").to_pylist() == [{"row_id": "0" * 20, "text": "q", "label": "1"}]


def test_every_option_is_in_the_docs():
    text = DOCS.read_text(encoding="utf-8")
    for export in exports.load().values():
        for name in set(export.config.model_fields) - {"export"}:
            assert f"`{name}`" in text, f"{export.kind}: {name}"
