"""Inputs made to hang, crash or fool a checker: (name, gold, response)."""

from __future__ import annotations

import random


def hostile_inputs() -> list[tuple[str, str, str]]:
    """More than seventy inputs; every one must end within the limit and leave the next one alone."""
    noise = random.Random(5)
    letters = "".join(noise.choice("abc{}[]()$\\^_ 0123456789,.;:!%") for _ in range(200_000))
    long_text = "The answer is not yet known. " * 40_000
    towers = {
        "power tower": "9^{9^{9}}", "power tower of four": "10^{10^{10^{10}}}", "ascii tower": "9**9**9**9",
        "huge factorial": "9999999!", "nested factorial": "((9!)!)!", "huge binomial": r"\binom{99999999}{4444444}",
        "huge exponent": "2^{99999999999}", "negative huge exponent": "2^{-99999999999}",
        "huge root": r"\sqrt[99999999]{2}",
        "scientific overflow": "1e999999", "scientific underflow": "1e-999999", "tower in a sine": r"\sin(9^{9^9})",
        "exponential tower": r"e^{e^{e^{e^{e}}}}", "factorial quotient": r"\frac{99999!}{99998!}",
        "sum of a million": r"\sum_{k=1}^{1000000} k", "sum to infinity": r"\sum_{k=1}^{\infty} \frac{1}{k^2}",
        "product of many": r"\prod_{k=1}^{99999} k",
        "nested sums": r"\sum_{i=1}^{199} \sum_{j=1}^{199} \sum_{k=1}^{199} ijk",
        "power of a polynomial": "(x+y+z+w)^{200}", "nested powers": "((((x^9)^9)^9)^9)^9",
        "huge base": "12345678901234567890^{12345}",
        "gcd of towers": r"\gcd(9^{99}, 3^{999})", "modulus of a tower": r"7^{7^{7^7}} \bmod 10",
        "logarithm of a tower": r"\ln(9^{9^9})",
    }  # fmt: skip
    repeats = {
        "open braces": "{" * 50_000, "close braces": "}" * 50_000, "open brackets": "(" * 50_000,
        "mixed brackets": "([{" * 20_000,
        "unclosed boxes": r"\boxed{" * 8_000, "closed boxes": r"\boxed{1}" * 8_000,
        "nested boxes": r"\boxed{" * 3_000 + "1" + "}" * 3_000,
        "answer openings": "<answer>" * 20_000, "answer closings": "</answer>" * 20_000,
        "answer pairs": "<answer>1</answer>" * 9_000,
        "think openings": "<think>" * 20_000, "think closings": "</think>" * 20_000,
        "think pairs": "<think></think>" * 10_000,
        "dollars": "$" * 50_000, "dollar pairs": "$1$ " * 20_000, "backslashes": "\\" * 50_000,
        "minus signs": "-" * 50_000,
        "plus signs": "1+" * 20_000 + "1", "carets": "2^" * 10_000 + "2",
        "fractions": r"\frac{1}{" * 3_000 + "1" + "}" * 3_000,
        "roots": r"\sqrt{" * 3_000 + "2" + "}" * 3_000, "factorials": "5" + "!" * 10_000, "digits": "7" * 100_000,
        "decimal digits": "0." + "3" * 100_000, "commas": "1," * 30_000 + "1", "thousands": "1" + ",000" * 20_000,
        "spaces": " " * 100_000,
        "newlines": "\n" * 100_000, "stars": "*" * 50_000, "hashes": "####" * 20_000, "hash lines": "#### 1\n" * 10_000,
        "equals": "x=" * 20_000 + "1", "relations": "1<" * 5_000 + "2", "bars": "|" * 20_000,
        "plus-minus": r"1\pm" * 3_000 + "1",
        "unions": r"(0,1)\cup" * 5_000 + "(2,3)", "letters": "x" * 50_000, "words": "the answer is " * 10_000,
        "quotes": '"' * 50_000,
        "combining marks": "e\u0301" * 30_000, "zero width": "\u200b" * 50_000 + "5",
        "right to left": "\u202e" * 50_000 + "5",
        "matrix rows": r"\begin{pmatrix}" + r"1 & 2 \\" * 5_000 + r"\end{pmatrix}",
        "open matrices": r"\begin{pmatrix}" * 5_000,
        "text commands": r"\text{" * 10_000, "left brackets": r"\left(" * 10_000, "subscripts": "x_" * 10_000 + "1",
        "parts": "(1) 2 (2) 3 " * 8_000, "units": "5 cm " * 15_000, "dates": "May 7, 2018 " * 8_000,
        "percent": "5%" * 30_000,
        "repeating decimal": r"0.\overline{" + "123" * 5_000 + "}", "mixed numbers": "1 1/2 " * 10_000,
    }  # fmt: skip
    cases = [(name, "7", text) for name, text in (towers | repeats).items()]
    cases += [(f"{name} as gold", text, "7") for name, text in towers.items()]
    cases += [(f"{name} in a box", "x+1", rf"\boxed{{{text[:20_000]}}}") for name, text in list(repeats.items())[:12]]
    cases += [
        ("one megabyte of prose", "5", long_text), ("one megabyte as gold", long_text, "5"), ("random characters",
        "5", letters),
        ("null bytes", "5", "\x00" * 1000 + "5"), ("lone surrogate", "5", "\ud800 5"), ("lone surrogate as gold",
        "\ud800", "5"),
        ("two towers", "9^{9^9}", "9^{9^9}+1"), ("two factorials", "99999!", "99999!+1"),
        ("hard equation", "x^{17}-3x^5+x-1=0", "x^{17}-3x^5+x-1.0000001=0"),
        ("hard trigonometric equation", r"\sin(x^2+1)=\cos(x^3)", r"\cos(x^3)-\sin(x^2+1)+10^{-9}=0"),
        ("hard inequality", r"x^5-x\sin x>1", r"x^5-x\sin x>1+10^{-9}"),
    ]  # fmt: skip
    return cases
