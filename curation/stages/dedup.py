"""dedup: merges rows that ask the same thing, and knows what only looks the same.

A row is a duplicate of another when text, pictures and answer agree: the text up to its formatting, the pictures by
bytes, pixels or look, the answers by the checker. Of several the policy `keep` says which stays; each other one is
merged into the row that it was compared with. The same question with another answer is a label conflict and is never
merged; the same text with other numbers or names is a sibling and stays, unless families are capped.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from curation.answers.policy import REVISION as CHECKER_REVISION
from curation.similarity import texts
from curation.similarity.keep import POLICY, Criterion, Preference
from curation.stages import verify
from curation.stages.base import Context, Needs, Outcome, Rows, StageConfig, global_stage, sources_of
from schemas.errors import Problem, WinnowError
from schemas.recipe import PathOrName

if TYPE_CHECKING:
    from curation.similarity.questions import Question, Questions


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DedupText(_Part):
    """When two questions have the same text."""

    wording: Literal["exact", "light", "near"] = Field(
        default="light",
        description="What may differ beside formatting. exact: nothing; light: articles and words that only ask; near: "
        "any words, where numbers, signs and a telling answer agree.",
    )
    threshold: float = Field(
        default=0.8,
        gt=0,
        lt=1,
        description="Least similarity (Jaccard of 5-grams of characters, exact) of near wordings and of siblings.",
    )


class DedupImage(_Part):
    """When two pictures are looked at closer."""

    radius: int = Field(
        default=16, ge=0, le=47, description="Bits of 256 in which the hashes of two pictures may differ."
    )


class Dedup(StageConfig):
    """Merges rows with the same question, pictures and answer into the one that is preferred. Writes `family` (row_id of
    the preferred row among template siblings) and `label_conflict` (the same for rows that contradict each other)."""

    stage: Literal["dedup"] = "dedup"
    method: Literal["questions", "openmmreasoner"] = Field(
        "questions",
        description="questions: text, pictures and answer must agree; openmmreasoner: a joint cosine of text and "
        "picture above `semantic` (0.99) is enough, for comparisons.",
    )
    text: DedupText = DedupText()
    image: DedupImage = DedupImage()
    conflicts: Literal["keep", "report", "drop"] = Field(
        "keep",
        description="Rows with one question and incompatible answers: keep counts them, report also marks them in "
        "label_conflict, drop takes all of them out.",
    )
    max_siblings: int | None = Field(
        None, ge=1, description="Keep at most so many rows of a family of template siblings; by default all."
    )
    keep: list[Criterion] = Field(
        list(POLICY), description="Which of several rows stays: the first criterion that tells them apart decides."
    )
    sources: list[str] = Field([], description="Names of sources, the preferred first, for the criterion `source`.")
    merge: list[Literal["solution", "traces"]] = Field(
        [],
        description="What a kept row takes from those merged into it: a solution, where it has none; all traces of rows "
        "that ask the same with the same options.",
    )
    semantic: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Also merge questions in other words: least cosine of their static embeddings, where numbers, "
        "signs, pictures and a telling answer agree.",
    )
    model: PathOrName | None = Field(
        None, description="model2vec model for embeddings: a folder, or a repo id in the Hub cache."
    )

    @field_validator("keep")
    @classmethod
    def _once(cls, keep: list[Criterion]) -> list[Criterion]:
        if len(set(keep)) < len(keep):
            raise ValueError("a criterion is named twice")
        return keep

    @model_validator(mode="after")
    def _has_model(self) -> Dedup:
        if self.model is None and (self.semantic is not None or self.method == "openmmreasoner"):
            raise ValueError("embeddings need `model`: the folder of a model2vec model, or its repo id")
        if self.method == "openmmreasoner" and "traces" in self.merge:
            raise ValueError(
                "`merge: [traces]` needs `method: questions`: a row near to another may ask something else"
            )
        return self


def writes(config: Dedup) -> dict[str, pa.DataType]:
    own = {"family": pa.string(), "label_conflict": pa.string()}
    if "solution" in config.merge:
        own["solution"] = pa.string()
    return {**own, **verify.COLUMNS} if "traces" in config.merge else own


def reads(config: Dedup) -> Sequence[str]:
    from curation.similarity.questions import READS

    if "traces" not in config.merge:
        return READS
    return tuple(dict.fromkeys([*READS[:-1], *verify.COLUMNS]))


def needs(config: Dedup) -> Needs:
    """Traces that change their row are judged as the stage `verify` judged them before."""
    return "verdicts" if "traces" in config.merge else "rows"


def uses(config: Dedup) -> Sequence[str]:
    return ("verify",) if "traces" in config.merge else ()


def inputs(config: Dedup, folder: Path, workspace: Path) -> Sequence[Path]:
    """The embedding model's files."""
    if config.model is None:
        return ()
    from curation.similarity.vectors import model_files

    return model_files(config.model, folder)


def libraries(config: Dedup) -> Sequence[str]:
    return ("polars", "model2vec", "usearch") if config.model is not None else ("polars",)


def check(config: Dedup, schema: pa.Schema) -> Iterable[Problem]:
    from curation.sqlguard import nearest

    known = sources_of(schema)
    for name in config.sources if known is not None else ():
        if name not in (known or ()):
            yield Problem(f"sources: there is no source {name!r}", text=name, hint=nearest(name, known or ()))
    if config.sources and "source" not in config.keep:
        yield Problem("sources: `keep` does not name the criterion `source`", hint="Add it: keep: [source, …]")
    if config.model is not None:
        from curation.similarity.vectors import missing_libraries

        for name in missing_libraries():
            yield Problem(
                f"model: embeddings need {name}, which is not installed", hint="pip install 'winnow[semantic]'"
            )


# The checker says which answers agree, so its revision is part of this stage's.
@global_stage(
    Dedup,
    revision=10_000 * 2 + 100 * texts.REVISION + CHECKER_REVISION,
    reads=reads,
    writes=writes,
    needs=needs,
    uses=uses,
    check=check,
    inputs=inputs,
    libraries=libraries,
)
def run(config: Dedup, rows: Rows, context: Context) -> Outcome:
    from curation.similarity import families as compare
    from curation.similarity.decisions import Decisions, first_hashes
    from curation.similarity.inherit import Judge
    from curation.similarity.questions import picture_keys, read_questions

    if context.scratch is None:
        raise WinnowError(f"Stage {context.name}: dedup needs a scratch folder.")
    questions = read_questions(
        rows,
        light=config.text.wording != "exact",
        preference=Preference(config.keep, config.sources),
        workspace=context.workspace,
        scratch=context.scratch,
        progress=context.progress,
    )
    decisions = Decisions(questions)
    judge = Judge(context.before["verify"], context) if "traces" in config.merge else None
    solutions = "solution" in config.merge
    if config.method == "openmmreasoner":
        from curation.similarity.vectors import joint_duplicates

        joint = joint_duplicates(config, questions, rows, context)
        decisions.merge_vectors(joint, "joint_cosine", "Text and picture lie as near as a copy's to a row that is kept")
        return decisions.outcome(rows, solutions=solutions)
    kinds, told = np.unique(questions.text, return_inverse=True)[1], None
    if config.text.wording == "near":
        told = compare.wording(questions, config.text.threshold)
        kinds = compare.reworded(questions, config.text.threshold, threads=context.workers, scratch=context.scratch)
    found = compare.Found()
    for group in _groups(questions, rows, kinds):
        compare.compare_group(group, questions.pictures, config.image.radius, found, told)
    decisions.merge(found.merges)
    decisions.notes["unclear_answers"] = found.unclear
    if config.semantic is not None:
        from curation.similarity.vectors import paraphrases

        pairs = paraphrases(config, questions, rows, decisions.alive, context)
        decisions.merge_vectors(pairs, "paraphrase", "The same question in other words, with the same answer")
    decisions.settle_conflicts(found.conflicts, config.conflicts)
    family = compare.families(
        questions,
        picture_keys(rows),
        first_hashes(questions, rows),
        decisions.alive,
        config.text.threshold,
        config.image.radius,
        threads=context.workers,
        scratch=context.scratch,
    )
    decisions.settle_families(family, config.max_siblings)
    return decisions.outcome(rows, solutions=solutions, traces=judge)


LOOKED_AT = 200_000
"""Rows whose answers, options and pictures are in memory at a time, if no group is larger."""


def _groups(questions: Questions, rows: Rows, kinds: np.ndarray) -> Iterable[list[Question]]:
    """Rows with one text, the preferred first; only where there are two or more."""
    sizes = np.bincount(kinds, minlength=1)
    at = np.flatnonzero((sizes[kinds] > 1) & ~questions.nothing)
    at = at[np.lexsort((questions.rank[at], kinds[at]))]
    edges = np.flatnonzero(np.r_[True, kinds[at][1:] != kinds[at][:-1]]) if len(at) else np.empty(0, np.int64)
    details: dict[int, Question] = {}
    read = 0
    for begin, end in itertools.pairwise([*edges.tolist(), len(at)]):
        if end > read:
            last = np.searchsorted(edges, begin + LOOKED_AT, side="right") - 1
            read = max(end, int(edges[last]) if len(at) - begin > LOOKED_AT else len(at))
            wanted = np.zeros(len(questions), bool)
            wanted[at[begin:read]] = True
            details = {question.row: question for question in questions.details(rows, wanted)}
        yield [details[row] for row in at[begin:end].tolist()]
