"""What dedup decides on rows, put into fates, columns and notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.ids import ids_column
from curation.similarity.families import Families, Merge
from curation.similarity.groups import components
from curation.similarity.inherit import Judge, take_traces
from curation.similarity.questions import Questions
from curation.stages.base import Outcome, Rows, fates
from schemas.rows import FATE

EXAMPLES = 20
"""Rows, or groups of rows, that notes name of each kind."""


class Decisions:
    """Collects fates of rows, each at most once, and what is said of rows that stay."""

    def __init__(self, questions: Questions):
        self.questions = questions
        n = len(questions)
        self.alive = np.ones(n, bool)
        self.into = np.full(n, -1, np.int64)
        self.asked = np.zeros(n, bool)
        """Merged rows whose question is that of the other row, and not only close to it."""
        self.notes: dict[str, Any] = {"rows": n}
        self._fates: list[pa.Table] = []
        self._family = np.full(n, -1, np.int64)
        self._conflict = np.full(n, -1, np.int64)

    def id(self, row: int) -> str:
        return bytes(self.questions.row_ids[row]).decode()

    def _give(self, rows: Sequence[int], **said: Any) -> None:
        if len(rows):
            self.alive[list(rows)] = False
            self._fates.append(fates([self.id(row) for row in rows], **said))

    # ------------------------------------------------------------------------------------------------------- duplicates

    def merge(self, merges: Sequence[Merge]) -> None:
        """Rows that are the same as another: their measured similarity, and why the other one stays."""
        from curation.kernels import minhash

        questions = self.questions
        left, right = (np.array([getattr(m, name) for m in merges], np.int64) for name in ("row", "into"))
        shared, union = minhash.jaccard(questions.compared, left, right) if len(merges) else (left, right)
        evidence, sentences, reasons = [], [], Counter[str]()
        for merge, same, whole in zip(merges, shared.tolist(), union.tolist(), strict=True):
            similarity = same / whole if whole else 1.0  # a question that stands in its picture has no text
            by = questions.preference.because(merge.into, merge.row)
            reasons[by] += 1
            pictured = bool(questions.pictured[merge.row])
            proof = {"similarity": round(similarity, 6), "answers": merge.answers, "kept_by": by}
            if pictured:
                proof |= {"pictures": merge.pictures.how}
            if merge.pictures.difference:
                proof |= {"picture_difference": merge.pictures.difference}
            evidence.append(proof)
            sentences.append(_same(pictured, merge, similarity))
        self._give(
            left.tolist(),
            fate="merged",
            reason="duplicate",
            sentence=sentences,
            evidence=evidence,
            into=[self.id(row) for row in right.tolist()],
        )
        self.into[left] = right
        self.asked[left] = questions.text[left] == questions.text[right]
        self.notes["duplicates"] = len(merges)
        self.notes["kept_by"] = dict(sorted(reasons.items()))
        self.notes["between_sources"] = self._between(left, right)

    def _between(self, left: np.ndarray, right: np.ndarray) -> dict[str, int]:
        """`a into b` -> rows of source a that were merged into rows of source b."""
        questions = self.questions
        pairs = Counter(zip(questions.source[left].tolist(), questions.source[right].tolist(), strict=True))
        named = {f"{questions.sources[a]} into {questions.sources[b]}": count for (a, b), count in pairs.items()}
        return dict(sorted(named.items(), key=lambda item: (-item[1], item[0]))[:EXAMPLES])

    def merge_vectors(self, pairs: Sequence[tuple[int, int, float]], reason: str, what: str) -> None:
        """Rows merged by the cosine of their embeddings: (row, into, cosine)."""
        self._give(
            [row for row, _, _ in pairs],
            fate="merged",
            reason=reason,
            sentence=[f"{what} (cosine {cosine:.4f})." for _, _, cosine in pairs],
            evidence=[{"cosine": round(cosine, 6)} for _, _, cosine in pairs],
            into=[self.id(into) for _, into, _ in pairs],
        )
        for row, into, _ in pairs:
            self.into[row] = into
        self.notes[reason] = len(pairs)

    # -------------------------------------------------------------------------------------------------------- conflicts

    def settle_conflicts(self, links: Sequence[tuple[int, int]], do: str) -> None:
        """Rows with one question and picture, and answers that contradict each other."""
        links = [(a, b) for a, b in links if self.alive[a] and self.alive[b]]
        rows = np.unique(np.array(links, np.int64).reshape(-1))
        head = components(len(rows), [np.searchsorted(rows, np.array(links, np.int64).reshape(-1, 2))])
        groups: dict[int, list[int]] = {}
        for row, of in zip(rows.tolist(), head.tolist(), strict=True):
            groups.setdefault(of, []).append(row)
        ordered = [sorted(group, key=self.questions.rank.__getitem__) for group in groups.values()]
        ordered.sort(key=lambda group: int(self.questions.rank[group[0]]))
        for group in ordered:
            self._conflict[group] = group[0] if do == "report" else -1
        named = [[self.id(row) for row in group[:EXAMPLES]] for group in ordered[:EXAMPLES]]
        self.notes["label_conflicts"] = {"questions": len(ordered), "rows": len(rows), "examples": named}
        if do != "drop":
            return
        flat = [(row, group) for group in ordered for row in group]
        self._give(
            [row for row, _ in flat],
            reason="label_conflict",
            sentence=[f"The same question and picture stand {len(group)} times with answers that contradict each other." for _, group in flat],
            evidence=[{"against": [self.id(other) for other in group if other != row][:EXAMPLES]} for row, group in flat],
        )  # fmt: skip

    # --------------------------------------------------------------------------------------------------------- families

    def settle_families(self, families: Families, most: int | None) -> None:
        """Template siblings: named, and where `most` is given no more than so many of a family kept."""
        rank = self.questions.rank
        rows = np.flatnonzero(families.leader >= 0)
        self._family[rows] = families.leader[rows]
        rows = rows[np.lexsort((rank[rows], rank[families.leader[rows]]))]
        heads = families.leader[rows]
        begins = np.flatnonzero(np.r_[True, heads[1:] != heads[:-1]]) if len(rows) else np.empty(0, np.int64)
        sizes = np.diff(np.r_[begins, len(rows)])
        self.notes["families"] = {
            "families": len(begins),
            "rows": len(rows),
            "largest": int(sizes.max(initial=0)),
            "examples": [self.id(int(row)) for row in heads[begins[np.argsort(-sizes, kind="stable")[:EXAMPLES]]]],
        }
        if most is None or not len(rows):
            return
        place = np.arange(len(rows)) - np.repeat(begins, sizes)
        over = np.flatnonzero(place >= most)
        gone, of = rows[over].tolist(), heads[over].tolist()
        self._give(
            gone,
            reason="sibling_over_cap",
            sentence=f"The text of other rows with other numbers or names; {most} of a family are kept.",
            evidence=[
                {"family": self.id(head), "similarity": round(float(families.similarity[row]), 6), "rank": int(place[at]) + 1}
                for row, head, at in zip(gone, of, over, strict=True)
            ],
        )  # fmt: skip
        self.notes["families"]["over_cap"] = len(gone)

    # ---------------------------------------------------------------------------------------------------------- outcome

    def outcome(self, rows: Rows, *, solutions: bool, traces: Judge | None = None) -> Outcome:
        """Everything that was decided. `solutions` fills the missing solutions of kept rows from those merged into
        them; with `traces`, kept rows take the traces of those as well, judged by it."""
        ids = ids_column(self.questions.row_ids)
        columns = {"row_id": ids, "family": self._named(self._family), "label_conflict": self._named(self._conflict)}
        if solutions:
            columns["solution"], self.notes["solutions_taken"] = self._solutions(rows)
        moved = None
        if traces is not None:
            givers = np.flatnonzero(self.asked & (self.into >= 0))
            givers = givers[self.alive[self.into[givers]]]
            moved, measured, self.notes["traces_taken"] = take_traces(
                self.questions, rows, givers, self.into[givers], traces
            )
            columns |= {name: measured[name] for name in measured.column_names[1:]}
        table = pa.concat_tables([FATE.empty_table(), *self._fates])
        return Outcome(columns=pa.table(columns), fates=table, notes=self.notes, moved=moved)

    def _named(self, rows: np.ndarray) -> pa.Array:
        """row_ids of rows, null for -1."""
        return ids_column(self.questions.row_ids).take(pa.array(rows, mask=rows < 0))

    def _solutions(self, rows: Rows) -> tuple[pa.Array, int]:
        column = pa.chunked_array([c for b in rows.batches(["solution"]) for c in b["solution"].chunks], pa.string())
        has = np.asarray(pc.greater(pc.fill_null(pc.utf8_length(column), 0), 0))
        giver: dict[int, int] = {}
        given = np.flatnonzero((self.into >= 0) & has)
        for row in given[np.argsort(self.questions.rank[given])].tolist():
            into = int(self.into[row])
            if not has[into]:
                giver.setdefault(into, row)
        take = np.arange(len(column))
        take[list(giver)] = list(giver.values())
        taken = column.take(pa.array(take))
        return taken.combine_chunks() if isinstance(taken, pa.ChunkedArray) else taken, len(giver)


def _same(pictured: bool, merge: Merge, similarity: float) -> str:
    what = "The same question, picture and answer" if pictured else "The same question and answer"
    if merge.answers == "missing":
        what = "The same question and picture" if pictured else "The same question"
    how = {"pixels": ", from another file of the same pixels", "looks": ", from another copy of the picture"}
    return f"{what} as a row that is kept{how.get(merge.pictures.how, '')} (similarity of the texts {similarity:.3f})."


def first_hashes(questions: Questions, rows: Rows) -> dict[int, str]:
    """The hash of the first picture of each row that has one that the store knows."""
    found: dict[int, str] = {}
    start = 0
    for batch in rows.batches(["images"]):
        for row in np.flatnonzero(questions.pictured[start : start + len(batch)]).tolist():
            dhash = questions.pictures.dhash(batch["images"][row][0].as_py())
            if dhash is not None:
                found[start + row] = dhash
        start += len(batch)
    return found
