"""The atoms of the grammar: numbers, letters, brackets, functions with their arguments.

A run of letters is a function, a constant, a Greek name or a product of single letters; a word of four letters or more
is none of these and ends the parse, unless it names the left side of an equation.
"""

from __future__ import annotations

import re
from fractions import Fraction

from curation.answers.gate import names
from curation.answers.lexer import FUNCTIONS, GREEK, NotMath
from curation.answers.reader import (
    CALLS,
    WORD_SEPARATORS,
    Node,
    Reader,
    letter,
    multiplied,
    negated,
    number,
)

ATOM_COMMANDS = (
    FUNCTIONS
    | GREEK
    | names(
        "frac dfrac tfrac cfrac sqrt surd pi infty infin binom dbinom tbinom sum prod int lim overline "
        "underline bar vec hat mathbb mathcal overrightarrow widehat angle triangle begin langle lvert vert "
        "lfloor lceil emptyset varnothing partial lbrace lbrack boxed ell hbar tilde"
    )
)
_OPENERS = {"(": ")", "[": "]", "\\{": "\\}", "{": "}"}
CONSTANT_WORDS = {
    "pi": ("const", "pi"),
    "infinity": ("const", "inf"),
    "infty": ("const", "inf"),
    "inf": ("const", "inf"),
    "oo": ("const", "inf"),
}


class Atoms(Reader):
    """Parses one atom; what joins atoms is the business of the grammar above it."""

    def parse_text(self, text: str) -> Node | None:
        raise NotImplementedError

    def items_until(self, closer: str | None) -> Node:
        raise NotImplementedError

    def sum(self) -> Node:
        raise NotImplementedError

    def product(self) -> Node:
        raise NotImplementedError

    def power(self) -> Node:
        raise NotImplementedError

    def starts_atom(self, node: Node) -> bool:
        raise NotImplementedError

    def root(self, exponent: Node | None = None) -> Node:
        raise NotImplementedError

    def command(self, name: str) -> Node:
        raise NotImplementedError

    def atom(self) -> Node:
        kind, value = self.peek()
        self.at += 1
        if kind == "num":
            return number(value)
        if kind == "id":
            return self.letters(value)
        if kind == "cmd":
            return self.command(value)
        if kind == "text":
            return self.text(value)
        if kind == "op":
            if value in ("|", "l|"):
                return self.absolute("|" if value == "|" else "r|")
            if value in _OPENERS:
                return self.bracketed(value)
            if value == "$":
                return ("cur", self.atom())
        raise NotMath(f"unexpected {value!r}" if value else "unexpected end")

    def text(self, value: str) -> Node:
        word = value.strip()
        if re.fullmatch(r"[A-Za-z]", word):
            return self.subscripted(letter(word))
        if word and all(re.fullmatch(r"[-+*/^().\d\s]+", c) for c in word):
            inner = self.parse_text(word)
            if inner is not None:
                return inner
        raise NotMath(f"words: {word}")

    def absolute(self, closer: str) -> Node:
        self.deeper()
        self.bars += 1
        inner = self.sum()
        self.bars -= 1
        self.depth -= 1
        if not (self.take("op", closer) or self.take("op", "|")):
            raise NotMath("unclosed |")
        return ("fn", "abs", inner)

    def bracketed(self, opener: str) -> Node:
        self.deeper()
        bars, self.bars = self.bars, 0
        closer = _OPENERS[opener]
        kind, value = self.peek()
        if kind == "op" and value in (closer, "]", ")"):
            self.at += 1
            node: Node = ("list", ())
        else:
            node = self.items_until(closer)
            kind, value = self.peek()
            self.at += 1
        self.bars = bars
        self.depth -= 1
        items = node[1] if node[0] == "list" else (node,)
        if opener in ("(", "[") and kind == "op" and value in (")", "]"):
            if len(items) == 1 and (opener, value) in (("(", ")"), ("[", "]")):
                return items[0] if items[0][0] not in ("neg", "num") else ("grp", items[0])
            return ("brk", opener, value, tuple(items))
        if kind == "op" and value == closer:
            if opener == "{" and len(items) == 1:
                return items[0] if items[0][0] not in ("neg", "num") else ("grp", items[0])
            return ("set", tuple(items))
        raise NotMath(f"{opener} is not closed")

    def argument(self) -> Node:
        """A LaTeX argument: a braced group, one digit, one letter or one command."""
        kind, value = self.peek()
        if kind == "num" and len(value) > 1 and value.isdigit():
            self.tokens[self.at] = ("num", value[1:])
            return number(value[0])
        if kind == "id" and len(value) > 1:
            self.tokens[self.at] = ("id", value[1:])
            return letter(value[0])
        if kind == "op" and value == "{":
            inside = self.tokens[self.at + 1 : self.at + 3]
            if len(inside) == 2 and inside[0][0] == "num" and inside[1] == ("op", "}"):
                self.at += 3
                return number(inside[0][1])
            self.at += 1
            self.deeper()
            bars, self.bars = self.bars, 0
            node = self.items_until("}")
            self.bars = bars
            self.depth -= 1
            self.expect("}")
            return node
        if kind == "cmd" and value in ("frac", "sqrt", "dfrac"):
            return self.atom()
        return self.atom()

    def letters(self, run: str) -> Node:
        """A run of ASCII letters: a function, a constant, a name of Greek, or a product of single letters."""
        if run in FUNCTIONS:
            return self.function(run)
        if run.lower() in FUNCTIONS and len(run) > 2:
            return self.function(run.lower())
        if (word := run if len(run) < 4 else run.lower()) in CONSTANT_WORDS:
            return CONSTANT_WORDS[word]
        if run in GREEK:
            return self.subscripted(("sym", run))
        for name in ("sin", "cos", "tan", "log", "sqrt", "ln"):
            if run.startswith(name) and len(run) == len(name) + 1:
                self.at -= 1
                self.tokens[self.at : self.at + 1] = [("id", name), ("id", run[len(name) :])]
                return self.atom()
        for name in ("sqrt", "sin", "cos", "tan", "log"):
            if run.endswith(name) and len(run) <= len(name) + 2:
                self.at -= 1
                self.tokens[self.at : self.at + 1] = [("id", run[: -len(name)]), ("id", name)]
                return self.atom()
        if run.startswith("pi") and len(run) == 3:
            return multiplied(("const", "pi"), self.subscripted(letter(run[2])))
        if len(run) > 3:
            if self.peek() in (("op", "="), ("op", ":")):
                return ("sym", run)
            raise NotMath(f"the word {run}")
        node: Node | None = None
        for position, char in enumerate(run):
            factor = letter(char)
            if position == len(run) - 1:
                factor = self.called(char) if char in CALLS else self.subscripted(factor)
            node = factor if node is None else multiplied(node, factor)
        assert node
        return node

    def called(self, name: str) -> Node:
        """`f(2)` is a call; `f` alone a symbol."""
        if self.peek() == ("op", "_"):
            node = self.subscripted(("sym", name))
            name = f"{node[1]}" if node[0] == "sym" else name
            if node[0] != "sym":
                return node
        marks = ""
        while self.take("op", "'"):
            marks += "'"
        if self.peek() == ("op", "("):
            self.at += 1
            self.deeper()
            inside = self.items_until(")")
            self.depth -= 1
            self.expect(")")
            args = inside[1] if inside[0] == "list" else (inside,)
            return ("call", name + marks, *args)
        return ("sym", name + marks)

    def subscripted(self, node: Node) -> Node:
        if self.peek() != ("op", "_") or node[0] not in ("sym", "const"):
            return node
        self.at += 1
        start = self.at
        kind, value = self.peek()
        if (kind in ("num", "id")) and len(value) >= 1:
            self.at += 1
            return ("sym", f"{node[1]}_{value}")
        if kind == "text":
            self.at += 1
            return ("sym", f"{node[1]}_{value}")
        if (kind, value) == ("op", "{"):
            end = self.at + 1
            while end < len(self.tokens) and self.tokens[end] != ("op", "}"):
                end += 1
            inside = self.tokens[self.at + 1 : end]
            if len(inside) == 1 or all(k in ("id", "text", "num") for k, _ in inside):
                self.at = end + 1
                return ("sym", f"{node[1]}_{''.join(v for _, v in inside)}")
        self.at = start
        return ("idx", node[1], self.argument())

    def function(self, name: str) -> Node:
        name = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "ceiling": "ceil", "lg": "log10"}.get(name, name)
        exponent: Node | None = None
        base: Node | None = None
        for _ in range(2):
            if self.take("op", "^"):
                exponent = self.exponent_argument()
            elif self.take("op", "_"):
                base = self.argument_whole()
        if name == "sqrt":
            return self.root(exponent)
        self.deeper()
        args = self.function_arguments()
        self.depth -= 1
        node: Node
        if name == "log" and base is not None:
            node = ("fn", "logb", base, *args)
        elif name == "log":
            node = ("fn", "log", *args)
        else:
            node = ("fn", name, *args)
        if exponent is not None:
            if exponent == ("neg", ("num", Fraction(1))) and name in ("sin", "cos", "tan", "cot", "sec", "csc"):
                return ("fn", "arc" + name, *args)
            node = ("pow", node, exponent)
        return node

    def exponent_argument(self) -> Node:
        if self.take("op", "-"):
            return negated(self.argument_whole())
        return self.argument_whole()

    def argument_whole(self) -> Node:
        """Like `argument` but a number keeps all its digits: `log_10`, `sin^12`."""
        kind, value = self.peek()
        if kind == "num":
            self.at += 1
            return number(value)
        return self.argument()

    def function_arguments(self) -> tuple[Node, ...]:
        """`sin(x)`, or the product that follows: `\\sin 2x`, up to the next function, plus or minus."""
        if self.peek() == ("op", "("):
            self.at += 1
            bars, self.bars = self.bars, 0
            inside = self.items_until(")")
            self.bars = bars
            self.expect(")")
            if self.peek() == ("op", "^"):
                # sin(x)^2 is (sin x)^2: the caller's power() takes the exponent.
                return inside[1] if inside[0] == "list" else (inside,)
            return inside[1] if inside[0] == "list" else (inside,)
        if self.take("op", "-"):
            node = negated(self.power())
        else:
            node = self.power()
        while True:
            kind, value = self.peek()
            if kind == "cmd" and (value in FUNCTIONS or value not in ATOM_COMMANDS):
                break
            if kind == "id" and (value in FUNCTIONS or value.lower() in WORD_SEPARATORS):
                break
            if kind == "op" and value in ("(", "[", "|", "l|", "{"):
                break
            if (
                kind == "op"
                and value == "/"
                and self.tokens[self.at + 1 : self.at + 2]
                and self.tokens[self.at + 1][0] == "num"
                and node[0] in ("const", "sym", "mul")
            ):
                self.at += 1
                node = ("div", node, self.power())
                continue
            if not self.starts_atom(node):
                break
            node = multiplied(node, self.power())
        return (node,)
