"""Other programs read what is handed to them: the real library, where it is here."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image

from curation.handover import hand_over
from schemas.errors import WinnowError


def test_webdataset_reads_the_tars(built, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    done = hand_over(built.first, "webdataset", tmp_path / "a", tar_bytes=200_000)
    tars = [str(tmp_path / "a" / name) for name in done.files]
    assert len(tars) > 1
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode("pil"))
    assert len(samples) == done.examples["train"] == built.first.manifest["counts"]["examples"]["sft"]
    pictured = [sample for sample in samples if "0.jpg" in sample]
    assert pictured and all(sample["0.jpg"].size == (64, 64) for sample in pictured)
    assert all(sample["json"]["messages"][-1]["role"] == "assistant" for sample in samples)
    assert len({sample["__key__"] for sample in samples}) == len(samples)
    again = hand_over(built.first, "webdataset", tmp_path / "b", tar_bytes=200_000)
    for name in again.files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_datasets_reads_the_tars(built, tmp_path):
    import datasets

    done = hand_over(built.first, "webdataset", tmp_path / "out", config="rows")
    files = [str(tmp_path / "out" / name) for name in done.files]
    stream = datasets.load_dataset("webdataset", data_files={"train": files}, split="train", streaming=True)
    assert {one["json"]["row_id"] for one in stream} == set(built.first.rows()["row_id"].to_list())


def test_llamafactory_layout(built, tmp_path):
    """As its documentation of dataset_info.json has it: paths beside it, a mark for each picture, roles by tag."""
    done = hand_over(built.first, "llamafactory", tmp_path / "out")
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())
    (entry,) = info.values()
    assert list(info) == ["shown_train"] and entry["formatting"] == "sharegpt"
    lines = [json.loads(line) for line in (tmp_path / "out" / entry["file_name"]).read_text().splitlines()]
    assert len(lines) == done.examples["train"]
    tags = entry["tags"]
    for line in lines:
        turns = line[entry["columns"]["messages"]]
        roles = [turn[tags["role_tag"]] for turn in turns]
        assert roles == [tags["user_tag"], tags["assistant_tag"]]
        images = line[entry["columns"]["images"]]
        assert sum(turn[tags["content_tag"]].count("<image>") for turn in turns) == len(images)
        for name in images:
            path = tmp_path / "out" / name
            assert Image.open(path).size == (64, 64)
            assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(Path(name).stem)


def test_what_cannot_be_handed_over(built, tmp_path):
    with pytest.raises(WinnowError, match="no layout"):
        hand_over(built.first, "csv", tmp_path / "x")
    with pytest.raises(WinnowError, match="needs conversations"):
        hand_over(built.first, "llamafactory", tmp_path / "y", config="rows")
    with pytest.raises(WinnowError, match="files already"):
        hand_over(built.first, "webdataset", tmp_path / "y")
