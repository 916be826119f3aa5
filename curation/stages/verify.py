"""verify: judges every trace with the one checker, and says how each row fared.

A row's pass rate is correct over judgeable traces. What the checker cannot judge (a gold that it cannot read, a
deadline, an undecided case) is in neither number. Labels are watched on the way: a gold that nothing can be compared
with, a gold that is none of the choices, and a gold that the traces contradict with one voice. A judge, where the recipe names one, decides what the rules leave open (curation/stages/judging.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from curation.answers.policy import REVISION as CHECKER_REVISION
from curation.answers.policy import Policy
from curation.ids import rows_of
from curation.prompts import labels
from curation.stages.base import Context, Outcome, StageConfig, fates, row_stage
from curation.stages.judging import JudgeConfig, against_rules, decide_open, judge_notes
from schemas.rows import FATE
from schemas.verdicts import VERDICT_SCHEMA

SLICE = 4096
"""Traces that are judged at a time: their texts are Python objects meanwhile."""
VERDICTS = "verdicts.sqlite"
"""In the workspace: what symbolic comparisons found, for every build after this one."""
EXAMPLES = 5
"""Rows that notes name of each label problem."""

COLUMNS = {
    "n_traces": pa.int32(),
    "n_judged": pa.int32(),
    "n_correct": pa.int32(),
    "pass_rate": pa.float64(),
    "label_problem": pa.string(),
}


class Verify(StageConfig):
    """Judges traces against the gold answer. Writes n_traces, n_judged, n_correct, pass_rate (null where no trace could
    be judged) and label_problem (unparsable_gold, gold_not_in_choices, suspect_gold, or null)."""

    stage: Literal["verify"] = "verify"
    min_correct: int = Field(0, ge=0, description="Drop rows with fewer correct traces; 0 keeps all.")
    count_truncated: bool = Field(
        True, description="Whether a truncated trace counts as a failed try in the pass rate."
    )
    suspect_agree: int = Field(
        4,
        ge=2,
        description="A gold is suspect when so many traces agree on another answer, and none is correct.",
    )
    drop_suspect: bool = Field(False, description="Drop rows whose gold is suspect.")
    policy: dict[str, Any] = Field(
        default_factory=dict, description="Conventions of the checker that differ from its defaults."
    )
    judge: JudgeConfig | None = Field(
        None, description="A model that is asked about what the rules leave open; by default nobody is."
    )

    @field_validator("policy")
    @classmethod
    def _known(cls, policy: dict[str, Any]) -> dict[str, Any]:
        known = Policy.__dataclass_fields__
        for name, value in policy.items():
            if name not in known:
                raise ValueError(f"the checker's policy has no {name!r}; it has {', '.join(sorted(known))}")
            default = getattr(Policy(), name)
            if isinstance(default, bool) != isinstance(value, bool) or not isinstance(value, int | float | str):
                raise ValueError(f"policy.{name} is a {type(default).__name__}, not {value!r}")
        return policy


# The checker's own revision is part of this stage's: a new checker judges again.
@row_stage(
    Verify,
    revision=1000 * 1 + CHECKER_REVISION,
    reads=("question", "choices", "answer"),
    writes=COLUMNS,
    needs="traces",
    makes="verdicts",
    libraries=("math-verify", "sympy"),
)
def run(config: Verify, rows: pa.Table, context: Context) -> Outcome:
    traces = context.traces if context.traces is not None else pa.table({"row_id": pa.array([], pa.string())})
    at = rows_of(traces, rows)
    verdicts, judged_at = judge(config, rows, traces, at, context)
    told: dict[str, Any] = {}
    if config.judge is not None:
        verdicts, agreement = against_rules(config.judge, verdicts, _asker(rows, traces, at), context)
        told = {"judge": judge_notes(config.judge, verdicts, agreement)}
    table, evidence = tally(config, rows, np.bincount(at, minlength=len(rows)), verdicts, judged_at)
    context.progress(len(rows))
    return Outcome(
        columns=table,
        verdicts=verdicts,
        fates=_fates(config, table, evidence),
        notes=_notes(config, table, np.asarray(verdicts["state"].to_pylist(), object)) | told,
        # An outage says nothing of an answer: the next build asks those again.
        again=bool(told) and "checker_error" in told["judge"]["verdicts"],
    )


def tally(
    config: Verify, rows: pa.Table, n_traces: np.ndarray, verdicts: pa.Table, judged_at: np.ndarray
) -> tuple[pa.Table, dict[int, dict[str, Any]]]:
    """row_id and COLUMNS of rows (with question, choices and answer), and evidence of the label problems by position.

    n_traces   int (rows,)
    judged_at  the position of each verdict's row
    """
    states = np.asarray(verdicts["state"].to_pylist(), object)
    counted = ["correct", "incorrect", "no_answer", *(["truncated"] if config.count_truncated else [])]
    n = len(rows)
    n_judged = np.bincount(judged_at[np.isin(states, counted)], minlength=n)
    n_correct = np.bincount(judged_at[states == "correct"], minlength=n)
    problem, evidence = _label_problems(config, rows, verdicts, judged_at, n_correct)
    columns = {
        "row_id": rows["row_id"],
        "n_traces": pa.array(n_traces, pa.int32()),
        "n_judged": pa.array(n_judged, pa.int32()),
        "n_correct": pa.array(n_correct, pa.int32()),
        "pass_rate": pa.array(n_correct / np.maximum(n_judged, 1), pa.float64(), mask=n_judged == 0),
        "label_problem": pa.array(problem, pa.string()),
    }
    return pa.table(columns), evidence


def judge(
    config: Verify, rows: pa.Table, traces: pa.Table, at: np.ndarray, context: Context
) -> tuple[pa.Table, np.ndarray]:
    """Verdicts of the traces that say something (row_id, k and VERDICT_SCHEMA), and the position of each one's row."""
    from curation.answers import check_many

    schema = pa.schema([("row_id", pa.string()), ("k", pa.int32()), *VERDICT_SCHEMA])
    traces, at = _said(traces, at)
    policy = Policy(**config.policy)
    pieces = [schema.empty_table()]
    for start in range(0, len(traces), SLICE):
        piece = traces.slice(start, SLICE)
        asked = _asked(rows, piece, at[start : start + SLICE])
        verdict = check_many(asked, policy=policy, workers=context.workers, cache=context.workspace / VERDICTS)
        columns = [piece["row_id"], piece["k"], *(verdict[name] for name in VERDICT_SCHEMA.names)]
        pieces.append(pa.table(columns, names=schema.names).cast(schema))
    verdicts = pa.concat_tables(pieces).combine_chunks()
    if config.judge is not None:
        verdicts = decide_open(config.judge, verdicts, _asker(rows, traces, at), context)
    return verdicts, at


def _said(traces: pa.Table, at: np.ndarray) -> tuple[pa.Table, np.ndarray]:
    """The traces that say something, and the positions of their rows."""
    if not len(traces):
        return traces, at
    said = pc.invert(pc.equal(traces["finish"], "failed"))
    return traces.filter(said), at[said.to_numpy(zero_copy_only=False)]


def _asked(rows: pa.Table, traces: pa.Table, at: np.ndarray) -> pa.Table:
    """What the checker is asked of these traces."""
    of_row = rows.select(["answer", "choices", "question"]).take(pa.array(at))
    columns = {"gold": of_row["answer"], "response": traces["text"], "choices": of_row["choices"]}
    return pa.table(columns | {"question": of_row["question"], "truncated": pc.equal(traces["finish"], "truncated")})


def _asker(rows: pa.Table, traces: pa.Table, at: np.ndarray) -> Callable[[np.ndarray], pa.Table]:
    """A mask over the traces that say something -> what is asked of them."""
    traces, at = _said(traces, at)
    return lambda mask: _asked(rows, traces.filter(pa.array(mask)), at[mask])


# --------------------------------------------------------------------------------------------------------------- labels


def _label_problems(
    config: Verify, rows: pa.Table, verdicts: pa.Table, at: np.ndarray, n_correct: np.ndarray
) -> tuple[list[str | None], dict[int, dict[str, Any]]]:
    """The label problem of each row, or None, and evidence for the rows that have one."""
    problem: list[str | None] = [None] * len(rows)
    evidence: dict[int, dict[str, Any]] = {}
    golds = rows["answer"].to_pylist()
    for row in _golds_outside_choices(rows):
        problem[row], evidence[row] = "gold_not_in_choices", {"gold": golds[row]}
    policy = Policy(**config.policy)
    for row, (answer, votes) in _contradicted(verdicts, at, config.suspect_agree, n_correct, policy).items():
        problem[row] = "suspect_gold"
        evidence[row] = {"gold": golds[row], "answer": answer, "agree": votes}
    unparsable = pc.equal(verdicts["state"], "unparsable_gold").to_numpy(zero_copy_only=False)
    for row in np.unique(at[unparsable]).tolist():
        problem[row], evidence[row] = "unparsable_gold", {"gold": golds[row]}
    return problem, evidence


def _contradicted(
    verdicts: pa.Table, at: np.ndarray, least: int, n_correct: np.ndarray, policy: Policy
) -> dict[int, tuple[str, int]]:
    """Rows without a correct trace of which at least `least` give one and the same other answer, however written."""
    wrong = pc.equal(verdicts["state"], "incorrect")
    said = pc.coalesce(verdicts["answer_normal"], verdicts["extracted"]).filter(wrong)
    votes = pa.table({"row": pa.array(at[wrong.to_numpy(zero_copy_only=False)]), "answer": said})
    votes = votes.filter(pc.is_valid(votes["answer"])).group_by(["row", "answer"]).aggregate([([], "count_all")])
    by_row: dict[int, list[tuple[int, str]]] = {}
    for line in votes.to_pylist():
        if n_correct[line["row"]] == 0:
            by_row.setdefault(line["row"], []).append((-line["count_all"], line["answer"]))
    found: dict[int, tuple[str, int]] = {}
    for row, answers in by_row.items():
        if -sum(count for count, _ in answers) >= least:
            answer, count = _largest(sorted(answers), policy)
            if count >= least:
                found[row] = (answer, count)
    return found


def _largest(answers: list[tuple[int, str]], policy: Policy) -> tuple[str, int]:
    """The answer that most traces give, with how many: 1/2 and 0.5 are one answer. `answers` are (-count, text)."""
    from curation.answers import check

    groups: list[tuple[str, int]] = []
    for minus, text in answers:
        for index, (known, count) in enumerate(groups):
            if check(known, text, policy=policy).state == "correct":
                groups[index] = (known, count - minus)
                break
        else:
            groups.append((text, -minus))
    return max(groups, key=lambda group: group[1])


def _golds_outside_choices(rows: pa.Table) -> Iterable[int]:
    """Rows with choices whose gold is neither the letters nor the content of any of them."""
    from curation.answers import check

    if pa.types.is_null(rows.schema.field("choices").type):
        return
    listed = pc.fill_null(pc.greater(pc.list_value_length(rows["choices"]), 0), False)
    where = np.flatnonzero(pc.and_(listed, pc.is_valid(rows["answer"])).to_numpy(zero_copy_only=False))
    few = rows.select(["answer", "choices"]).take(pa.array(where))
    for row, gold, choices in zip(where.tolist(), few["answer"].to_pylist(), few["choices"].to_pylist(), strict=True):
        plain = gold.strip().casefold()
        texts = [choice for choice in choices if choice is not None]
        if not plain or plain in {text.strip().casefold() for text in texts}:
            continue
        letters = plain.strip("()[]. ").upper()
        if letters and set(letters) - set(", ") <= set(labels(len(choices))):
            continue
        if not any(check(gold, text).state == "correct" for text in texts):
            yield row


# ---------------------------------------------------------------------------------------------------------------- words


def _fates(config: Verify, table: pa.Table, evidence: dict[int, dict[str, Any]]) -> pa.Table:
    """Rows that go: too few correct traces, or a suspect gold where that is asked for."""
    few = pc.less(table["n_correct"], config.min_correct)
    suspect = pc.fill_null(pc.equal(table["label_problem"], "suspect_gold"), False)
    gone = pc.or_(few, suspect) if config.drop_suspect else few
    where = np.flatnonzero(gone.to_numpy(zero_copy_only=False))
    said = []
    for row, line in zip(where.tolist(), table.take(pa.array(where)).to_pylist(), strict=True):
        proof = {name: line[name] for name in ("n_traces", "n_judged", "n_correct")} | evidence.get(row, {})
        said.append((line["row_id"], *_why(config, line["label_problem"], proof), proof))
    by_reason: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    for row_id, reason, sentence, proof in said:
        by_reason.setdefault(reason, []).append((row_id, sentence, proof))
    tables = [FATE.empty_table()]
    for reason, lines in by_reason.items():
        ids, sentences, proofs = zip(*lines, strict=True)
        tables.append(fates(list(ids), reason=reason, sentence=list(sentences), evidence=list(proofs)))
    return pa.concat_tables(tables)


def _why(config: Verify, problem: str | None, proof: dict[str, Any]) -> tuple[str, str]:
    """Reason and sentence of a row that goes."""
    if problem == "suspect_gold" and config.drop_suspect:
        agreed = f"{proof['agree']} traces agree on {_short(proof['answer'])}"
        return problem, f"{agreed}, but the gold answer is {_short(proof['gold'])}."
    if proof["n_traces"] == 0:
        return "no_trace", "No teacher answered the row, so nothing could be verified."
    if problem == "unparsable_gold":
        return problem, f"The gold answer {_short(proof['gold'])} cannot be read, so no trace could be judged."
    found = f"{proof['n_correct']} of {proof['n_judged']} judgeable traces are correct"
    return "no_correct_trace", f"{found}; the recipe asks for {config.min_correct}."


def _short(text: str | None) -> str:
    flat = " ".join((text or "").split())
    return json.dumps(flat if len(flat) <= 80 else flat[:79] + "…", ensure_ascii=False)


def _notes(config: Verify, table: pa.Table, states: np.ndarray) -> dict[str, Any]:
    names, counts = np.unique(states.astype(str), return_counts=True)
    problems: dict[str, Any] = {}
    for name in ("unparsable_gold", "gold_not_in_choices", "suspect_gold"):
        ids = table.filter(pc.equal(table["label_problem"], name))["row_id"].to_pylist()
        if ids:
            problems[name] = {"rows": len(ids), "examples": sorted(ids)[:EXAMPLES]}
    return {
        "verdicts": dict(zip(names.tolist(), counts.tolist(), strict=True)),
        "label_problems": problems,
        "policy": Policy(**config.policy).key(),
    }
