"""Values for the fuzzer: each as texts that mean it, and texts that mean something near it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import gcd
from typing import Any


@dataclass(frozen=True)
class Value:
    """One value as texts that mean it, and texts that mean something near it."""

    same: tuple[str, ...]
    other: tuple[str, ...]
    choices: tuple[str, ...] | None = None
    symmetric: bool = True
    golds: tuple[str, ...] = ()  # where not all of `same` could be a gold


Maker = Callable[[random.Random], Value]

# ---------------------------------------------------------------------------------------------------------- values


def _signed(r: random.Random, top: int = 999) -> int:
    return r.choice((-1, 1)) * r.randint(1, top)


def integer(r: random.Random) -> Value:
    n = r.choice((r.randint(-20, 99), _signed(r, 10**6), _signed(r, 10**12)))
    same = [str(n), f"${n}$", f"{n}.0", f"{n:,}", rf"\text{{{n}}}", f"{2 * n}/2", f"{n + 7}-7"]
    other = [str(n + r.choice((1, -1))), str(10 * n + 1), f"{n}.5", f"{n + 1:,}"]
    if n:
        other += [str(-n), f"{n}0", f"{n}/7", rf"\frac{{1}}{{{n}}}" if abs(n) > 1 else "7"]
    return Value(tuple(same), tuple(other))


def fraction(r: random.Random) -> Value:
    q = r.choice((3, 7, 9, 11, 13, 17, 19, 21, 23))
    p = r.randint(1, 200)
    while gcd(p, q) != 1:
        p += 1
    s, k = r.choice(("", "-")), r.randint(2, 9)
    same = [f"{s}{p}/{q}", rf"{s}\frac{{{p}}}{{{q}}}", rf"{s}\dfrac{{{p}}}{{{q}}}", f"{s}{k * p}/{k * q}",
            rf"\frac{{{s}{p}}}{{{q}}}", rf"$ {s}{p} \div {q} $"]  # fmt: skip
    if p > q:
        same += [f"{s}{p // q} {p % q}/{q}", rf"{s}{p // q}\frac{{{p % q}}}{{{q}}}"]
    minus = "" if s else "-"
    other = [
        f"{minus}{p}/{q}",
        f"{s}{q}/{p}" if p != 1 else f"{s}{q}",
        f"{s}{p + 1}/{q}",
        f"{s}{p}/{q + 1}",
        f"{s}{p}{q}",
    ]
    return Value(tuple(same), tuple(other))


def decimal(r: random.Random) -> Value:
    places = r.randint(1, 4)
    n = _signed(r, 10**5)
    while n % 10 == 0:
        n += 1
    value = Fraction(n, 10**places)
    text = _decimal(n, places)
    same = [text, text + "0", f"{value.numerator}/{value.denominator}", rf"{_decimal(n, places + 2)} \times 10^{{2}}",
            rf"\({text}\)"]  # fmt: skip
    other = [_decimal(n + r.choice((1, -1, 5)), places), _decimal(-n, places), _decimal(n, places + 1), str(n)]
    return Value(tuple(same), tuple(other), symmetric=False)


def _decimal(n: int, places: int) -> str:
    digits = f"{abs(n):0{places + 1}d}"
    return f"{'-' if n < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def percent(r: random.Random) -> Value:
    n = r.randint(1, 400)
    same = [f"{n}%", rf"{n}\%", f"{n} percent", f"{n}/100", f"${n}\\%$", _decimal(n, 2)]
    other = [f"{n + 1}%", f"{n}0%", f"{n}.7%", f"-{n}%", f"{n + 1}/100"]
    return Value(tuple(same), tuple(other), symmetric=False)


_UNITS = [("mm", 1), ("cm", 10), ("m", 1000)], [("g", 1), ("kg", 1000)], [("s", 1), ("min", 60), ("hours", 3600)]


def quantity(r: random.Random) -> Value:
    scale = r.choice(_UNITS)
    (small, a), (large, b) = sorted(r.sample(scale, 2), key=lambda u: u[1])
    n, ratio = r.randint(1, 99), b // a
    same = [
        f"{n} {large}",
        rf"{n}\text{{ {large}}}",
        rf"{n}\,\mathrm{{{large}}}",
        f"{n * ratio} {small}",
        f"${n}$ {large}",
    ]
    wrong = r.choice([u for group in _UNITS if group is not scale for u, _ in group])
    other = [f"{n} {small}", f"{n + 1} {large}", f"{n} {wrong}", f"{n * ratio} {large}", f"-{n} {large}"]
    return Value(tuple(same), tuple(other))


def money(r: random.Random) -> Value:
    n = r.randint(2, 5000)
    same = [f"${n}", rf"\${n}", f"{n} dollars", f"${n}.00", f"{n * 100} cents", f"${n:,}"]
    other = [f"${n + 1}", f"€{n}", f"{n} cents", f"${n}.50", f"{n} euros"]
    return Value(tuple(same), tuple(other))


def clock(r: random.Random) -> Value:
    hour, minute = r.randint(1, 11), r.randint(0, 59)
    half, later = r.choice((("am", 0), ("pm", 12)))
    same = [f"{hour}:{minute:02d} {half}", f"{hour}:{minute:02d} {half.upper()}", f"{hour}:{minute:02d} {half[0]}.m.",
            rf"{hour}:{minute:02d}\text{{ {half[0]}.m.}}", f"{hour + later}:{minute:02d}"]  # fmt: skip
    flipped = {"am": "pm", "pm": "am"}[half]
    other = [
        f"{hour}:{minute:02d} {flipped}",
        f"{hour}:{(minute + 1) % 60:02d} {half}",
        f"{hour + 1}:{minute:02d} {half}",
    ]
    return Value(tuple(same[: 4 if hour + later < 13 else 5]), tuple(other))


_MONTHS = ("January", "February", "March", "April", "June", "July", "August", "September", "October", "November")


def date(r: random.Random) -> Value:
    month, day, year = r.randrange(10), r.randint(13, 28), r.randint(1500, 2030)
    name = _MONTHS[month]
    same = [f"{name} {day}, {year}", f"{day} {name} {year}", f"{name[:3]} {day}, {year}", f"{name} {day}th, {year}"]
    other = [f"{name} {day - 1}, {year}", f"{name} {day}, {year + 1}", f"{_MONTHS[month - 1]} {day}, {year}"]
    return Value(tuple(same), tuple(other))


def scientific(r: random.Random) -> Value:
    n, power = r.randint(11, 99), r.choice((-9, -6, -5, 5, 6, 8, 12))
    if n % 10 == 0:
        n += 1
    head = f"{n // 10}.{n % 10}"
    same = [rf"{head} \times 10^{{{power}}}", f"{head}e{power}", rf"{head}\cdot10^{{{power}}}", f"{head}*10^{power}",
            rf"{n} \times 10^{{{power - 1}}}", f"{head} × 10^{power}"]  # fmt: skip
    other = [rf"{head} \times 10^{{{-power}}}", f"{head}e{power + 1}", rf"-{head} \times 10^{{{power}}}",
             rf"{head}1 \times 10^{{{power + 1}}}", head]  # fmt: skip
    return Value(tuple(same), tuple(other), symmetric=False)


def point(r: random.Random) -> Value:
    a, b = _signed(r, 40), _signed(r, 40)
    while abs(a) == abs(b):
        b += 1
    same = [
        f"({a},{b})",
        f"({a}, {b})",
        rf"\left({a}, {b}\right)",
        f"( {a} , {b} )",
        rf"({a},\,{b})",
        f"({2 * a}/2, {b})",
    ]
    other = [f"({b},{a})", f"({a},{b + 1})", f"({-a},{b})", f"({a})", f"({a},{b},0)", f"{a * b}"]
    return Value(tuple(same), tuple(other))


def several(r: random.Random) -> Value:
    items = r.sample(range(-30, 60), r.randint(2, 5))
    mixed = r.sample(items, len(items))
    texts = [str(i) for i in mixed]
    same = [", ".join(map(str, items)), ", ".join(texts), f"{', '.join(texts[:-1])} and {texts[-1]}",
            rf"\{{{', '.join(texts)}\}}", ";".join(texts), "$" + ", ".join(texts) + "$",
            " or ".join(f"x = {t}" for t in texts)]  # fmt: skip
    fewer, changed = texts[:-1], [*texts[:-1], str(mixed[-1] + 100)]
    other = [", ".join(fewer), ", ".join(changed), ", ".join([*texts, "77"]), rf"\{{{', '.join(changed)}\}}"]
    return Value(tuple(same), tuple(other))


def interval(r: random.Random) -> Value:
    a = r.randint(-30, 30)
    b = a + r.randint(1, 40)
    left, right = r.choice("[("), r.choice("])")
    less, more = (r"\le" if left == "[" else "<"), (r"\le" if right == "]" else "<")
    flip = {"[": "(", "(": "[", "]": ")", ")": "]"}
    same = [f"{left}{a},{b}{right}", rf"\left{left}{a}, {b}\right{right}", rf"{a} {less} x {more} {b}",
            rf"x \in {left}{a}, {b}{right}"]  # fmt: skip
    other = [f"{flip[left]}{a},{b}{right}", f"{left}{a},{b}{flip[right]}", f"{left}{b},{a}{right}", f"{left}{a},{b + 1}{right}",
             rf"{a} {'<' if left == '[' else chr(92) + 'le'} x {more} {b}", rf"{left}{a},\infty)"]  # fmt: skip
    return Value(tuple(same), tuple(other))


def ray(r: random.Random) -> Value:
    a, closed = r.randint(-30, 30), r.random() < 0.5
    op, end = (r"\ge", "[") if closed else (">", "(")
    same = [rf"x {op} {a}", rf"{end}{a},\infty)", rf"{end}{a},+\infty)", rf"x \in {end}{a}, \infty)"]
    other = [rf"x {'>' if closed else chr(92) + 'ge'} {a}", rf"x {chr(92) + 'le' if closed else '<'} {a}",
             rf"(-\infty,{a}{']' if closed else ')'}", f"x {op} {a + 1}", str(a)]  # fmt: skip
    return Value(tuple(same), tuple(other))


def matrix(r: random.Random) -> Value:
    a, b, c, d = r.sample(range(-9, 30), 4)
    same = [rf"\begin{{{n}}} {a} & {b} \\ {c} & {d} \end{{{n}}}" for n in ("pmatrix", "bmatrix", "matrix")]
    same.append(f"[[{a},{b}],[{c},{d}]]")
    other = [rf"\begin{{pmatrix}} {a} & {c} \\ {b} & {d} \end{{pmatrix}}", rf"\begin{{pmatrix}} {a} & {b} \\ {c} & {d + 1} \end{{pmatrix}}",
             rf"\begin{{pmatrix}} {a} & {b} \end{{pmatrix}}", f"({a},{b})"]  # fmt: skip
    return Value(tuple(same), tuple(other))


def polynomial(r: random.Random) -> Value:
    a, b = r.choice((-1, 1)) * r.randint(1, 6), r.choice((-1, 1)) * r.randint(7, 15)
    total, product = a + b, a * b
    same = [f"(x{a:+d})(x{b:+d})", f"(x{b:+d})*(x{a:+d})", f"x^2{total:+d}x{product:+d}", f"{product}+x^{{2}}{total:+d}x",
            f"x(x{total:+d}){product:+d}", rf"\left(x{a:+d}\right)\left(x{b:+d}\right)"]  # fmt: skip
    other = [f"(x{a:+d})(x{-b:+d})", f"x^2{total:+d}x{product + 1:+d}", f"x^2{total + 1:+d}x{product:+d}", f"(y{a:+d})(y{b:+d})",
             f"x^3{total:+d}x{product:+d}", f"{total:d}x{product:+d}", str(product)]  # fmt: skip
    return Value(tuple(same), tuple(other))


def radical(r: random.Random) -> Value:
    a, b = r.randint(2, 15), r.choice((2, 3, 5, 6, 7, 10, 11))
    same = [rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b}}}", f"{a}*sqrt({b})", f"{a}√{b}", rf"\sqrt{{{b}}}\cdot {a}",
            rf"\frac{{{a * b}}}{{\sqrt{{{b}}}}}", f"{a}*{b}^(1/2)"]  # fmt: skip
    other = [rf"-{a}\sqrt{{{b}}}", rf"{a}\sqrt{{{b + 1}}}", rf"{a + 1}\sqrt{{{b}}}", rf"\sqrt{{{a * b}}}", str(a), str(a * b),
             rf"{a}+\sqrt{{{b}}}", rf"{a}\sqrt[3]{{{b}}}"]  # fmt: skip
    return Value(tuple(same), tuple(other))


def transcendental(r: random.Random) -> Value:
    a, b = r.randint(2, 20), r.randint(2, 9)
    shape = r.randrange(4)
    if shape == 0:
        same, other = (
            [rf"{a}\pi", f"{a}π", rf"\pi \cdot {a}", f"{a}*pi"],
            [rf"{a + 1}\pi", rf"-{a}\pi", str(a), rf"\frac{{\pi}}{{{a}}}"],
        )
    elif shape == 1:
        same = [rf"\log_{{{b}}}({b**3})", "3", rf"\frac{{\ln {b**3}}}{{\ln {b}}}"]
        other = [rf"\log_{{{b}}}({b**3 + 1})", "2", rf"\ln {b**3}"]
    elif shape == 2:
        same = [rf"{a}+{b}i", rf"{b}i+{a}", f"{a} + {b} i"]
        other = [f"{a}-{b}i", f"{b}+{a}i" if a != b else f"{a}+{b + 1}i", f"-{a}+{b}i", f"{a + b}"]
    else:
        same, other = (
            [rf"e^{{{a}}}", rf"\exp({a})", rf"e^{{{a - 1}}}\cdot e"],
            [rf"e^{{-{a}}}", rf"e^{{{a + 1}}}", f"{a}e"],
        )
    return Value(tuple(same), tuple(other))


def _written(r: random.Random, tree: Any) -> str:
    """A tree of sums and products written with its members in another order and another notation."""
    if not isinstance(tree, tuple):
        return str(tree)
    op, *members = tree
    texts = [_written(r, member) for member in r.sample(members, len(members))]
    if op == "+":
        return "(" + " + ".join(texts) + ")"
    if op == "*":
        return r.choice(("*", r" \cdot ", r"\times ")).join(f"({text})" for text in texts)
    base = _written(r, members[0])
    return f"({base})^{{{members[1]}}}" if r.random() < 0.5 else f"({base})**{members[1]}"


def _tree(r: random.Random, depth: int) -> Any:
    if depth == 0:
        return r.choice(("x", "y", "z", r.randint(2, 9), rf"\frac{{{r.randint(1, 5)}}}{{7}}"))
    op = r.choice("+*^" if depth > 1 else "+*")
    if op == "^":
        return ("^", _tree(r, depth - 1), r.randint(2, 3))
    return (op, *(_tree(r, depth - 1) for _ in range(r.randint(2, 3))))


def algebra(r: random.Random) -> Value:
    tree = ("+", "x", _tree(r, r.randint(1, 3)))
    same = [_written(r, tree) for _ in range(4)]
    other = [f"{same[0]} + {r.randint(1, 9)}", f"-({same[0]})", f"{same[0]} - y^5", f"2*{same[0]}", f"({same[0]})^2"]
    return Value(tuple(same), tuple(other))


def equation(r: random.Random) -> Value:
    a, b, c, k = _signed(r, 9), _signed(r, 9), _signed(r, 20), r.choice((-3, -2, 2, 5))
    same = [
        f"{a}x{b:+d}y={c}",
        f"{a * k}x{b * k:+d}y={c * k}",
        f"{a}x={c}{-b:+d}y",
        f"{a}x{b:+d}y{-c:+d}=0",
        f"{c}={b}y{a:+d}x",
    ]
    other = [f"{a}x{b:+d}y={c + 1}", f"{a}x{-b:+d}y={c}", f"{a}x{b:+d}y>{c}", f"{a}x{b:+d}y", str(c)]
    return Value(tuple(same), tuple(other))


def assignment(r: random.Random) -> Value:
    n, name = _signed(r, 500), r.choice(("x", "y", "k", "n", r"\theta", "a_1"))
    same = [f"{name}={n}", str(n), f"{name} = {n}", f"{n} = {name}", f"{name}={2 * n}/2"]
    other = [f"{name}={n + 1}", f"{name}={-n}", f"{name}>{n}", f"{n + 1}", f"{name}"]
    return Value(tuple(same), tuple(other))


def powers(r: random.Random) -> Value:
    a, b = r.randint(2, 12), r.randint(2, 9)
    big = r.randint(500, 3000)
    if r.random() < 0.5:
        same, other = (
            [f"{a}^{{{b}}}", str(a**b), f"{a}**{b}", f"{a}^{{{b - 1}}}\\cdot {a}"],
            [f"{a}^{{{b + 1}}}", str(a * b + 1), f"{a}{b}"],
        )
        return Value(tuple(same), tuple(o for o in other if o != str(a**b)))
    same = [f"{a}^{{{big}}}", rf"{a}^{{{big - 1}}} \cdot {a}", f"({a}^{{{2 * big}}})^{{1/2}}"]
    return Value(tuple(same[:2]), (f"{a}^{{{big + 1}}}", f"{a + 1}^{{{big}}}", rf"{a}^{{{big}}}+1", str(a)))


def parts(r: random.Random) -> Value:
    a, b = r.sample(range(1, 90), 2)
    same = [f"(1) {a} (2) {b}", f"(1){a}; (2){b}", f"(1) {a}, (2) {b}.", f"(1) ${a}$ (2) ${b}$"]
    return Value(tuple(same), (f"(1) {b} (2) {a}", f"(1) {a} (2) {b + 1}", f"(1) {a}", str(a)))


_WORDS = ("Paris", "Mount Everest", "Isaac Newton", "photosynthesis", "hydrogen", "Jane Austen", "isosceles", "Amsterdam",
          "blue whale", "gravity", "Nile", "violin", "mitochondria", "Kyoto", "Ludwig van Beethoven")  # fmt: skip


def words(r: random.Random) -> Value:
    one, two = r.sample(_WORDS, 2)
    same = [one, one.lower(), one.upper(), f"the {one}", f"{one}.", f'"{one}"', rf"\text{{{one}}}", f"It is {one}."]
    return Value(
        tuple(same),
        (two, f"not {one}", f"It is {two}, not {one}", f"Neither {one} nor {two}"),
        symmetric=False,
        golds=tuple(same[:-1]),
    )


def choice(r: random.Random) -> Value:
    numbers = r.sample(range(2, 90), 4)
    texts = r.choice(([str(n) for n in numbers], [f"${n}$ cm" for n in numbers], r.sample(_WORDS, 4)))
    at = r.randrange(4)
    letter, text = "ABCD"[at], texts[at]
    wrong = r.choice([i for i in range(4) if i != at])
    same = [letter, f"({letter})", f"{letter}.", f"Option {letter}", f"{letter}) {text}", text, f"**{letter}**", rf"\text{{{letter}}}",
            f"选{letter}", f"{letter}: {text}"]  # fmt: skip
    other = ["ABCD"[wrong], texts[wrong], f"{letter} or {'ABCD'[wrong]}", f"{'ABCD'[wrong]}) {texts[wrong]}", f"not {letter}",
             f"{letter}) {texts[wrong]}"]  # fmt: skip
    return Value((letter, *same), tuple(other), choices=tuple(texts), symmetric=False)


MAKERS: tuple[Maker, ...] = (
    integer, fraction, decimal, percent, quantity, money, clock, date, scientific, point, several, interval, ray, matrix,
    polynomial, algebra, radical, transcendental, equation, assignment, powers, parts, words, choice,
)  # fmt: skip
