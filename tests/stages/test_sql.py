"""sql: ids left out, columns added, and everything that a query must not return."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from curation import stages
from curation.stages.base import Context
from curation.stages.sql import Sql, needs
from schemas.errors import WinnowError
from schemas.rows import TRACE

STAGE = stages.load()["sql"]


def some(lab: Any) -> pa.Table:
    return lab.rows([{"question": "a" * n, "answer": str(n % 3)} for n in range(12)])


def test_left_out_rows_are_dropped_by_name(lab: Any, context: Context) -> None:
    rows = some(lab)
    outcome = lab.all(
        STAGE, Sql(query="select row_id from rows where answer <> '0';", reason="no zeros"), rows, context
    )
    fates = outcome.fates.to_pylist()
    assert {f["row_id"] for f in fates} == {r["row_id"] for r in rows.to_pylist() if r["answer"] == "0"}
    assert {f["reason"] for f in fates} == {"sql:here"}
    assert fates[0]["sentence"] == "no zeros: the query of stage here does not return this row."
    assert json.loads(fates[0]["evidence"]) == {"query": "select row_id from rows where answer <> '0'"}
    assert outcome.columns is None and outcome.repeat is None


def test_columns_are_added_with_bound_types(lab: Any, context: Context) -> None:
    query = "select row_id, length(question) as n, sum(length(question)) over (partition by answer) as total from rows"
    config = Sql(query=query)
    assert STAGE.writes(config) == {"n": pa.int64(), "total": pa.int64()}
    outcome = lab.all(STAGE, config, some(lab), context)
    found = outcome.columns.sort_by("n").to_pylist()
    assert [r["n"] for r in found] == list(range(12))
    assert [r["total"] for r in found[:3]] == [0 + 3 + 6 + 9, 1 + 4 + 7 + 10, 2 + 5 + 8 + 11]


def test_select_star_adds_nothing_but_what_is_spelled_out(lab: Any, context: Context) -> None:
    assert STAGE.writes(Sql(query="select * from rows where n_tokens > 3")) == {}
    assert STAGE.writes(Sql(query="select *, upper(answer) as loud from rows")) == {"loud": pa.string()}
    schema = some(lab).schema
    assert list(STAGE.check(Sql(query="from rows"), schema)) == []  # type: ignore[misc]


def test_types_that_rest_on_other_stages_are_declared(lab: Any, context: Context) -> None:
    rows = lab.rows([{"level": 3}, {"level": 5}])
    bare = Sql(query="select row_id, level + 1 as higher from rows")
    assert STAGE.writes(bare) == {}
    (problem,) = STAGE.check(bare, rows.schema)  # type: ignore[misc]
    assert problem.hint == "Add to the stage: columns: {higher: int64}"
    declared = Sql(query=bare.query, columns={"higher": "int64"})
    assert list(STAGE.check(declared, rows.schema)) == []  # type: ignore[misc]
    assert sorted(lab.all(STAGE, declared, rows, context).columns["higher"].to_pylist()) == [4, 6]
    with pytest.raises(ValidationError, match="there is no type"):
        Sql(query=bare.query, columns={"higher": "integer"})


def test_check_names_what_cannot_be(lab: Any) -> None:
    schema = some(lab).schema

    def said(query: str) -> str:
        return " ".join(f"{p.message} {p.hint}" for p in STAGE.check(Sql(query=query), schema))  # type: ignore[misc]

    assert "must return row_id" in said("select question from rows")
    assert "cannot be written" in said("select row_id, 'x' as source from rows")
    assert "cannot hold 'd'" in said("select row_id, date '2020-01-01' as d from rows")
    assert "not found" in said("select row_id from rows where colour = 'red'")


def test_traces_are_in_reach(lab: Any, context: Context) -> None:
    rows = some(lab)
    ids = rows["row_id"].to_pylist()
    blank = dict.fromkeys(TRACE.names)
    traces = pa.Table.from_pylist(
        [blank | {"row_id": ids[i], "k": k, "finish": "finished"} for i in (1, 4) for k in range(i)], schema=TRACE
    )
    config = Sql(query="select row_id, count(*) as responses from traces group by row_id")
    assert needs(config) == "traces" and needs(Sql(query="select row_id from rows")) == "rows"
    assert list(STAGE.reads(config)) == ["row_id"]
    outcome = lab.all(STAGE, config, rows, context, traces=traces)
    assert {r["row_id"]: r["responses"] for r in outcome.columns.to_pylist()} == {ids[1]: 1, ids[4]: 4}
    assert len(outcome.fates) == 10


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("select 'ffffffffffffffffffff' as row_id from rows", "was not given"),
        ("select row_id from rows union all select row_id from rows", "more than once"),
        ("select null::varchar as row_id from rows", "is NULL"),
        ("select row_id, 0 as repeat from rows", "repeat must be 1 or more"),
        ("select row_id, question::int as n from rows", "the query fails"),
        ("select question from rows", "must return row_id"),
    ],
)
def test_bad_answers_are_errors(lab: Any, context: Context, query: str, said: str) -> None:
    with pytest.raises(WinnowError, match=said):
        lab.all(STAGE, Sql(query=query), some(lab), context)


def test_repeat(lab: Any, context: Context) -> None:
    outcome = lab.all(
        STAGE,
        Sql(query="select row_id, length(question) + 1 as repeat from rows where length(question) < 3"),
        some(lab),
        context,
    )
    assert sorted(outcome.repeat["repeat"].to_pylist()) == [2, 3]
    assert outcome.repeat.schema.field("repeat").type == pa.int32()


@pytest.mark.parametrize("seed", range(3))
def test_order_of_rows_makes_no_difference(lab: Any, context: Context, seed: int) -> None:
    config = Sql(
        query="select row_id, rank() over (order by length(question), row_id) as place from rows order by place limit 5"
    )
    one, other = (lab.all(STAGE, config, t, context) for t in (some(lab), lab.shuffled(some(lab), seed)))
    assert one.columns.sort_by("row_id") == other.columns.sort_by("row_id")
    assert one.fates.sort_by("row_id") == other.fates.sort_by("row_id")
