"""The parts under the conventions: parser, probing, quantities, dates, choices, words, symbolic worker."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curation.answers import Policy, check, extract, symbolic
from curation.answers.choices import letters_in_prose, letters_of, options_of
from curation.answers.dates import parse_date, parse_time, same_date
from curation.answers.gate import ascii_math
from curation.answers.latex import NoLatex, latex
from curation.answers.normal import normal
from curation.answers.numbers import parse_number
from curation.answers.parser import parse
from curation.answers.probe import proportional, residue, same_value
from curation.answers.text import plain_words
from curation.answers.tree import exact
from curation.answers.units import split_quantity

NUMBERS = [
    ("1,234.5", Fraction(2469, 2)), (r"\frac{3}{4}", Fraction(3, 4)), (r"-\frac12", Fraction(-1, 2)), ("3 1/2",
    Fraction(7, 2)),
    ("1.5e3", Fraction(1500)), (r"7.8\times 10^2", Fraction(780)), ("25%", Fraction(25)), (".5", Fraction(1, 2)),
    ("+7", Fraction(7)),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), NUMBERS)
def test_plain_numbers(text: str, value: Fraction) -> None:
    number = parse_number(text)
    assert number is not None and number.value == value


@pytest.mark.parametrize("text", ["", "x", "1/0", "1,23", "1e99999", "1 2", "12:30", "--5"])
def test_what_is_no_plain_number(text: str) -> None:
    assert parse_number(text) is None


TREES = [
    ("x^10", "x^{10}"), (r"\frac94\pi", r"\frac{9}{4}\cdot\pi"), ("2x(x+1)", "2*x*(x+1)"), ("sin^2 x", r"(\sin(x))^2"),
    ("-x^2", "-(x^2)"), ("1/2x", "(1/2)*x"), ("2^3^2", "2^{9}"), (r"5\lex", r"x\ge5"), ("|x-1|", r"\left|x-1\right|"),
    (r"\sqrt[3]{x}", r"\sqrt[3]{x}"), ("a_{n-1}", "a_{-1+n}"), ("x**2", "x^2"), ("log_2 8", "3"), (r"\log_{10}(100)",
    "2"), ("5!", "120"),
    (r"\binom{5}{2}", "10"), ("10^-5", "0.00001"), (r"\sin 2x \cos x", r"\sin(2x)\cdot\cos(x)"), ("xy", "yx"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "two"), TREES)
def test_two_writings_of_one_expression(one: str, two: str) -> None:
    assert check(one, two, kind="math").state == "correct"


@pytest.mark.parametrize(
    "text", ["the house", "x +", "(1", "[1,2", r"\foo{1}", "1 2", "", "=", "(1,2)+(3,4)", "a ? b", "x" * 5000]
)
def test_what_is_no_expression(text: str) -> None:
    assert parse(text) is None


def test_nesting_is_bounded() -> None:
    assert parse("(" * 30 + "x" + ")" * 30) is not None
    assert parse("(" * 200 + "x" + ")" * 200) is None


def test_probing_sees_small_differences_and_not_the_order() -> None:
    def value(text: str) -> tuple:
        tree = parse(text)
        assert tree
        return tree

    assert same_value(value("x+10^{-20}"), value("x")) is False
    assert same_value(value("(x+y)^5"), value("(y+x)^5")) is True
    assert same_value(value("sqrt(x^2)"), value("x")) is False
    assert same_value(value("sqrt(-4x^2)"), value("2x")) is False
    assert same_value(value("99999!/99998!"), value("7")) is not True
    assert same_value(value("99999!/99998!"), value("99999")) is True
    assert same_value(value(r"\sum_{k=0}^{n-1} F_k F_{n-k-1}"), value(r"\sum_{k=0}^{n-2} F_k F_{n-k-2}")) is False
    assert same_value(value("9^{9^9}+1"), value("9^{9^9}")) is False
    assert same_value(value("10^{10^{10^{10}}}"), value("10^{10}")) is False


def test_rational_functions_are_compared_exactly() -> None:
    def value(text: str) -> tuple:
        tree = parse(text)
        assert tree
        return tree

    big = 29386666666666666666666666666666666666666666
    assert same_value(value(f"n-{big}"), value(f"n-{big}.1")) is False
    assert same_value(value("(x^2-1)/(x-1)"), value("x+1")) is True
    assert same_value(value("x^{2305843009213693951}"), value("x")) is not True, "x^p is x modulo p alone"
    assert same_value(value("x/(y-y)"), value("x/(z-z)")) is not False
    assert same_value(value("(x-x)^0"), value("1")) is not False
    assert proportional(value("-20x+28y-44z-16"), value("5x-7y+11z+4")) == -1
    assert proportional(value("2x^2-2"), value("3x^2-4")) == 0
    assert check(f"{big}=n", f"n={big + 1}").state != "correct"


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(-(10**6), 10**6), st.integers(1, 999), st.integers(1, 60))
def test_residues_follow_exact_values(base: int, over: int, power: int) -> None:
    tree = ("pow", ("div", ("num", Fraction(base)), ("num", Fraction(over))), ("num", Fraction(power)))
    value = exact(tree)
    assert value is not None
    prime = 2_305_843_009_213_693_951
    assert residue(tree, prime) == value.numerator * pow(value.denominator, -1, prime) % prime


QUANTITIES = [
    ("5 cm", "5", "cm"), (r"27 \mathrm{~cm}", "27", "cm"), ("64 square feet", "64", "square feet"),
    (r"9\text{ values}", "9", "values"),
    ("x^2+2x", "x^2+2x", None), ("6C - 5A -1", "6C - 5A -1", None), ("5m", "5m", None), (r"12\pi cm", r"12\pi", "cm"),
    ("3 apples and 5 oranges", "3 apples and 5 oranges", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "body", "unit"), QUANTITIES)
def test_quantities(text: str, body: str, unit: str | None) -> None:
    found_body, found_unit = split_quantity(normal(text))
    assert (found_body, found_unit.text if found_unit else None) == (body, unit)


def test_dates_and_times() -> None:
    assert (
        parse_date("January 15, 2018")
        == parse_date("15th of January 2018")
        == parse_date("2018-01-15")
        == parse_date("2018年1月15日")
    )
    assert parse_date("Maybe 5") is None and parse_date("Mar 99") is None
    assert same_date("May 7", "May 7, 2018") is None
    assert parse_time("3 pm") == (15, 0, 0, True) and parse_time("12:30 a.m.") == (0, 30, 0, True)
    assert parse_time("25:00") is None and parse_time("17") is None


def test_letters_need_a_letters_place() -> None:
    assert letters_of("D, it can't be A or B", "ABCDE") == "D"
    assert letters_of("A triangle", "ABCDE") is None
    assert letters_of("C and D", "ABCDE") == "CD"
    assert letters_in_prose("it is not A, so choose B", "ABCD") == "B"
    assert [o.text for o in options_of(("A)21", "B)22"), None)] == ["21", "22"]


def test_words() -> None:
    assert plain_words("The  Élysée-Palace!") == "elysee-palace"
    assert plain_words("three") == plain_words("3")
    assert check("Paris", "It is not Paris but Rome", kind="text").state != "correct"
    assert check("Robert Browning", "Walter Scott", kind="text").state == "incorrect"
    assert check("Catholicism", "Catholic", kind="text").state == "undecided"
    assert check("Rome", "I'm not sure who that is.", kind="text").state == "no_answer"


def test_latex_is_read_back_as_the_same_tree() -> None:
    for text, _ in TREES:
        tree = parse(normal(text))
        assert tree
        if tree[0] == "idx":
            with pytest.raises(NoLatex):
                latex(tree)
            continue
        again = parse(latex(tree))
        assert again and same_value(tree, again), text


def test_the_symbolic_layer_decides_solutions() -> None:
    verdict = check("w(12.5-w)=25", "2w+50/w=25")
    assert (verdict.state, verdict.method) == ("correct", "symbolic")
    assert check("x^2-1=0", "x-1=0").state == "incorrect"
    with pytest.raises(symbolic.SymbolicTimeout):
        symbolic.compare_trees(
            *(parse(t) for t in (r"\sin(x^2+1)=\cos(x^3)", r"\cos(x^3)-\sin(x^2+1)=0.1")), Policy(deadline_s=0.1)
        )  # type: ignore[arg-type]


# -- fuzz -----------------------------------------------------------------------------------------------------------

_ATOMS = st.sampled_from(
    ["x", "y", "2", "3", "10", "0.5", r"\pi", r"\frac{1}{2}", "(x+1)", r"\sqrt{2}", "n!", "e", "i", "12,345", "1/3"]
)
_JOINS = st.sampled_from(["+", "-", "*", "/", "^", ", ", "=", "<", r" \cdot ", " ", r"\pm ", ";"])


@st.composite
def expressions(draw: st.DrawFn) -> str:
    parts = draw(st.lists(_ATOMS, min_size=1, max_size=6))
    text = parts[0]
    for part in parts[1:]:
        text += draw(_JOINS) + part
    wrap = draw(
        st.sampled_from(
            ["{}", "({})", "[{}]", r"\{{{}\}}", "${}$", r"\boxed{{{}}}", "The answer is {}.", "-{}", r"\left({}\right)"]
        )
    )
    return wrap.format(text)


FUZZ = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
QUICK = Policy(deadline_s=0.3)


@FUZZ
@given(expressions(), expressions())
def test_fuzz_pairs_never_crash_and_are_symmetric_where_equality_is(one: str, two: str) -> None:
    forward, back = check(one, two, kind="math", policy=QUICK), check(two, one, kind="math", policy=QUICK)
    assert forward.state != "checker_error", forward
    exact_pair = not any(m in one + two for m in (".", "answer", "="))
    if exact_pair and "checker_timeout" not in (forward.state, back.state):
        assert (forward.state == "correct") == (back.state == "correct"), (forward, back)


@FUZZ
@given(expressions())
def test_fuzz_an_answer_equals_itself_in_a_box(text: str) -> None:
    if text.startswith(("The", r"\boxed")):
        return
    assert check(text, f"I find \\boxed{{{text}}}", kind="math", policy=QUICK).state == "correct"


@FUZZ
@given(st.text(max_size=400))
def test_fuzz_any_text(text: str) -> None:
    assert check("7", text).state != "checker_error"
    assert check(text, "7").state != "checker_error"
    found = extract(text)
    assert 0 <= found.start <= found.end <= len(text)


@FUZZ
@given(st.fractions(max_denominator=50), st.fractions(max_denominator=50))
def test_fuzz_rationals(a: Fraction, b: Fraction) -> None:
    written = rf"\frac{{{b.numerator}}}{{{b.denominator}}}"
    assert (check(str(a), written).state == "correct") is (a == b)


def test_a_seeded_walk_over_broken_text() -> None:
    generator = random.Random(11)
    alphabet = [
        *list("abcxyz0123456789+-*/^_=<>(){}[]|,.;:!%$\\ \n"),
        r"\frac",
        r"\sqrt",
        r"\boxed{",
        r"\text{",
        "½",
        "−",
        "π",
        "，",
        "是",
    ]
    for _ in range(3000):
        one, two = ("".join(generator.choices(alphabet, k=generator.randint(1, 24))) for _ in range(2))
        assert check(one, two, policy=QUICK).state != "checker_error", (one, two)
        assert ascii_math(one) is not None
