"""The dataset card: README.md of a version, with the YAML that `datasets` and the Hub read.

Its tables are answers to questions of reports/sql (those that say `-- card: yes`), so a card never counts otherwise than
a report. It is derived: no part of the id, and the same for the same version, whenever and wherever it is made.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from curation.licenses import front_matter as licenses
from reports import formats, questions, tables
from reports.markdown import cell, table
from reports.questions import Answer

MEMORY = 1_000_000_000
"""Bytes that its questions may use at once before DuckDB spills."""
ALSO = ("headline", "headline_traces", "modality", "verdict_methods", "label_problems")
"""Questions of which the card says a sentence, besides those whose tables stand in it."""
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"),
         (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))  # fmt: skip
FIRST = "What is in it"
"""The section that a card opens with; the others follow in the order of a report."""
LANGUAGE_SHARE = 0.01
"""Of rows: below it a language is more often a mistake of telling languages than a language of the data."""

Told = Mapping[str, Answer]


def write_card(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write README.md for a version that lies in `folder`; all its tables are there already, its manifest.json need not be."""
    (folder / "README.md").write_text(card(manifest, ask(folder, manifest)), encoding="utf-8", errors="replace")


def ask(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Answer]:
    """The answers that a card is made of, by question."""
    asked = [question for question in questions.find() if question.card or question.name in ALSO]
    with (
        tempfile.TemporaryDirectory(prefix="winnow-card-") as spill,
        tables.connect(tables.views(folder, manifest), [folder], memory_limit=MEMORY, spill=Path(spill)) as connection,
    ):
        there = questions.columns(connection)
        until = questions.sampled_until(int(manifest["counts"]["input"]))
        return {question.name: questions.ask(connection, question, there, until) for question in asked}


def card(manifest: Mapping[str, Any], told: Told) -> str:
    """The card's text: front matter, summary, tables, how it was built, what it does not promise, what to cite."""
    head = yaml.safe_dump(_front_matter(manifest, told), sort_keys=False, allow_unicode=True, width=120)
    parts = [f"# {manifest['name']}", manifest["description"] or "", _summary(manifest, told)]
    section = ""
    for answer in sorted(told.values(), key=lambda answer: answer.question.section != FIRST):
        question = answer.question
        if not question.card or (answer.empty and not answer.error):
            continue
        if question.section != section:
            section = question.section
            parts.append(f"## {section}")
            if section == "Decontamination":
                parts += _decontaminated(manifest)
        said = f"Not answered: {cell(answer.error)}" if answer.error else table(answer, leave_out=_drawn_only(answer))
        parts += [f"### {question.title}", question.answers, said]
    recipe = manifest["recipe"].strip()
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", recipe)), default=0))
    parts += [
        "## How it was built",
        f"With [Winnow](https://pypi.org/project/winnow) {manifest['libraries']['winnow']}, version id `{manifest['id']}`. Every row that was "
        "read has one fate in `ledger.parquet`; `manifest.json` has seeds, hashes of the input files and counts of every stage. The recipe:",
        f"{fence}yaml\n{recipe}\n{fence}",
    ]
    for output in manifest["outputs"]:
        if (asked := output.get("asked_otherwise")) is not None:
            parts.append(
                f"Examples of `{output['name']}` are prompted otherwise than the teacher was, which saw the template "
                f"`{asked['template']}`" + (f" and the system text `{asked['system']}`." if asked["system"] else ".")
            )
    parts += ["## Known limits", "\n".join(f"- {limit}" for limit in _limits(manifest, told))]
    parts += ["## Citation", *_citation(manifest)]
    return f"---\n{head}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def _drawn_only(answer: Answer) -> list[str]:
    """Columns that only a drawing needs: the colour of a waterfall says what its other columns say."""
    return [answer.question.roles["color"]] if answer.question.chart == "waterfall" else []


def _lines(told: Told, name: str) -> list[dict[str, Any]]:
    """The lines of an answer; none where it was not asked or not answered."""
    answer = told.get(name)
    return answer.table.to_pylist() if answer is not None and answer.table is not None else []


def _summary(manifest: Mapping[str, Any], told: Told) -> str:
    counts, splits = manifest["counts"], manifest["splits"]
    made = ", ".join(f"{sum(of.values()):,} in `{name}`" for name, of in splits.items())
    said = (
        f"{counts['kept']:,} of {counts['input']:,} rows from {_several(len(counts['sources']), 'source')} are in the data, "
        f"as training examples: {made}."
    )
    for of in _lines(told, "headline_traces"):
        said += f" {of['traces']:,} traces were made"
        if of["judged"]:
            said += f", {formats.said(of['correct_share'], '%')} of the {of['judged']:,} judged ones are correct"
        said += f"; {of['exported']:,} of them are in the data, and each other one says why not (`traces/`)."
    return said


def _several(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _decontaminated(manifest: Mapping[str, Any]) -> Iterator[str]:
    """What rows were held against, and how often the search cries wolf."""
    for stage in manifest["stages"]:
        notes = stage.get("notes") or {}
        if stage["kind"] != "decontaminate":
            continue
        if against := notes.get("benchmarks"):
            yield "Against " + ", ".join(f"{name} ({of['items']:,} items)" for name, of in against.items()) + "."
        if control := notes.get("control"):
            yield f"Of {control['rows']:,} texts that are no copies it took {control['false_alarms']:,} for leaks."


def _limits(manifest: Mapping[str, Any], told: Told) -> Iterator[str]:
    """Sentences about what a user of the data should not take for granted; only what this version gives reason for."""
    counts = manifest["counts"]
    kinds = {stage["kind"] for stage in manifest["stages"]}
    if manifest.get("limit"):
        yield f"A part: no more than the first {manifest['limit']:,} rows of each source were read."
    if "dedup" not in kinds:
        yield "Nobody looked for duplicates."
    if "decontaminate" not in kinds:
        yield "Its rows were held against no benchmark: scores on benchmarks may be those of memory."
    else:
        missed = [of for of in _lines(told, "planted") if of["recall"] is not None and of["recall"] < 1]
        found = ", ".join(f"{cell(of['altered'])} {formats.said(of['recall'], '%')}" for of in missed)
        yield "Rows were held against the benchmarks above and no other" + (
            f"; of altered copies planted to try the search, it found fewer than all: {found}." if missed else "."
        )
    verdicts = _lines(told, "verdict_methods")
    if verdicts:
        yield "A correct trace ends in an answer that agrees with the gold one. Its reasoning was not checked."
        judged = sum(of["traces"] for of in verdicts if of["method"] == "judge")
        open_ = sum(of["traces"] for of in verdicts if of["state"] in ("undecided", "unparsable_gold", "checker_timeout", "checker_error"))  # fmt: skip
        if judged:
            yield f"Verdicts of a judge, because rules left them open: {judged:,}."
        if open_:
            yield f"Traces without a verdict either way (undecided, a gold answer that cannot be read, a checker that gave up): {open_:,}."
    elif counts["traces"].get("exported"):
        yield "The answers of its traces were not checked."
    doubts = sum(of["in_the_data"] for of in _lines(told, "label_problems"))
    if doubts:
        yield f"Rows in the data whose gold answer the traces or the checker doubt (`label_problem` in `decisions/`): {doubts:,}."
    for of in _lines(told, "licenses"):
        if not of["what_it_asks"].startswith("may be published"):
            yield f"Rows under {cell(of['license'])}: {of['rows']:,} ({of['what_it_asks']})."
    if counts["quarantined"]:
        yield f"Records that could not be read as rows, and are not in the data: {counts['quarantined']:,}."
    for line in manifest.get("expected") or ():
        if not line["agrees"]:
            yield f"The recipe expects {line['expected']:,} as {cell(line['what'])}; this build has {line['found']:,}."
    for stage in manifest["stages"]:
        for text in (stage.get("notes") or {}).get("impossible", ()):
            yield f"Not everything that {cell(stage['name'])} was told could be done: {cell(text)}."


def _upstream(manifest: Mapping[str, Any]) -> list[str]:
    """Repos of the Hub that its sources come from."""
    recipe = yaml.safe_load(manifest["recipe"]) or {}
    named = [s.get("hub") for s in recipe.get("sources") or () if isinstance(s, dict)]
    return list(dict.fromkeys(name.partition("@")[0] for name in named if isinstance(name, str)))


def _citation(manifest: Mapping[str, Any]) -> Iterator[str]:
    sources = ", ".join(f"[{name}](https://huggingface.co/datasets/{name})" for name in _upstream(manifest))
    yield (
        "Cite the sources that it was made of" + (f" ({sources})" if sources else "") + ", and this version by its id:"
    )
    key = re.sub(r"\W+", "_", manifest["name"]).strip("_")
    title = re.sub(r"[{}\\]", "", manifest["name"])
    yield (
        f"```bibtex\n@misc{{{key}_{manifest['id']},\n  title = {{{title}, version {manifest['id']}}},\n"
        f"  note = {{{manifest['counts']['kept']} rows; curated with Winnow {manifest['libraries']['winnow']}}}\n}}\n```"
    )


def _front_matter(manifest: Mapping[str, Any], told: Told) -> dict[str, Any]:
    names = {name for of in manifest["licenses"].values() for name, rows in of.items() if rows}
    front: dict[str, Any] = {"pretty_name": manifest["name"], **licenses(names)}
    shares = {of["language"]: of["share"] for of in _lines(told, "languages")}
    spoken = [code for code, share in shares.items() if re.fullmatch("[a-z]{2}", code) and share >= LANGUAGE_SHARE]
    if spoken:
        front["language"] = spoken
    if tasks := _tasks(manifest, told):
        front["task_categories"] = tasks
    examples = sum(sum(of.values()) for of in manifest["splits"].values())
    front["size_categories"] = [next((label for limit, label in SIZES if examples < limit), "1B<n<10B")]
    if upstream := _upstream(manifest):
        front["source_datasets"] = upstream
    front["tags"] = ["winnow", "reasoning", *(["synthetic"] if manifest["counts"]["traces"].get("exported") else [])]
    front["configs"] = [
        {
            "config_name": config,
            **({"default": True} if number == 0 else {}),
            "data_files": [{"split": split, "path": f"data/{config}/{split}-*.parquet"} for split in splits],
        }
        for number, (config, splits) in enumerate((c, of) for c, of in manifest["splits"].items() if of)
    ]  # an output without an example has no files, and `datasets` takes no config without any
    return front


def _tasks(manifest: Mapping[str, Any], told: Told) -> list[str]:
    """Task categories, by the Hub's names."""
    seen = {of["modality"] != "text" for of in _lines(told, "modality")}
    exports = {output["export"] for output in manifest["outputs"]}
    tasks = {
        "question-answering": False in seen,
        "visual-question-answering": True in seen,
        "text-generation": "sft" in exports and False in seen,
        "image-text-to-text": "sft" in exports and True in seen,
        "reinforcement-learning": "rl" in exports,
    }
    return [task for task, holds in tasks.items() if holds]
