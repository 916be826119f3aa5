"""Other programs read what is handed to them: the real library, where it is here."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image

from curation import build
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


def lmms_engine(place: Path) -> list[list[tuple[str, list[tuple[str, object]]]]]:
    """What lmms-engine's vision dataset makes of a `dataset_path` in `dataset_format: yaml`, by its documented layout: each
    listed file becomes an Arrow dataset; a turn is a list of parts, text or `image_url`; pictures lie below `data_folder`."""
    import datasets
    import yaml

    found = []
    for listed in yaml.safe_load(place.read_text())["datasets"]:
        assert listed["data_type"] == "jsonl"
        lines = [json.loads(line) for line in Path(listed["path"]).read_text().splitlines()]
        for example in datasets.Dataset.from_list(lines):  # so a part has the keys of all parts, most of them null
            turns = []
            for message in example["messages"]:
                parts = []
                for part in message["content"]:
                    if part["type"] == "image_url":
                        parts.append(("image", Image.open(Path(listed["data_folder"]) / part["image_url"]["url"])))
                    elif part["type"] == "text":
                        parts.append(("text", part["text"]))
                    else:
                        raise TypeError(part["type"])
                turns.append((message["role"], parts))
            found.append(turns)
    return found


def test_lmms_engine_layout(built, tmp_path):
    done = hand_over(built.first, "lmms-engine", tmp_path / "out")
    found = lmms_engine(tmp_path / "out" / "train.yaml")
    rows = list(built.first.dataset("sft", "train"))
    assert len(found) == len(rows) == done.examples["train"]
    pictured = 0
    for turns, row in zip(found, rows, strict=True):
        assert [role for role, _ in turns] == [message["role"] for message in row["messages"]]
        wanted = iter(row["images"])
        for (_, parts), message in zip(turns, row["messages"], strict=True):
            assert [kind for kind, _ in parts] == [part["type"] for part in message["content"]]
            for (kind, value), part in zip(parts, message["content"], strict=True):
                if kind == "text":
                    assert value == part["text"]
                else:
                    assert value.tobytes() == next(wanted).tobytes()
                    pictured += 1
    assert pictured > 50
    ids = [json.loads(line)["id"] for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()]
    assert len(set(ids)) == len(ids)


def test_lmms_engine_reads_the_openai_layout_as_it_is(built, tmp_path):
    """OpenMMReasoner's published form: links to pictures beside the shard, which the engine joins to `data_folder`."""
    import datasets
    import yaml

    recipe = yaml.safe_load((built.folder / "recipe.yaml").read_text())
    recipe |= {"name": "engine", "outputs": [{"export": "sft", "layout": "openai"}]}
    (built.folder / "engine.yaml").write_text(yaml.safe_dump(recipe))
    version = build(built.folder / "engine.yaml", workspace=built.workspace, workers=1)
    shards = [Path(file) for file in version.files("data/sft")]
    loaded = datasets.concatenate_datasets(
        [datasets.Dataset.from_parquet(str(shard), cache_dir=str(tmp_path)) for shard in shards]
    )
    links = [
        p["image_url"]["url"]
        for one in loaded
        for m in one["messages"]
        for p in m["content"]
        if p["type"] == "image_url"
    ]
    assert len(loaded) == version.manifest["splits"]["sft"]["train"] and len(links) > 50
    assert all(Image.open(shards[0].parent / link).size == (64, 64) for link in links)
    with pytest.raises(WinnowError, match="reads it as it is"):
        hand_over(version, "lmms-engine", tmp_path / "out")


def test_what_cannot_be_handed_over(built, tmp_path):
    with pytest.raises(WinnowError, match="no layout"):
        hand_over(built.first, "csv", tmp_path / "x")
    with pytest.raises(WinnowError, match="needs conversations"):
        hand_over(built.first, "llamafactory", tmp_path / "y", config="rows")
    with pytest.raises(WinnowError, match="files already"):
        hand_over(built.first, "webdataset", tmp_path / "y")
