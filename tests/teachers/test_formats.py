"""What a finished answer must look like, and what is repaired."""

from __future__ import annotations

import pytest

from curation.teachers.formats import problem_of, repaired, shape_of


@pytest.mark.parametrize(
    ("text", "think", "think_answer", "boxed", "think_boxed"),
    [
        ("<think>a</think>b", True, False, False, False),
        ("<think>a</think><answer>b</answer>", True, True, False, False),
        ("<think>a</think>\n<answer>\\boxed{2}</answer>\n", True, True, True, True),
        ("a</think>b \\boxed{1{2}3}", True, False, True, True),  # the chat template ate the opening tag
        ("<think>a", False, False, False, False),
        ("<think>a</think>", False, False, False, False),
        ("<think>a</think>  ", False, False, False, False),
        ("<think>a</think><think>b</think>c", False, False, False, False),
        ("<think>\\boxed{1}</think>no box here", True, False, False, False),
        ("\\boxed{1}", False, False, True, False),
        ("\\boxed{1", False, False, False, False),
        ("<think>a</think><answer></answer>", True, False, False, False),
        ("<think>a</think>so <answer>b</answer>", True, False, False, False),
        ("<answer>b</answer>", False, False, False, False),
        ("", False, False, False, False),
    ],
)
def test_formats(text, think, think_answer, boxed, think_boxed):
    shape = shape_of(text)
    found = [problem_of(shape, form) is None for form in ("think", "think_answer", "boxed", "think_boxed")]
    assert found == [think, think_answer, boxed, think_boxed]
    assert problem_of(shape, "any") is None


def test_reasoning_apart_is_a_think_block():
    assert problem_of(shape_of("<answer>b</answer>", "I think"), "think_answer") is None
    assert problem_of(shape_of("", "I think"), "think") == "nothing after the thinking"


def test_repairs_are_named_and_only_those():
    assert repaired("b", "a\n", "any") == ("<think>\na\n</think>\nb", "reasoning_content")
    assert repaired("a</think>b", None, "think") == ("<think>a</think>b", "opened_think")
    assert repaired("a</think>b", None, "any") == ("a</think>b", None)
    assert repaired("a</think>b</think>c", None, "think") == ("a</think>b</think>c", None)
    assert repaired(None, None, "think") == (None, None)
