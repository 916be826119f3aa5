"""What SQL from people may and may not do, and what is said about it."""

from __future__ import annotations

import pyarrow as pa
import pytest

from curation import sqlguard
from schemas.rows import ROW, TRACE


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("length(question) < 4000", ["question"]),
        ("rows.answer = 'random()' -- now()", ["answer"]),
        ("list_filter(choices, x -> length(x) > 3) = []", ["choices"]),
        ("[q for q in choices if q > answer] <> []", ["answer", "choices"]),
        ("json_extract_string(meta, '$.level') = '5'", ["meta"]),
        ("stats.level > 3", ["stats"]),
        ("true", []),
        ("md5(row_id) < '8'", ["row_id"]),
        ('"now" = 1', ["now"]),
        ("source in ('a', 'b') and answer is not null", ["answer", "source"]),
    ],
)
def test_columns_of_a_condition(text: str, columns: list[str]) -> None:
    assert list(sqlguard.predicate(text).columns) == columns


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("length(question", "syntax error"),
        ("a = 1; drop table rows", "only one SELECT"),
        ("true limit 5", "only a condition"),
        ("true) or (false", "syntax error"),
        ("true group by all", "only a condition"),
        ("random() < 0.5", "does not give the same result"),
        ("uuid() <> id", "does not give the same result"),
        ("a < now()", "does not give the same result"),
        ("a < today()", "does not give the same result"),
        ("a < current_date", "another value every time"),
        ("a > ago(interval 1 day)", "does not give the same result"),
        ("current_setting('threads') = '1'", "does not give the same result"),
        ("list_transform(choices, x -> x || random()) = []", "does not give the same result"),
        ("hash(question) % 10 = 0", "numbers that belong to one engine"),
        ("md5_number(question) % 10 = 0", "numbers that belong to one engine"),
        ("question in (select question from rows)", "no subquery"),
        ("exists (from rows)", "no subquery"),
        ("count(*) > 1", "looks at many"),
        ("sum(n) over (order by row_id) > 1", "looks at many"),
        ("columns(*) is null", "name the columns"),
        ("a = $1", "parameters"),
    ],
)
def test_refused_conditions(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sqlguard.predicate(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("drop table rows", "only one SELECT"),
        ("select 1; select 2", "only one SELECT"),
        ("copy rows to 'x'", "only one SELECT"),
        ("set threads = 4", "only one SELECT"),
        ("pragma version", "only one SELECT"),
        ("describe rows", "not DESCRIBE"),
        ("show tables", "not DESCRIBE"),
        ("select row_id from 'rows.parquet'", "a file is a source"),
        ("select row_id from read_csv('x.csv')", "outside the dataset"),
        ("select row_id from read_parquet('x')", "outside the dataset"),
        ("from glob('*')", "outside the dataset"),
        ("from duckdb_settings()", "outside the dataset"),
        ("from query('select 1')", "outside the dataset"),
        ("select * from information_schema.tables", "outside the dataset"),
        ("select row_id from others", "not part of the dataset"),
        ("select row_id from rows positional join traces", "POSITIONAL"),
        ("select row_id from rows limit 3", "LIMIT without ORDER BY"),
        ("select row_id from (from rows limit 10%)", "LIMIT without ORDER BY"),
        ("select distinct on (question) row_id from rows", "DISTINCT ON"),
        ("select row_id from rows using sample 10", "TABLESAMPLE"),
        ("select row_id from rows tablesample 10%", "TABLESAMPLE"),
        ("select first(row_id) as row_id from rows group by question", "first\\(\\) depends on the order"),
        ("select any_value(row_id) as row_id from rows", "depends on the order"),
        ("select row_id, list(answer) from rows group by 1", "depends on the order"),
        ("select row_id from rows qualify row_number() over (partition by source) = 1", "depends on the order"),
        ("select row_id, lag(answer) over () from rows", "depends on the order"),
        ("select row_id, approx_count_distinct(source) from rows group by 1", "estimate"),
        ("with x as (select random() as r) select row_id from rows, x", "does not give the same result"),
        ("select row_id from rows where question in (select uuid()::varchar)", "does not give the same result"),
        ("select row_id from rows order by random()", "does not give the same result"),
    ],
)
def test_refused_queries(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sqlguard.query(text)


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("select row_id from rows where length(question) > 3", {"row_id", "question"}),
        (
            "select row_id from rows qualify row_number() over (partition by question order by row_id) = 1",
            {"row_id", "question"},
        ),
        ("select row_id from rows order by n_tokens, row_id limit 5", {"row_id", "n_tokens"}),
        (
            "with a as (select source, count(*) as c from rows group by 1) select r.row_id from rows r join a using "
            "(source)",
            {"row_id", "source"},
        ),
        ("select row_id from rows where answer = (select min(answer) from rows)", {"row_id", "answer"}),
        ("select row_id, list(answer order by row_id) as l from rows group by 1", {"row_id", "answer"}),
        ("select row_id from rows join (select 'a' as source) x using (source)", {"row_id", "source"}),
        ("select row_id from rows join (select 1 as level) x using (level)", {"*"}),
        ("select row_id from rows, unnest(choices) as u(c) where u.c = '1'", {"*"}),
        ("select row_id from rows, (select max(n_tokens) as top from rows) s where n_tokens = s.top", {"*"}),
        ("select row_id from rows natural join traces", {"*"}),
        ("select r.row_id from rows r where r.meta like r.answer", {"row_id", "answer", "meta"}),
        ("select * from rows", {"*"}),
        ("from rows", {"*"}),
        ("select row_id, level * 2 as level from rows", {"*"}),
        ("select t.row_id from traces t where t.finish = 'finished' group by 1", {"row_id"}),
        ("select r.row_id from rows r join traces t using (row_id) where t.text like r.answer", {"row_id", "answer"}),
        (
            "select row_id from rows join traces using (row_id) where finish = 'finished' and answer > ''",
            {"row_id", "answer"},
        ),
    ],
)
def test_columns_of_a_query(text: str, columns: set[str]) -> None:
    found = sqlguard.query(text)
    elsewhere = TRACE.names if "traces" in found.tables else ()
    assert set(found.columns(ROW.names, elsewhere)) == columns


def test_bind_gives_types_without_data() -> None:
    given = sqlguard.bind("select row_id, length(question) as n, [answer] as l from rows", {"rows": ROW})
    assert given == pa.schema([("row_id", pa.string()), ("n", pa.int64()), ("l", pa.list_(pa.string()))])


def test_problems_name_the_nearest() -> None:
    unknown = sqlguard.problems(
        "qestion = ''", "select 1 from rows where qestion = ''", {"rows": ROW}, where="where", columns=["qestion"]
    )
    assert [(p.message, p.hint) for p in unknown] == [
        ("where: there is no column 'qestion' at this point of the recipe", "Did you mean 'question'?")
    ]
    function = sqlguard.problems(
        "lenght(question) > 1", "select lenght(question) > 1 from rows", {"rows": ROW}, where="where"
    )
    assert "lenght" in function[0].message and "length" in function[0].hint
    assert sqlguard.problems("true", "select true from rows", {"rows": ROW}, where="where") == []


def test_nothing_outside_is_in_reach() -> None:
    import duckdb

    with pytest.raises(duckdb.Error):
        sqlguard.connection().execute("select * from read_text('/etc/hostname')")
    with pytest.raises(duckdb.Error):
        sqlguard.connection().execute("set threads = 4")
