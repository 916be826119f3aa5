"""normalize: what changes, what must not, and that doing it twice is doing it once."""

from __future__ import annotations

from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from curation import stages
from curation.stages.base import Context
from curation.stages.normalize import Normalize
from curation.text import boilerplate
from curation.text.answers import plain
from curation.text.clean import clean

STAGE = stages.load()["normalize"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a  b   c", "a b c"),
        ("  a\t\n", "a"),
        ("a\r\nb\rc\u2028d\x0be", "a\nb\nc\nd\ne"),
        ("a \nb\n\n\n\n\nc", "a\nb\n\nc"),
        ("nu\x00ll \x1bx", "null x"),
        ("zero\u200bwidth \ufeffmark soft\u00adhyphen", "zerowidth mark softhyphen"),
        ("no\u00a0break \u3000wide", "no break wide"),
        ("Cafe\u0301", "Caf\u00e9"),
        ("left \u200eto right", "left to right"),
        ("code:\n    indented  run", "code:\n    indented run"),
    ],
)
def test_clean(before: str, after: str) -> None:
    assert clean(pl.Series([before])).to_list() == [after]


@pytest.mark.parametrize(
    "text",
    [
        "$a  +  b$",
        "\\(a  b\\)",
        "\\[a  b\\]",
        "$$a\n\n\n\nb$$",
        "```\na  b\n\n\n\nc\n```",
        "`a  b`",
        "[asy]\ndraw  (x);\n[/asy]",
        "x² ½ ﬁ ①",
        "שלום \u200fעולם",
        "می\u200cخواهم",
        "👩\u200d👧",
        "Ｆｕｌｌ width",
        "tab\tkept",
    ],
)
def test_clean_leaves_alone(text: str) -> None:
    assert clean(pl.Series([text])).to_list() == [text]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("$$6$$", "6"),
        ("$6$", "6"),
        ("\\(6\\)", "6"),
        ("\\[6\\]", "6"),
        ("6.", "6"),
        ("6;", "6"),
        ("6。", "6"),
        ("3.", "3"),
        ('["AE"]', "AE"),
        ("['AE']", "AE"),
        ('["\\\\frac12"]', "\\frac12"),
        ("1,234", "1234"),
        ("-1,234,567.89", "-1234567.89"),
        ("10,\\!000", "10000"),
        ("1{,}234", "1234"),
        ("1\\,234", "1234"),
        ("\\$ 1,500", "\\$ 1500"),
        ("12,345\\%", "12345\\%"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\text{(A)}", "(A)"),
        ("\\textbf{B}", "B"),
        ("\\dfrac12", "\\frac12"),
        ("ＡＢ１２", "AB12"),
        ("[32,52].", "[32,52]"),
        ("$$ \\boxed{1,234}. $$", "1234"),
        ('["$5$."]', "5"),
        (" B. ", "B"),
        ("5°.", "5°"),
    ],
)
def test_answer_forms(before: str, after: str) -> None:
    assert plain(pl.Series([before])).to_list() == [after]


@pytest.mark.parametrize(
    "text",
    [
        "(0,5)",
        "1,2",
        "[32,52]",
        ".5",
        "-.5",
        "0,123",
        "1,23",
        "1,234,56",
        "(1,234)",
        "{1,234}",
        "1,234 km",
        "[5]",
        '["a","b"]',
        '[""]',
        "$3$ and $4$",
        "\\$5",
        "\\$5$",
        "0.333...",
        "and so on…",
        "11:00 a.m.",
        "U.S.",
        "It is 5. Then 6.",
        "a; b\nc.",
        "\\mathbf{x}",
        "\\text{yes}",
        "x\\;",
        "8:40",
        ".",
        "$",
        "\\boxed{1}, \\boxed{2}",
        "9\\text{ values}",
        "true",
        "[x",
        '["unclosed]',
        "x^{1,000}",
    ],
)
def test_answers_that_stay(text: str) -> None:
    assert plain(pl.Series([text])).to_list() == [text]


@pytest.mark.parametrize("instruction", boilerplate.INSTRUCTIONS, ids=lambda i: i.name)
def test_each_instruction_goes(instruction: boilerplate.Instruction) -> None:
    example = instruction.example
    texts = [
        f"What is x? {example}",
        f"{example}\nQuestion: What is x?",
        f"What is x\n{example}",
        f"{example.upper()} What is x?",
    ]
    assert boilerplate.remove(pl.Series(texts)).to_list() == ["What is x?", "What is x?", "What is x", "What is x?"]
    assert boilerplate.remove(pl.Series([texts[0]]), skip=[instruction.name]).to_list()[0].startswith("What is x? ")
    assert boilerplate.remove(pl.Series([example])).to_list() == [example]
    assert instruction.stem in example.lower()


@pytest.mark.parametrize(
    "text",
    [
        "How do you answer the question using a single word or phrase in Latin?",
        "Explain why people say: think step by step about what you eat.",
        "Hint: Please answer the question requiring a floating-point number with two decimal places and provide the "
        "final value, "
        "e.g., 1.23, 1.34, 1.45, at the end. What is x?",
        "Could you give a brief answer to the letter?",
    ],
)
def test_sentences_that_are_part_of_the_question_stay(text: str) -> None:
    assert boilerplate.remove(pl.Series([text])).to_list() == [text]


def normalized(lab: Any, context: Context, records: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = lab.row(STAGE, Normalize(**options), lab.rows(records), context).columns.to_pylist()
    return found


def test_raw_text_is_kept_beside(lab: Any, context: Context) -> None:
    rows = normalized(
        lab,
        context,
        [
            {"question": "What  is x?", "answer": "$6$"},
            {"question": "Clean.", "answer": "6"},
            {"question": "<image> What  is x?", "question_raw": "<image1>What  is x?", "answer": None},
        ],
    )
    assert [(r["question"], r["question_raw"]) for r in rows] == [
        ("What is x?", "What  is x?"),
        ("Clean.", None),
        ("<image> What is x?", "<image1>What  is x?"),
    ]
    assert [(r["answer"], r["answer_raw"]) for r in rows] == [("6", "$6$"), ("6", None), (None, None)]


def test_choices_are_cleaned_and_answers_that_quote_one_stay(lab: Any, context: Context) -> None:
    rows = normalized(
        lab,
        context,
        [
            {"answer": "$6$", "choices": ["$5$ ", " $6$"]},
            {"answer": "$6$", "choices": ["5", "6", None]},
            {"answer": "$6$", "choices": []},
            {"answer": "$6$", "choices": None},
        ],
    )
    assert [r["choices"] for r in rows] == [["$5$", "$6$"], ["5", "6", None], [], None]
    assert [r["answer"] for r in rows] == ["$6$", "6", "6", "6"]


def test_options(lab: Any, context: Context) -> None:
    record = {"question": "Solve.  Let's think step by step. Think hard!", "answer": "$1,000$"}
    question = "Answer briefly. Solve  it. Think hard!"
    (row,) = normalized(
        lab,
        context,
        [record | {"question": question}],
        text=[],
        keep=["brief"],
        remove=["think hard"],
        answers=["math"],
    )
    assert (row["question"], row["answer"]) == ("Answer briefly. Solve  it.", "1,000")
    (row,) = normalized(lab, context, [record | {"question": question}], boilerplate=False, answers=[])
    assert (row["question"], row["answer"]) == ("Answer briefly. Solve it. Think hard!", "$1,000$")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep": ["breif"]}, "Did you mean 'brief'"),
        ({"remove": ["(unclosed"]}, "no regular expression"),
        ({"remove": ["x*"]}, "empty text"),
        ({"answers": ["thousand"]}, "thousands"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Normalize(**options)


def test_odd_input(lab: Any, context: Context) -> None:
    rows = normalized(
        lab,
        context,
        [{"question": "x " * 500_000, "answer": "$" * 1000}, {"question": "", "answer": ""}, {"question": " \x00 "}],
    )
    assert rows[0]["question"] == ("x " * 500_000).strip()
    assert [r["question"] for r in rows[1:]] == ["", ""]


PIECES = st.sampled_from(
    [
        "$",
        "\\(",
        "\\)",
        "\\boxed{",
        "}",
        "\\text{A}",
        '["',
        '"]',
        "1,234",
        "6",
        ".",
        ";",
        "。",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\u200b",
        "\u0301",
        "e",
        "x",
        "Answer briefly.",
        "Question:",
        "Ａ",
        "`",
        "\t",
        "\x00",
        "\\dfrac",
        "?",
        "[",
        "5",
        ",",
        "\u00a0",
    ]
)
TEXTS = st.one_of(st.none(), st.lists(PIECES, max_size=9).map("".join), st.text(max_size=12))


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=8))
def test_twice_is_once(texts: list[str | None]) -> None:
    series = pl.Series(texts, dtype=pl.String)
    for step in (clean, plain, boilerplate.remove, lambda s: plain(clean(s))):
        once = step(series)
        assert step(once).to_list() == once.to_list()
    assert series.to_list() == texts


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=12), st.lists(st.integers(0, 12), max_size=4))
def test_batches_make_no_difference(
    lab: Any, context: Context, texts: list[tuple[str | None, str | None]], cuts: list[int]
) -> None:
    rows = lab.rows(
        [
            {"question": q, "answer": a, "choices": [a, "6"] if a else None, "content_id": "0", "row_id": f"{i:020x}"}
            for i, (q, a) in enumerate(texts)
        ]
    )
    whole = lab.row(STAGE, Normalize(), rows, context).columns
    cut = lab.row(STAGE, Normalize(), rows, context, cuts=[min(c, len(rows)) for c in cuts]).columns
    assert whole.to_pylist() == cut.to_pylist()
    assert whole.schema == pa.schema(list(STAGE.writes(Normalize()).items()))


@pytest.mark.parametrize(
    ("listed", "want"),
    [
        ('["AE"]', "AE"),
        ('["\\\\frac{1}{2}"]', r"\frac{1}{2}"),  # JSON as it should be
        ('["\\frac{1}{2}"]', r"\frac{1}{2}"),  # JSON would read a form feed
        ('["\\theta + \\nu"]', r"\theta + \nu"),  # a tab and a newline
        ('["\\sqrt{2}"]', r"\sqrt{2}"),  # not JSON at all
        ('["say \\"x\\""]', 'say "x"'),
        ('["a", "b"]', '["a", "b"]'),
    ],
)
def test_a_list_of_one_formula_keeps_its_backslashes(listed: str, want: str) -> None:
    once = plain(pl.Series([listed]))
    assert once.to_list() == [want]
    assert plain(clean(once)).to_list() == [want]
