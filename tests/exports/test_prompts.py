"""Rendering: choices, marks, parts and templates."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation import prompts


def rendered(make, **record) -> str:
    return prompts.render(make.rows([record]))[0].as_py()


@pytest.mark.parametrize(
    ("question", "choices", "expected"),
    [
        ("How many?", ["9", "6"], "How many?\nA. 9\nB. 6"),
        ("How many?", None, "How many?"),
        ("How many?", [], "How many?"),
        # Options in the question: they are not listed again, whatever their blanks are.
        ("Is it? Choices: (A) yes (B) no", ["yes", "no"], "Is it? Choices: (A) yes (B) no"),
        ("朝代是 A．唐  朝 B．宋朝", ["唐朝", "宋朝"], "朝代是 A．唐  朝 B．宋朝"),
        # Values that merely stand in the question have no letter there.
        ("Is it 9 or 6?", ["9", "6"], "Is it 9 or 6?\nA. 9\nB. 6"),
        # The points A and B of a triangle are not a list of options.
        ("In A. and B. lie points.", ["one", "two"], "In A. and B. lie points.\nA. one\nB. two"),
        # Choices with letters of their own.
        ("Pick.", ["A)21", "B)21.5"], "Pick.\nA)21\nB)21.5"),
        # Bare letters: the options are in the picture.
        ("Which figure?", ["A", "B", "C"], "Which figure?"),
        ("Pick.", ["x", None], "Pick.\nA. x\nB. "),
    ],
)
def test_choices_are_listed_once(make, question, choices, expected):
    assert rendered(make, question=question, choices=choices) == expected


def test_rows_of_many_kinds_do_not_disturb_each_other(make):
    records = [
        {"question": "one", "choices": ["a", "b"]},
        {"question": "two"},
        {"question": "three", "choices": []},
        {"question": "Is it? (A) p (B) q", "choices": ["p", "q"]},
        {"question": "five", "choices": ["c"]},
    ]
    whole = prompts.render(make.rows(records)).to_pylist()
    assert whole == [rendered(make, **record) for record in records]
    assert prompts.render(make.rows(records).slice(1, 3)).to_pylist() == whole[1:4]


def test_letters_go_on_after_z():
    assert prompts.labels(28)[-3:] == ["Z", "AA", "AB"]


def test_pictures_without_a_mark_come_first(make):
    assert rendered(make, question="What?", images=["h1", "h2"]) == "<image><image>\nWhat?"
    assert rendered(make, question="See <image>.", images=["h1"]) == "See <image>."


def test_disagreeing_marks(make):
    rows = make.rows(
        [
            {"question": "a <image>", "images": ["h"]},
            {"question": "b <image>", "images": []},
            {"question": "c <image>", "images": ["h", "i"]},
            {"question": "d", "images": None},
        ]
    )
    assert prompts.disagreeing_marks(rows, prompts.render(rows)).tolist() == [False, True, True, False]


def test_templates(make):
    rows = make.rows([{"question": "Q", "choices": ["x", "y"], "language": "en"}, {"question": "R"}])
    template = "[{language}] {stem}\n{choices}\nEnd with {{}}."
    assert prompts.render(rows, template).to_pylist() == ["[en] Q\nA. x\nB. y\nEnd with {}.", "[] R\n\nEnd with {}."]
    assert prompts.render(rows, "fixed").to_pylist() == ["fixed", "fixed"]


@pytest.mark.parametrize(
    "text", ["{answer}", "{question:>3}", "{question!r}", "{", "{}", "{question.x}", "<image>{question}"]
)
def test_a_wrong_template_is_refused(text):
    with pytest.raises(ValueError):
        prompts.parse_template(text, tuple(prompts.PROMPT_FIELDS))


TEXT = st.lists(st.sampled_from(["<image>", "a", " ", "\n", "é", "<image", "{x}"]), max_size=6).map("".join)


@given(st.lists(TEXT, min_size=1, max_size=5))
def test_parts_say_the_same_as_the_string(texts):
    """Joined again with marks, parts are the text; no text part is empty, and there are as many pictures as marks."""
    (messages,) = [prompts.conversations([("user", pa.array(texts))], content="parts").to_pylist()]
    for text, (turn,) in zip(texts, messages, strict=True):
        parts = turn["content"]
        assert "".join("<image>" if p["type"] == "image" else p["text"] for p in parts) == text
        assert all(p["text"] for p in parts if p["type"] == "text")
        assert [p["text"] for p in parts if p["type"] == "image"] == [None] * len(re.findall("<image>", text))


def test_marks_of_the_assistant_stay_text():
    said = pa.array(["I see <image>."])
    parts = prompts.conversations([("user", pa.array(["Q"])), ("assistant", said)], content="parts").to_pylist()[0]
    assert parts[1]["content"] == [{"type": "text", "text": "I see <image>."}]


def test_urls_need_as_many_pictures():
    messages = prompts.conversations([("user", pa.array(["<image>", "x <image>"]))], content="openai")
    filled = prompts.with_urls(messages, pa.array(["u", "v"])).to_pylist()
    assert filled[1][0]["content"][1] == {"type": "image_url", "text": None, "image_url": {"url": "v"}}
    assert filled[1][0]["content"][0] == {"type": "text", "text": "x ", "image_url": None}
    with pytest.raises(ValueError, match="2 image parts, but 1 urls"):
        prompts.with_urls(messages, pa.array(["u"]))


def test_blocks_cover_everything_once():
    spans = list(prompts.blocks(1000, 1 << 30, rows=300, limit=1 << 28))
    assert sum(n for _, n in spans) == 1000
    assert [start for start, _ in spans] == [sum(n for _, n in spans[:i]) for i in range(len(spans))]
    assert max(n for _, n in spans) == 250
