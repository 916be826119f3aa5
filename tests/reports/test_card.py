"""The dataset card: what the Hub and `datasets` read of it, that its tables are the report's, and that data cannot shape it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from curation import reporting
from curation.card import ask, card, write_card
from curation.licenses import front_matter, hub_id
from curation.versions import Version
from reports.markdown import table
from tests.reports.conftest import HOSTILE


def made(version: Version) -> str:
    return card(version.manifest, ask(version.path, version.manifest))


@pytest.fixture(scope="module")
def text(small: Version) -> str:
    return made(small)


def test_its_front_matter_is_what_the_hub_and_datasets_read(text: str, tmp_path: Path) -> None:
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard, metadata_load

    (tmp_path / "README.md").write_text(text)
    read = DatasetCard.load(tmp_path / "README.md")
    said = read.data.to_dict()
    assert said == metadata_load(tmp_path / "README.md") == yaml.safe_load(text.split("---\n")[1])
    assert said["license"] == "mit" and said["pretty_name"] == "small"
    assert said["language"] == ["en", "fr"]
    assert said["task_categories"] == [
        "question-answering",
        "visual-question-answering",
        "text-generation",
        "image-text-to-text",
    ]
    assert said["size_categories"] == ["n<1K"] and said["tags"] == ["winnow", "reasoning", "synthetic"]
    configs = MetadataConfigs.from_dataset_card_data(read.data)
    assert configs.get_default_config_name() == "sft"
    assert configs["sft"]["data_files"] == [{"split": "train", "path": "data/sft/train-*.parquet"}]
    assert read.text.lstrip().startswith("# small")


def test_its_tables_are_those_of_the_report(small: Version, text: str) -> None:
    answers = {a.question.name: a for a in reporting.answers(small).answers}
    for name in (
        "composition",
        "fates",
        "examples",
        "languages",
        "licenses",
        "yield_by_source",
        "planted",
        "benchmarks",
    ):
        assert f"### {answers[name].question.title}\n" in text
        assert table(answers[name]) in text
    assert text.index("## What is in it") < text.index("## Where rows went") < text.index("## How it was built")
    assert "| a | 5 | 3 | 60 % | 60 % | MIT (3) |" in text
    assert "| filter | 9 | 8 | 1 | 10 % |\n" in text
    assert (
        "5 of 10 rows from 2 sources are in the data, as training examples: 4 in `sft`. 8 traces were made, 50 % of"
        in text
    )
    assert "Of 9 texts that are no copies it took 0 for leaks." in text


def test_it_says_what_not_to_take_for_granted(small: Version, text: str) -> None:
    limits = text[text.index("## Known limits") : text.index("## Citation")]
    assert "fewer than all: reworded 80 %." in limits
    assert (
        "Verdicts of a judge, because rules left them open: 1." in limits and "Its reasoning was not checked" in limits
    )
    assert "the checker doubt (`label_problem` in `decisions/`): 1." in limits
    assert "Rows under CC-BY-NC-4.0: 1 (not for commercial use" in limits
    assert "and are not in the data: 1." in limits
    assert "The recipe expects 8 as sources.b; this build has 5." in limits and "as kept" not in limits
    manifest = {**small.manifest, "limit": 50, "stages": []}
    bare = made(Version(small.path, manifest))
    for said in ("no more than the first 50 rows", "Nobody looked for duplicates", "held against no benchmark"):
        assert said in bare and said not in text


def test_data_cannot_shape_it(hostile: Version, tmp_path: Path) -> None:
    """Every text of the version holds scripts, pipes, lone surrogates and Markdown."""
    manifest = dict(hostile.manifest)
    manifest["recipe"] = json.dumps({"name": "hostile ``` ````\n```\n# Not a heading"})
    shutil.copytree(hostile.path, tmp_path / "v")
    write_card(tmp_path / "v", manifest)
    text = (tmp_path / "v" / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["pretty_name"] == "hostile" and head["license"] == "mit"
    body = text.split("## Where rows went")[1].split("## How it was built")[0]
    assert HOSTILE[:8] not in body and "&lt;script&gt;" in body and "Not answered" not in text
    for block in re.findall(r"(?:^\|.*\n)+", body, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    fence = re.search(r"^(`+)yaml\n", text, re.MULTILINE)
    assert fence is not None and len(fence[1]) == 5 and text.count(f"\n{fence[1]}\n") == 1


def test_licences_are_stated_as_the_hub_names_them() -> None:
    assert {name: hub_id(name) for name in ("MIT", "Apache 2.0", "Apache License 2.0", "CC BY-SA 4.0", "GPL-3.0-only", "CC0", "unknown")} == {
        "MIT": "mit", "Apache 2.0": "apache-2.0", "Apache License 2.0": "apache-2.0", "CC BY-SA 4.0": "cc-by-sa-4.0",
        "GPL-3.0-only": "gpl-3.0", "CC0": "cc0-1.0", "unknown": "unknown",
    }  # fmt: skip
    assert front_matter(["MIT", "mit"]) == {"license": "mit"}
    assert front_matter(["MIT", "CC-BY-4.0"]) == {"license": ["cc-by-4.0", "mit"]}
    assert front_matter(["My own, v1"]) == {
        "license": "other", "license_name": "my-own-v1", "license_details": "My own, v1",
    }  # fmt: skip
    assert front_matter(["MIT", "My own"])["license_name"] == "mixed"
