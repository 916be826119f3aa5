"""What others read: `datasets`, polars and DuckDB open what the exports write, without options."""

from __future__ import annotations

import pytest

from curation import exports
from curation.exports import parquet


@pytest.fixture
def written(tmp_path, pictures, make):
    """write(kind, **options) -> folder of a version's config, with one shard in each of two splits."""
    names = [pictures.put(make.picture(i, kind="PNG" if i % 2 else "JPEG")) for i in range(4)]
    records = [
        {
            "question": f"What is {i}?" + (" <image>" if i % 2 else ""),
            "images": [names[i % 4]] if i % 2 else [],
            "answer": str(i),
        }
        for i in range(10)
    ]
    rows = make.rows(records, split=["train"] * 8 + ["test"] * 2)
    traces = make.traces(rows, [[f"It is {i}.", "No idea."] for i in range(10)])
    verdicts = make.verdicts(traces, ["correct", "incorrect"] * 10)

    def write(kind, **options):
        export = exports.load()[kind]
        config = export.settle(export.config.model_validate({"export": kind, **options}), True)
        table = export.build(config, rows, traces, verdicts).table
        folder = tmp_path / kind
        folder.mkdir()
        for split in ("train", "test"):
            part = _of(table, split)
            features = export.features(config, part.schema)
            parquet.write_shard(
                folder / f"{split}-00000-of-00001.parquet",
                part.select(list(features)),
                image_columns=export.images(config),
                linked=export.linked(config),
                read_images=pictures.read,
                features=features,
            )
        return folder

    return write


def _of(table, split):
    import pyarrow.compute as pc

    return table.filter(pc.equal(table["split"], split)).drop_columns(["split"])


@pytest.fixture
def load(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return lambda folder, **options: datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"), **options)


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_decodes_pictures(written, load, streaming):
    from PIL.Image import Image

    sets = load(written("sft"), streaming=streaming)
    assert set(sets) == {"train", "test"}
    examples = list(sets["train"])
    assert len(examples) == 8
    assert [len(e["images"]) for e in examples] == [0, 1] * 4
    assert all(isinstance(picture, Image) for e in examples for picture in e["images"])
    assert examples[1]["images"][0].size == (40, 30)
    marks = [sum(p["type"] == "image" for p in e["messages"][0]["content"]) for e in examples]
    assert marks == [0, 1] * 4
    if not streaming:
        assert str(sets["train"].features["images"]) == "List(Image(mode=None, decode=True))"


def test_datasets_reads_the_rl_layout(written, load):
    example = load(written("rl"))["train"][1]
    assert example["prompt"] == [{"role": "user", "content": "What is 1? <image>"}]
    assert example["reward_model"] == {"ground_truth": "1", "style": "rule"}
    assert example["images"][0].size == (40, 30)


def test_the_openai_layout_has_its_pictures_beside(written, load):
    folder = written("sft", layout="openai")
    example = load(folder, data_files="train-*.parquet")["train"][1]
    part = example["messages"][0]["content"][1]
    assert part["type"] == "image_url"
    assert (folder / part["image_url"]["url"]).is_file()


def test_polars_and_duckdb_read_it(written):
    import duckdb
    import polars as pl

    folder = written("sft")
    frame = pl.read_parquet(folder / "train-*.parquet")
    assert frame["images"].list.len().to_list() == [0, 1] * 4
    picture = frame["images"][1][0]
    assert picture["bytes"][:2] == b"\x89P"
    counts = duckdb.sql(f"select count(*), sum(len(images)) from read_parquet('{folder}/train-*.parquet')").fetchall()
    assert counts == [(8, 4)]


def test_features_by_hand_are_those_of_datasets():
    datasets = pytest.importorskip("datasets")
    import pyarrow as pa

    from curation.exports.features import features_of

    schema = pa.schema(
        [
            ("text", pa.string()),
            ("number", pa.int64()),
            ("small", pa.int32()),
            ("rate", pa.float64()),
            ("yes", pa.bool_()),
            ("list", pa.list_(pa.string())),
            (
                "messages",
                pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(pa.struct([("type", pa.string())])))])),
            ),
            ("info", pa.struct([("index", pa.int64()), ("names", pa.list_(pa.string()))])),
        ]
    )
    assert features_of(schema) == datasets.Features.from_arrow_schema(schema).to_dict()
