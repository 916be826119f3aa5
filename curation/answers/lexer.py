r"""Tokens of an answer in LaTeX, plain ASCII or a mixture of both.

One regular expression splits the text; what LaTeX writers and JSON layers do to it is undone here, by rules of the
language: doubled backslashes, commands glued to the next letter (`\lex` is `\le x`), `\left`, thin spaces, words of
unit and conjunction inside `\text`. The parser then sees one alphabet, whatever the writer used.

A token is (type, value): num, cmd, id (a run of letters), text (what \text held), op (one character), row (\\).
"""

from __future__ import annotations

import re

from curation.answers.gate import MAX_TOKENS, names

Token = tuple[str, str]


class NotMath(Exception):
    """The text is not an expression of the grammar: not an error, only a reason to look elsewhere."""


FUNCTIONS = names(
    "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc asin acos atan sinh cosh tanh "
    "coth sech csch log ln lg exp sqrt cbrt abs floor ceil ceiling gcd lcm max min det deg arg sgn sign "
    "re im"
)
GREEK = names(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho "
    "sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega hbar "
    "ell"
)
RELATIONS = {
    "le": "<=", "leq": "<=", "leqslant": "<=", "leqq": "<=", "lt": "<", "ge": ">=", "geq": ">=", "geqslant": ">=",
    "geqq": ">=", "gt": ">", "ne": "!=", "neq": "!=", "approx": "~", "simeq": "~", "sim": "~", "in": "in",
    "equiv": "==",
    "eq": "=",
}  # fmt: skip
_OTHER = names(
    "frac dfrac tfrac cfrac sqrt surd pi infty infin cdot times div ast star pm mp cup cap setminus "
    "bigcup bigcap emptyset varnothing mathbb mathbf mathrm mathcal mathit mathsf rm text textbf textit "
    "textrm textnormal mbox operatorname begin end left right big Big bigg Bigg binom dbinom tbinom "
    "choose sum prod int lim to infty overline underline bar vec hat dot ddot widehat overrightarrow "
    "langle rangle lvert rvert vert mid lfloor rfloor lceil rceil circ degree prime angle triangle ldots "
    "cdots dots quad qquad pmod bmod mod colon displaystyle textstyle forall exists land lor cdotp "
    "implies Rightarrow Longrightarrow therefore because iff Leftrightarrow rightarrow limits nonumber "
    "lbrace rbrace lbrack rbrack not perp parallel boxed partial nabla percent mathring cong hline "
    "backslash tilde dotsb dotsc cancel phantom hspace euro pounds space"
)
COMMANDS = (
    _OTHER | frozenset(("boldsymbol", "bm", "number", "mathfrak", "symbf")) | FUNCTIONS | GREEK | frozenset(RELATIONS)
)
_BY_LENGTH = sorted(COMMANDS, key=len, reverse=True)
_LETTER_COMMANDS = frozenset(("boldsymbol", "bm", "number", "mathfrak", "symbf"))  # a font, or a number's grouping
_TEXT_COMMANDS = names("text textbf textit textrm textnormal mbox mathrm mathbf mathit mathsf rm operatorname")
_IGNORED = names("left right big Big bigg Bigg displaystyle textstyle limits quad qquad nonumber hline colon space dot")
_TOKEN = re.compile(
    r"(?P<num>(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+(?![\w.]))?)|(?P<row>\\\\)|\\(?P<cmd>[A-Za-z]+)"
    r"|(?P<space>\s+|~|\\[ ,;:!>]|\$)|(?P<esc>\\[{}%$#&|_])|(?P<id>[A-Za-z]+)"
    r"|(?P<op>\*\*|[<>!]=|=[<>]|->|[-+*/^_!=<>|,;:&()\[\]{}'%])|(?P<bad>.)",
    re.DOTALL,
)
_SPELLINGS = {"**": "^", "=<": "<="}
_HELD = re.compile(r"\s*\{([^{}]*)\}")
_DELIMITER = re.compile(r"\s*(\.|\|)")
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z])")
_THOUSANDS = re.compile(r"(?<![\d.])(\d{1,3})((?:(?:\{,\}|,\\!\s?|\\,|\\!,|,~)\d{3})+)(?!\d)")
_COMMAS = re.compile(r"(?<![\d.,(\[])(\d{1,3})((?:,\d{3})+)(?![\d,])")
_DIGIT_SPACES = re.compile(r"(?<![\d.])(\d{1,3})((?: \d{3})+)(?![\d])")
_REPEATING = re.compile(r"(?<![\d.])(\d*)\.(\d*)\\(?:overline|bar|dot|overset\{\.\})\s*\{(\d+)\}")
_ENVIRONMENT = re.compile(r"\\begin\s*\{")


def _split_command(name: str) -> list[str]:
    """A command name as itself, or as the longest known command followed by letters (`quadx`, `lex`)."""
    if name in COMMANDS:
        return [name]
    for known in _BY_LENGTH:
        if name.startswith(known) and len(known) > 1:
            return [known, name[len(known) :]]
    raise NotMath(f"unknown command \\{name}")


def _is_word(run: str) -> bool:
    return (
        len(run) > 1 and run not in FUNCTIONS and run not in GREEK and run not in ("pi", "or", "and", "inf", "infinity")
    )


def repeating(match: re.Match[str]) -> str:
    """A repeating decimal as the fraction that it is."""
    whole, start, cycle = match[1] or "0", match[2], match[3]
    if len(whole + start + cycle) > 200:
        raise NotMath("a long repeating decimal")
    top = int(whole + start + cycle) - int(whole + start)
    return f"({top}/{'9' * len(cycle)}{'0' * len(start)})"


def tokenize(text: str, thousands: bool = True) -> list[Token]:
    """Tokens of `text` (ASCII math). `thousands` reads `1,234` outside brackets as one number.

    Raises NotMath on characters outside the alphabet and beyond MAX_TOKENS tokens.
    """
    if "\\\\" in text and not _ENVIRONMENT.search(text):
        text = _DOUBLED.sub(r"\\", text)
    if "\\" in text or "{,}" in text:
        text = _THOUSANDS.sub(lambda m: m[1] + re.sub(r"\D", "", m[2]), text)
    if "line" in text or "bar" in text or "dot" in text:
        text = _REPEATING.sub(repeating, text)
    if thousands and "," in text:
        text = _COMMAS.sub(lambda m: m[1] + m[2].replace(",", ""), text)
    if " " in text:
        text = _DIGIT_SPACES.sub(lambda m: m[1] + m[2].replace(" ", ""), text)
    tokens: list[Token] = []
    at, size = 0, len(text)
    while at < size:
        match = _TOKEN.match(text, at)
        assert match
        at = match.end()
        group = match.lastgroup
        value = match[0]
        if group == "num" or group == "row":
            tokens.append((group, value))
        elif group == "op":
            tokens.append(("op", value if len(value) == 1 else _SPELLINGS.get(value, value)))
        elif group == "space":
            continue
        elif (
            group == "id"
            and value[:2] == "or"
            and value[2:3].isalpha()
            and tokens
            and tokens[-1][0] != "id"
            and at < size
            and text[at] in "(="
        ):
            tokens += [("id", "or"), ("id", value[2:])]  # `x=1orx=2`
        elif group == "id" and _is_word(value) and tokens and tokens[-1][0] == "id" and _is_word(tokens[-1][1]):
            raise NotMath(f"words: {tokens[-1][1]} {value}")
        elif group == "id":
            tokens.append((group, value))
        elif group == "esc":
            mark = value[1]
            if mark in "{}":
                tokens.append(("op", "\\" + mark))
            elif mark in "%$":
                tokens.append(("op", mark))
            elif mark == "|":
                tokens.append(("op", "|"))
            elif mark not in "#&_":
                raise NotMath(f"unexpected {value}")
        elif group == "cmd":
            at = _command(match["cmd"], text, at, tokens)
        else:
            raise NotMath(f"unexpected character {value!r}")
        if len(tokens) > MAX_TOKENS:
            raise NotMath(f"more than {MAX_TOKENS} tokens")
    return tokens


def _command(name: str, text: str, at: int, tokens: list[Token]) -> int:
    """Append the tokens of one command; returns where to go on reading."""
    name, *rest = _split_command(name)
    if name in _TEXT_COMMANDS:
        held = _HELD.match(text, at)
        if held:
            if name == "operatorname" or held[1].strip() in FUNCTIONS:
                tokens.append(("cmd", held[1].strip()) if held[1].strip() in FUNCTIONS else ("text", held[1].strip()))
            else:
                tokens.append(("text", held[1].strip()))
            return held.end()
    elif name in ("left", "right", "big", "Big", "bigg", "Bigg"):
        after = _DELIMITER.match(text, at)
        if after and name in ("left", "right"):
            if after[1] == "|":
                tokens.append(("op", "l|" if name == "left" else "r|"))
            return after.end()
    elif name not in _IGNORED and name not in _LETTER_COMMANDS:
        tokens.append(("cmd", name))
    if rest:
        tokens.append(("id", rest[0]))
    return at
