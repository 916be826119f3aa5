"""Nothing leaves that must not: licences, damaged schemas, secrets, paths."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_recipe, write_source

from curation import build, publishcheck
from curation import hub as hubs
from curation.licenses import redistribution
from curation.publication import front_matter, prepare
from curation.publishcheck import check
from curation.versions import Version
from schemas.errors import WinnowError

SECRET = "hf_" + "aB3" * 12
KEY = "AKIA" + "Z7Q4" * 4


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("MIT", "permitted"), ("apache-2.0", "permitted"), ("CC-BY-4.0", "permitted"), ("CC BY-NC-SA 4.0", "permitted"),
        ("cc0-1.0", "permitted"), ("ODC-BY", "permitted"), ("MIT License", "permitted"), ("Apache 2.0", "permitted"),
        ("GPL-3.0-or-later", "permitted"), ("CC-BY-ND-4.0", "forbidden"), ("CC-BY-NC-ND-4.0", "forbidden"),
        ("proprietary", "forbidden"), ("All rights reserved", "forbidden"), ("research only", "forbidden"),
        ("unknown", "unknown"), ("other", "unknown"), ("", "unknown"), ("see website", "unknown"), ("mitigated", "unknown"),
    ],
)  # fmt: skip
def test_licences(name: str, verdict: str) -> None:
    assert redistribution(name) == verdict


@pytest.fixture(scope="module")
def risky(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """A version with a forbidden and an unknown licence, two secrets and a path of a machine."""
    folder = tmp_path_factory.mktemp("risky")
    write_source(folder, "many", [(f"What is number {i}?", i) for i in range(4)])
    write_source(folder, "few", [(f"Use {SECRET} now: {KEY}", 10), ("Read /home/ann/notes.txt", 11)])
    lines = [json.dumps({"question": "1 + 1?", "answer": "2", "solution": "Add."})]
    (folder / "words.jsonl").write_text("\n".join(lines) + "\n")
    columns = {"images": "image"}
    sources = [
        {"name": "many", "jsonl": "many.jsonl", "license": "CC-BY-ND-4.0", "columns": columns},
        {"name": "few", "jsonl": "few.jsonl", "license": "MIT", "columns": columns},
        {"name": "words", "jsonl": "words.jsonl"},
    ]
    outputs = [{"export": "rows"}, {"export": "sft", "responses": "solution"}]
    return build(write_recipe(folder, sources=sources, stages=[], outputs=outputs), workspace=folder / "ws", workers=1)


def found(version: Version, **options) -> dict[tuple[str, str], str]:
    return {(f.kind, f.where): f.what for f in check(prepare(version, **options))}


def test_what_is_found(risky, standin, hub):
    seen = found(risky)
    assert "CC-BY-ND-4.0" in seen["licence", "source many"]
    assert "without a licence" in seen["licence", "source words"]
    assert ("licence", "source few") not in seen
    places = [where for kind, where in seen if kind == "secret"]
    assert {where.split("/")[0] for where in places} == {"decisions", "data"}
    assert [where for kind, where in seen if kind == "path"]
    assert all(SECRET not in what and KEY not in what for what in seen.values()), "findings can be shown to others"
    with pytest.raises(WinnowError, match="was not published"):
        hubs.publish(risky, "org/risky", hub=hub)
    assert standin.log == [], "nothing was asked of the Hub"


def test_findings_do_not_depend_on_how_much_is_scanned_at_once(risky, monkeypatch):
    at_once = check(prepare(risky))
    monkeypatch.setattr(publishcheck, "AT_ONCE", 1)
    assert check(prepare(risky)) == at_once
    assert any("row " in f.what for f in at_once)


def test_letters_and_spaces_of_any_script(tmp_path):
    """RE2's own are ASCII; those of Python decide."""
    texts = [
        "see\u00a0/home/ann",
        "read /home/\u00e9va/x",
        "at http://ann:hidden@m\u00fcnchen.de",
        "no hf_ token",
        "x/home/ann",
    ]
    path = tmp_path / "texts.parquet"
    pq.write_table(pa.table({"row_id": list("abcde"), "text": texts}), path)
    scan = publishcheck._Scan(publishcheck._patterns([]))
    scan.parquet("texts.parquet", path)
    assert [finding.kind for finding in scan.findings()] == ["path", "secret"]
    assert {hit[:5] for hits in scan.hits.values() for hit in hits} == {"row a", "row b", "row c"}


def test_stated_licences_are_recorded(risky, standin, hub):
    stated = {"many": "CC-BY-4.0", "words": "MIT"}
    assert not [kind for kind, _ in found(risky, licenses=stated) if kind == "licence"]
    hubs.publish(risky, "org/risky", licenses=stated, accept=["secret", "path"], hub=hub)
    files = {item.path: item for item in prepare(risky, licenses=stated, accepted=["secret", "path"]).items}
    manifest = json.loads(files["manifest.json"].data)
    assert manifest["published"] == {"licenses": stated, "accepted": ["path", "secret"]}
    head, body = front_matter(files["README.md"].data.decode())
    assert head["license"] == ["cc-by-4.0", "mit"] and "license_details" not in head
    assert "- `many`: CC-BY-4.0" in body
    with pytest.raises(WinnowError, match="no source 'nope'"):
        prepare(risky, licenses={"nope": "MIT"})
    with pytest.raises(WinnowError, match="cannot be accepted"):
        check(prepare(risky), accept=["licence"])


def test_the_own_token_is_never_accepted(risky):
    kinds = [f.what for f in check(prepare(risky), accept=["secret", "path"], secrets=[SECRET]) if f.kind == "secret"]
    assert kinds and all(what.startswith("your own token") for what in kinds)


def test_a_card_is_derived(built):
    """Made again from what lies in the folder it is the same, and it opens the version without being told how."""
    import datasets

    from curation.card import ask, card

    version = built.first
    assert (version.path / "README.md").read_text() == card(version.manifest, ask(version.path, version.manifest))
    for config, splits in version.manifest["splits"].items():
        opened = datasets.load_dataset(str(version.path), config, streaming=True)
        assert {split: sum(1 for _ in rows) for split, rows in opened.items()} == splits


def test_a_clean_version_has_no_finding(built):
    assert check(prepare(built.first)) == []
    assert check(prepare(built.second, traces=False)) == []


def test_damaged_schemas_and_cards(built, tmp_path):
    folder = tmp_path / built.first.id
    shutil.copytree(built.first.path, folder)
    files = sorted((folder / "data" / "rows").glob("*.parquet"))
    table = pq.read_table(files[0])
    pq.write_table(table.slice(1).append_column("more", pa.nulls(len(table) - 1, pa.int64())), files[0])
    readme = folder / "README.md"
    readme.write_text(readme.read_text().replace("data/sft/train-*", "data/stf/train-*"))
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest["entry_files"]:
        manifest["entry_files"][name] = (folder / name).stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))
    seen = found(Version.open(folder))
    name = str(Path("data/rows") / files[0].name)
    assert "the manifest says" in seen["schema", name] or "other features" in seen["schema", name]
    assert ("schema", "data/rows") in seen
    assert ("card", "README.md") in seen
