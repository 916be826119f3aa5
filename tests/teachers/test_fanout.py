"""Asking: keys, the store between the teacher and everybody else, and what is never asked twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from curation.stages import fanout
from curation.teachers import Answer, Asked, Request, Sampling
from curation.teachers.store import TraceStore
from schemas.errors import WinnowError


class Parrot(Asked):
    """A teacher whose answer is a function of the prompt and the seed. `stop_after` ends it like a lost connection."""

    kind: str = "parrot"
    model: str = "parrot-1"
    stop_after: int | None = None

    def open(self, read_images, recipe_dir: Path) -> Parrot.Open:
        return Parrot.Open(self)

    class Open:
        name, revision = "parrot", "r"
        asked: list[Request]

        def __init__(self, config: Parrot):
            self.model = config.model
            self._stop_after = config.stop_after
            Parrot.Open.asked = []

        def ask(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Answer]:
            for i, request in enumerate(requests):
                if i == self._stop_after:
                    raise WinnowError("the line is dead")
                Parrot.Open.asked.append(request)
                said = " ".join(m.content for m in request.messages)
                # A limit under the length of what it says cuts it.
                whole = f"{said} -> {request.seed % 1000}"
                text = whole[: sampling.max_tokens]
                finish = "finished" if text == whole else "truncated"
                yield Answer(request.key, request.attempt, text, finish, "stop", sampling.max_tokens)


def ask(rows, context, *, n=2, teacher=None, **options):
    config = fanout.Fanout(teacher={"kind": "recorded", "path": "unused"}, n=n, **options)
    traces, notes = fanout._ask(config, teacher or Parrot(), rows, context())
    return traces.to_pylist(), notes


@pytest.fixture
def rows(rows_of):
    return rows_of([{"question": f"q{i}", "choices": ["x", "y"] if i else None, "images": []} for i in range(5)])


def test_every_row_gets_n_answers_of_its_own(rows, context):
    traces, notes = ask(rows, context)
    assert [(t["row_id"][:3], t["k"]) for t in traces] == [(f"00{i}", k) for i in range(5) for k in range(2)]
    assert notes == {"asked": 10, "reused": 0}
    assert len({t["text"] for t in traces}) == 10
    assert traces[2]["text"].startswith("q1\nA. x\nB. y -> ")
    assert {t["teacher"] for t in traces} == {"parrot"}


def test_what_was_answered_is_not_asked_again(rows, context):
    before, _ = ask(rows, context, n=2)
    again, notes = ask(rows, context, n=2)
    assert (again, notes["asked"]) == (before, 0)
    more, notes = ask(rows, context, n=4)
    assert notes == {"asked": 10, "reused": 10}
    assert [t for t in more if t["k"] < 2] == before
    # Rows in another order, or fewer of them, are the same questions.
    _, notes = ask(rows.take([4, 0]), context, n=4)
    assert notes["asked"] == 0
    for other in ({"system": "Think."}, {"temperature": 0.5}, {"seed": 3}, {"template": "{stem}!"}):
        _, notes = ask(rows.slice(0, 1), context, n=2, **other)
        assert notes["asked"] == 2


def test_a_longer_limit_asks_only_for_what_was_cut(rows_of, context):
    rows = rows_of([{"question": "short"}, {"question": "a much longer question than that"}])
    traces, _ = ask(rows, context, max_tokens=14)
    assert [t["finish"] for t in traces] == ["finished"] * 2 + ["truncated"] * 2
    traces, notes = ask(rows, context, max_tokens=60)
    assert notes["asked"] == 2
    assert [(t["finish"], t["attempt"]) for t in traces] == [("finished", 0)] * 2 + [("finished", 1)] * 2
    # And what is finished under the long limit is taken under the short one too.
    assert ask(rows, context, max_tokens=14)[1]["asked"] == 0


def test_a_broken_fan_out_goes_on_where_it_stopped(rows, context):
    with pytest.raises(WinnowError, match="the line is dead"):
        ask(rows, context, teacher=Parrot(stop_after=7))
    traces, notes = ask(rows, context)
    assert notes == {"asked": 3, "reused": 7}
    fresh = replace(context(), workspace=context().workspace.parent / "fresh")
    undisturbed, _ = ask(rows, lambda: fresh)
    assert traces == undisturbed


def test_same_questions_are_asked_once(rows_of, context):
    rows = rows_of([{"question": "same"}, {"question": "same"}])
    traces, notes = ask(rows, context)
    assert notes["asked"] == 2
    assert [t["text"] for t in traces[:2]] == [t["text"] for t in traces[2:]]


def test_pictures_are_part_of_the_question(rows_of, context):
    records = [{"question": "What? <image>", "images": [name]} for name in ("h0", "h1")]
    traces, notes = ask(rows_of(records), context, n=1)
    assert notes["asked"] == 2
    assert Parrot.Open.asked[0].images in (("h0",), ("h1",))
    assert len({t["key"] for t in traces}) == 2


def test_answers_are_durable_before_they_are_reported(rows, context):
    """At the moment when a trace stands in the stage's table, the store on disk has it."""
    traces, _ = ask(rows, context)
    stored = TraceStore(context().workspace / "traces").records(t["key"] for t in traces)
    assert set(stored["key"].to_pylist()) == {t["key"] for t in traces}
