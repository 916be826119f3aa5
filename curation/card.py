"""The dataset card: README.md of a version, with the YAML that `datasets` and the Hub read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"),
         (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))  # fmt: skip


def write_card(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write README.md for a version that lies in `folder`."""
    (folder / "README.md").write_text(card(manifest), encoding="utf-8")


def card(manifest: Mapping[str, Any]) -> str:
    """The card's text: front matter, what is in it, where rows went, how it was built."""
    head = yaml.safe_dump(_front_matter(manifest), sort_keys=False, allow_unicode=True, width=120)
    counts = manifest["counts"]
    parts = [f"# {manifest['name']}", manifest["description"] or "", "## What is in it"]
    configs = [
        [config, split, f"{rows:,}"] for config, splits in manifest["splits"].items() for split, rows in splits.items()
    ]
    parts.append(_table(["config", "split", "examples"], configs))
    sources = [
        [
            source,
            f"{sum(fates.values()):,}",
            f"{fates.get('kept', 0):,}",
            ", ".join(f"{name} ({n:,})" for name, n in manifest["licenses"].get(source, {}).items()),
        ]
        for source, fates in counts["sources"].items()
    ]
    parts += ["## Sources", _table(["source", "rows read", "rows kept", "licences of kept rows"], sources)]
    funnel = [[line["stage"], line["fate"], line["reason"], f"{line['rows']:,}"] for line in manifest["funnel"]]
    parts += [
        "## Where every row went",
        f"{counts['input']:,} rows came in; each has one fate in `ledger.parquet`.",
        _table(["stage", "fate", "reason", "rows"], funnel),
    ]
    if counts["traces"].get("made"):
        traces = counts["traces"]
        parts.append(
            f"{traces['made']:,} traces were made; {traces['exported']:,} are in the data, and each other one says why not (`traces/`)."
        )
    for stage in manifest["stages"]:
        if stage.get("kind") == "decontaminate":
            parts += _decontaminated(stage["notes"])
    for output in manifest["outputs"]:
        if (asked := output.get("asked_otherwise")) is not None:
            parts.append(
                f"Examples of `{output['name']}` are prompted otherwise than the teacher was, which saw the template "
                f"`{asked['template']}`" + (f" and the system text `{asked['system']}`." if asked["system"] else ".")
            )
    parts += [
        "## How it was built",
        f"With [Winnow](https://pypi.org/project/winnow) {manifest['libraries']['winnow']}, version id `{manifest['id']}`, from this recipe:",
        f"```yaml\n{manifest['recipe'].strip()}\n```",
    ]
    return f"---\n{head}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def _decontaminated(notes: Mapping[str, Any]) -> list[str]:
    """What a decontamination was against, what it found, and how much it finds of what is planted."""
    names = ", ".join(f"{name} ({of['items']:,})" for name, of in notes.get("benchmarks", {}).items())
    found = notes.get("found", {})
    counts = [
        [kind, name, f"{rows:,}", "dropped" if of["dropped"] else "kept and marked"]
        for kind, of in found.items()
        for name, rows in of["by_benchmark"].items()
    ]
    parts = ["## Decontamination", f"Against {names}."]
    parts.append(_table(["kind", "benchmark", "rows", ""], counts) if counts else "Nothing was found.")
    if notes.get("recall"):
        recall = [[kind, f"{of['planted']:,}", f"{of['recall']:.1%}"] for kind, of in notes["recall"].items()]
        control = notes["control"]
        parts += [
            "Altered copies of items went through the same search, apart from the rows. Of them it found:",
            _table(["altered", "planted", "found"], recall),
            f"Of {control['rows']:,} texts that are no copies it took {control['false_alarms']:,} for leaks.",
        ]
    return parts


def _front_matter(manifest: Mapping[str, Any]) -> dict[str, Any]:
    licenses = sorted({name for of in manifest["licenses"].values() for name in of})
    kept = manifest["counts"]["kept"]
    front: dict[str, Any] = {"pretty_name": manifest["name"]}
    known = [name.lower() for name in licenses if name != "unknown"]
    front["license"] = known[0] if len(licenses) == 1 and known else "other"
    if front["license"] == "other":
        front["license_name"] = "mixed"
        front["license_details"] = "; ".join(licenses)
    front["size_categories"] = [next((label for limit, label in SIZES if kept < limit), "n>1T")]
    front["tags"] = ["winnow", "reasoning"]
    front["configs"] = [
        {
            "config_name": config,
            **({"default": True} if number == 0 else {}),
            "data_files": [{"split": split, "path": f"data/{config}/{split}-*.parquet"} for split in splits],
        }
        for number, (config, splits) in enumerate(manifest["splits"].items())
    ]
    return front


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
