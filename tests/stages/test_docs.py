"""docs/stages.md: every example is a valid config, every option and name is documented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from curation import stages
from curation.similarity.benchmarks import NAMED
from curation.text import answers, boilerplate, clean

TEXT = (Path(__file__).parents[2] / "docs" / "stages.md").read_text()
EXAMPLES = [
    entry
    for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    for entry in (yaml.safe_load(block) if block.startswith("-") else [])
]
KINDS = (
    "normalize", "filter", "sql", "dedup", "decontaminate", "difficulty", "perplexity", "diversity", "split", "mix",
)  # fmt: skip


def test_examples_are_valid() -> None:
    assert {example["stage"] for example in EXAMPLES} == set(KINDS)
    for example in EXAMPLES:
        stages.load()[example["stage"]].config.model_validate(example)


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_is_documented(kind: str) -> None:
    section = TEXT.split(f"\n## {kind}\n")[1].split("\n## ")[0]
    options = set(stages.load()[kind].config.model_fields) - {"stage", "name", "enabled"}
    assert {name for name in options if not any(f"`{name}{end}" in section for end in ("`", ": ", "."))} == set()


def test_names_of_instructions_forms_and_steps_are_documented() -> None:
    names = [*boilerplate.NAMES, *answers.FORMS, *clean.STEPS]
    assert [name for name in names if f"| `{name}` |" not in TEXT] == []


@pytest.mark.parametrize("kind", ["normalize", "dedup"])
def test_defaults_are_as_documented(kind: str) -> None:
    config = stages.load()[kind].config
    short, long = [config.model_validate(example) for example in EXAMPLES if example["stage"] == kind][:2]
    assert long == short


def test_options_of_decontaminate_and_named_benchmarks_are_as_documented() -> None:
    config = stages.load()["decontaminate"].config
    long = [example for example in EXAMPLES if example["stage"] == "decontaminate"][1]
    assert config.model_validate(long) == config.model_validate({"against": long["against"]})
    assert [name for name, of in NAMED.items() if f"| `{name}` | {of['hub']}, " not in TEXT] == []
    for part in ("text", "image"):
        for kind in ("dedup", "decontaminate"):
            options = stages.load()[kind].config.model_fields[part].annotation.model_fields
            assert [name for name in options if f"`{part}.{name}`" not in TEXT] == []
