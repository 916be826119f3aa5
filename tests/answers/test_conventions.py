"""The conventions of docs/answers.md, one pair each, and their options."""

from __future__ import annotations

import pytest

from curation.answers import Policy, check, extract
from tests.answers.cases import CHOICE_CASES, CHOICES, CONVENTIONS, EXTRACTIONS


@pytest.mark.parametrize(("gold", "answer", "expected", "why"), CONVENTIONS)
def test_convention(gold: str, answer: str, expected: bool, why: str) -> None:
    verdict = check(gold, answer)
    assert (verdict.state == "correct") is expected, (why, verdict)


@pytest.mark.parametrize(("gold", "answer", "expected", "why"), [c for c in CONVENTIONS if c[2]])
def test_equality_survives_a_box(gold: str, answer: str, expected: bool, why: str) -> None:
    assert check(gold, f"So we find \\boxed{{{answer}}}.").state == "correct", why


@pytest.mark.parametrize(("gold", "response", "expected"), CHOICE_CASES)
def test_choice(gold: str, response: str, expected: bool) -> None:
    verdict = check(gold, response, kind="choice", choices=CHOICES)
    assert (verdict.state == "correct") is expected, verdict


@pytest.mark.parametrize(("response", "text", "rule"), EXTRACTIONS)
def test_extraction(response: str, text: str, rule: str) -> None:
    found = extract(response)
    assert (found.text, found.rule) == (text, rule)
    if rule not in ("none", "boxes"):
        assert response[found.start : found.end].strip("*") in text or text in response[found.start : found.end]


def test_options_inside_the_question() -> None:
    question = "What is it?\n(A) $1$\n(B) $\\frac{1}{2}$\n(C) $3$"
    assert check("B", "The answer is 0.5", question=question).state == "correct"
    assert check("A", "The answer is 0.5", question=question).state == "incorrect"
    assert check("C", "C", question="Which? A．河南  B．河北  C．陕西  D．山东").state == "correct"


def test_several_letters() -> None:
    options = ["a", "b", "c", "d", "e"]
    assert check("AE", "A, E", choices=options).state == "correct"
    assert check("AE", "AE", choices=options).state == "correct"
    assert check("AE", "A", choices=options).state == "incorrect"


def test_gold_that_is_no_option_is_reported() -> None:
    verdict = check("Z9", "B", kind="choice", choices=["1", "2"])
    assert verdict.state == "unparsable_gold"


def test_letter_that_is_a_label_and_a_content_is_open() -> None:
    assert check("D", "E", kind="choice", choices=["A", "B", "C", "E", "none"]).state == "undecided"


OPTIONS = [
    ({"percent_sign_optional": False}, r"10\%", "10", "incorrect"),
    ({"missing_unit": "refuse"}, "5 cm", "5", "incorrect"),
    ({"assignment_optional": False}, "x=3", "3", "incorrect"),
    ({"lowest_terms": True}, "1/2", "2/4", "incorrect"),
    ({"gold_rounding_digits": 0}, "3.1416", "3.14159", "incorrect"),
    ({"answer_rounding_digits": 0}, r"\frac{2}{3}", "0.6667", "incorrect"),
    ({"tolerance": 0.01}, "9.81", "9.8", "correct"),
    ({"tolerance": 0.01}, "981", "980", "incorrect"),
    ({"unordered_lists": False}, "1, 2", "2, 1", "incorrect"),
    ({"decimal_comma": False}, "2.74", "2,74", "incorrect"),
    ({"last_box_only": True}, "3", r"\boxed{2} and \boxed{3}", "correct"),
    ({"text_containment": False}, "Paris", "It is the city of Paris, of course", "undecided"),
    ({"symbolic": False}, "w(12.5-w)=25", "2w+50/w=25", "undecided"),
]


@pytest.mark.parametrize(("options", "gold", "answer", "state"), OPTIONS)
def test_option(options: dict, gold: str, answer: str, state: str) -> None:
    assert check(gold, answer, policy=Policy(**options)).state == state
    assert Policy(**options).key() != Policy().key()


def test_weak_extraction_is_an_option() -> None:
    reply = "We walk along the river for a while and look at the ducks. " * 9 + "Then we count 17 ducks in the end."
    assert check("17", reply).state == "correct"
    assert check("17", reply, policy=Policy(weak_extraction=False)).state == "no_answer"


def test_truncated_is_its_own_state() -> None:
    assert check("5", "so \\boxed{5} and", truncated=True).state == "truncated"
    assert check("5", "so \\boxed{5} and", truncated=True, policy=Policy(judge_truncated=True)).state == "correct"


def test_states_that_judge_nothing() -> None:
    assert check("", "5").state == "unparsable_gold"
    assert check(None, "5").state == "unparsable_gold"
    assert check("5", "").state == "no_answer"
    assert check("5", None).state == "no_answer"
    assert check("3", "NameError: name 'x' is not defined on line 3").state == "no_answer"


def test_several_golds() -> None:
    assert check("a", "It was Google Maps.", kind="text", golds=["Gmaps", "Google Maps"]).state == "correct"


def test_an_order_that_was_asked_for_counts() -> None:
    assert check("1, 2, 3", "3, 2, 1").state == "correct"
    assert check("1, 2, 3", "3, 2, 1", question="Sort 2, 3, 1 in increasing order.").state == "incorrect"


def test_one_line_for_each_blank() -> None:
    assert check("(3,6)\n(7,8)", "(3,6), (7,8)").state == "correct"
    assert check("12\n6", "6\n12").state == "incorrect"


def test_hedging_loses() -> None:
    assert check("5", "The answer is 5 or 6").state == "incorrect"
    assert check("0.4", "the answer is [0.46, 0.4]").state == "incorrect"


def test_a_declared_answer_beats_a_trailing_number() -> None:
    assert check("12", "The answer is 12. I used 3 steps and 99 lines.").state == "correct"
    assert check("99", "The answer is 12. I used 3 steps and 99 lines.").state == "incorrect"


def test_the_defects_of_a_known_reward() -> None:
    """Pairs that a published reward accepts or refuses wrongly."""
    assert check(r"-\frac{12}{13}", r"\boxed{\frac{12}{13}}").state == "incorrect"
    assert check(r"10\sqrt{3}", r"\boxed{110\sqrt{3}}").state == "incorrect"
    assert check("1234567890", r"\boxed{123456789}").state == "incorrect"
    assert check("J", r"\boxed{J}", choices=list("abcdefghij")).state == "correct"
    assert check("3 apples and 5 oranges", "5").state != "correct"
    assert check("x^2+1", "1+x^2").state == "correct"
    quoted = "<think>the form is <answer>7</answer></think><answer>8</answer>"
    assert check("8", quoted).state == "correct"
    assert check(7, "7").state == "correct"  # type: ignore[arg-type]
