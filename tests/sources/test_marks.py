"""Image marks: what upstream writes, and the one form in which Winnow keeps them."""

from __future__ import annotations

import pytest

from curation.sources.marks import MarksDisagree, place


@pytest.mark.parametrize(
    "mark", ["<image>", "<Image>", "<image1>", "<image 1>", "<image_1>", "<|image|>", "<|image_1|>", "<|image_pad|>"]
)
def test_one_mark_of_any_form(mark: str) -> None:
    assert place([f"Look at {mark} now."], 1, "agree") == (["Look at <image> now."], [0])


@pytest.mark.parametrize(
    ("question", "images", "placed", "order"),
    [
        ("No mark.", 2, "<image>\n<image>\nNo mark.", [0, 1]),
        ("No mark, no picture.", 0, "No mark, no picture.", []),
        ("<image2> and <image1>", 2, "<image> and <image>", [1, 0]),
        ("<image1>, <image2>, again <image1>", 2, "<image>, <image>, again image 1", [0, 1]),
        ("<image0> <image1>", 2, "<image> <image>", [0, 1]),
        ("<image><image>", 2, "<image><image>", [0, 1]),
    ],
)
def test_agreement(question: str, images: int, placed: str, order: list[int]) -> None:
    assert place([question], images, "agree") == ([placed], order)
    assert place([question], images, "combined") == ([placed], order)


@pytest.mark.parametrize(
    ("question", "images"),
    [("<image>", 2), ("<image>", 0), ("<image1> <image3>", 2), ("<image1> <image>", 2), ("<image1>", 3)],
)
def test_disagreement(question: str, images: int) -> None:
    for how in ("agree", "combined"):
        with pytest.raises(MarksDisagree):
            place([question], images, how)


def test_one_picture_for_all_marks() -> None:
    assert place(["<image1> or <image2>?"], 1, "combined") == (["<image>\nimage 1 or image 2?"], [0])
    assert place(["<image> or <image>?"], 1, "combined") == (["<image>\nimage 1 or image 2?"], [0])


def test_marks_that_are_ignored() -> None:
    assert place(["Is <image1> like <image7>?"], 1, "ignore") == (["<image>\nIs like ?"], [0])


def test_marks_in_choices() -> None:
    texts = ["Which follows <image 1>?", "<image 3>", "<image 2>", "neither"]
    placed = (["Which follows <image>?", "<image>", "<image>", "neither"], [0, 2, 1])
    assert place(texts, 3, "agree") == placed
