r"""A small recursive-descent parser: LaTeX and ASCII answers to one tree. It builds data, it never runs any.

A tree is nested tuples, the operator first:

    ("num", Fraction)  ("dec", Fraction, places)  ("sym", name)  ("const", "pi" | "e" | "i" | "inf")
    ("add", a, b, ...)  ("mul", a, b, ...)  ("neg", a)  ("div", a, b)  ("pow", a, b)  ("pm", a, b)  ("fact", a)
    ("fn", name, arg, ...)  ("call", name, arg, ...)  ("idx", name, index)  ("base", digits, base)
    ("deg", a)  ("pct", a)  ("cur", a)  ("big", "sum" | "prod", var, low, high, body)  ("opaque", text)
    ("list", items)  ("brk", "(" | "[", ")" | "]", items)  ("set", items)  ("matrix", rows)  ("cases", rows)
    ("rel", (a, op, b, op, c, ...))  ("cup" | "cap" | "minus", a, b)  ("text", words)

Ambiguities of the notation are settled the way writers mean them: `x^10` is the tenth power, `1/2x` is (1/2)x,
`3\frac12` is a mixed number, `f(2)` is a call and `a(b+c)` a product, `xy` a product and `sin` a function.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from curation.answers.gate import MAX_NESTING
from curation.answers.lexer import FUNCTIONS, GREEK, RELATIONS, NotMath, Token, tokenize

Node = tuple[Any, ...]

_CALLS = frozenset("f g h F G H phi Phi psi Psi varphi".split())
_RELATION_OPS = {"=": "=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", "!=": "!=", "=>": ">="}
_PRODUCT_COMMANDS = {"cdot", "times", "ast", "star", "cdotp"}
_OPENERS = {"(": ")", "[": "]", "\\{": "\\}", "{": "}"}
_ATOM_COMMANDS = (
    FUNCTIONS
    | GREEK
    | frozenset(
        "frac dfrac tfrac cfrac sqrt surd pi infty infin binom dbinom tbinom sum prod int lim overline underline bar vec hat"
        " mathbb mathcal overrightarrow widehat angle triangle begin langle lvert vert lfloor lceil emptyset varnothing"
        " partial lbrace lbrack boxed ell hbar tilde".split()
    )
)
_WORD_SEPARATORS = frozenset("and or".split())
_CLOSERS = {")", "]", "}", "\\}", "r|", "&"}
_CONSTANT_WORDS = {
    "pi": ("const", "pi"),
    "infinity": ("const", "inf"),
    "infty": ("const", "inf"),
    "inf": ("const", "inf"),
    "oo": ("const", "inf"),
}


@lru_cache(maxsize=32_768)
def parse(text: str, thousands: bool = True) -> Node | None:
    """The tree of `text` (a normal form), or None where it is not an expression of the grammar."""
    try:
        tokens = tokenize(text, thousands)
        if not tokens:
            return None
        return _Parser(tokens).whole()
    except (NotMath, RecursionError):
        return None


class _Parser:
    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0
        self.bars = 0

    # -- reading tokens ------------------------------------------------------------------------------------------

    def peek(self) -> Token:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "")

    def take(self, kind: str, value: str | None = None) -> bool:
        token = self.peek()
        if token[0] == kind and (value is None or token[1] == value):
            self.at += 1
            return True
        return False

    def expect(self, value: str) -> None:
        if not self.take("op", value):
            raise NotMath(f"expected {value}, found {self.peek()[1]!r}")

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise NotMath("nested too deep")

    # -- lists and relations -------------------------------------------------------------------------------------

    def whole(self) -> Node:
        node = self.items_until(None)
        if self.at < len(self.tokens):
            raise NotMath(f"unread from {self.peek()[1]!r}")
        return node

    def separator(self) -> str | None:
        kind, value = self.peek()
        if kind == "op" and value in (",", ";"):
            self.at += 1
            while self.peek() in (("op", ","), ("op", ";")):
                self.at += 1
            follows = self.peek()
            if follows[0] in ("id", "text") and follows[1].strip(" ,").lower() in _WORD_SEPARATORS:
                self.at += 1
            return value
        if kind in ("id", "text") and value.strip(" ,").lower() in _WORD_SEPARATORS:
            self.at += 1
            return ","
        return None

    def items_until(self, closer: str | None) -> Node:
        """Items separated by commas; semicolons over commas make groups: `1,2;3,4` is two pairs."""
        groups: list[list[Node]] = [[self.relation()]]
        semicolons = commas = False
        while True:
            mark = self.separator()
            if mark is None:
                break
            if self.peek()[0] == "end" or (closer and self.peek() == ("op", closer)):
                break
            if mark == ";":
                semicolons = True
                groups.append([])
            else:
                commas = True
            groups[-1].append(self.relation())
        if semicolons and commas:
            return ("list", tuple(g[0] if len(g) == 1 else ("brk", "(", ")", tuple(g)) for g in groups))
        flat = tuple(n for g in groups for n in g)
        return flat[0] if len(flat) == 1 else ("list", flat)

    def relation_op(self) -> str | None:
        kind, value = self.peek()
        if kind == "op" and value in _RELATION_OPS:
            self.at += 1
            if value == "=" and self.peek() == ("op", "="):
                self.at += 1
            return _RELATION_OPS[value]
        if kind == "cmd" and value in RELATIONS:
            self.at += 1
            return RELATIONS[value]
        if kind == "cmd" and value == "not" and self.tokens[self.at + 1 : self.at + 2] == [("op", "=")]:
            self.at += 2
            return "!="
        if kind == "cmd" and value in ("implies", "Rightarrow", "Longrightarrow", "iff", "Leftrightarrow"):
            self.at += 1
            return "=>"
        if kind == "op" and value == ":":
            self.at += 1
            return ":"
        return None

    def relation(self) -> Node:
        if self.peek() == ("cmd", "therefore"):
            self.at += 1
        parts: list[Any] = [self.set_expression()]
        while op := self.relation_op():
            if op == "=>":
                parts = [self.set_expression()]  # what is implied is the answer
                continue
            parts += [op, self.set_expression()]
        if len(parts) == 1:
            return parts[0]
        if all(op == ":" for op in parts[1::2]):
            return ("ratio", tuple(parts[0::2]))
        if ":" in parts[1::2]:
            raise NotMath("a ratio inside a relation")
        return ("rel", tuple(parts))

    def set_expression(self) -> Node:
        node = self.sum()
        while True:
            kind, value = self.peek()
            op = None
            if kind == "cmd":
                op = {"cup": "cup", "bigcup": "cup", "cap": "cap", "setminus": "minus", "backslash": "minus"}.get(value)
            elif kind == "id" and value == "U" and node[0] in ("brk", "cup", "set"):
                op = "cup"
            if op is None:
                return node
            self.at += 1
            node = (op, node, self.sum())

    # -- arithmetic ----------------------------------------------------------------------------------------------

    def sum(self) -> Node:
        self.deeper()
        kind, value = self.peek()
        if (kind, value) in (("cmd", "pm"), ("cmd", "mp")):
            self.at += 1
            node: Node = ("pm", ("num", Fraction(0)), self.product())
        elif (kind, value) == ("op", "-"):
            self.at += 1
            node = negated(self.product())
        else:
            self.take("op", "+")
            node = self.product()
        terms = [node]
        while True:
            token = self.peek()
            if token == ("op", "+"):
                self.at += 1
                terms.append(self.product())
            elif token == ("op", "-"):
                self.at += 1
                terms.append(negated(self.product()))
            elif token in (("cmd", "pm"), ("cmd", "mp")):
                self.at += 1
                left = terms[0] if len(terms) == 1 else ("add", *terms)
                terms = [("pm", left, self.product())]
            else:
                break
        self.depth -= 1
        if len(terms) > 1:
            _arithmetic(*terms)
        return terms[0] if len(terms) == 1 else ("add", *terms)

    def product(self) -> Node:
        node = self.signed()
        while True:
            kind, value = self.peek()
            if (kind == "op" and value == "*") or (kind == "cmd" and value in _PRODUCT_COMMANDS):
                self.at += 1
                node = multiplied(node, self.signed())
            elif (kind == "op" and value == "/") or (kind == "cmd" and value == "div"):
                self.at += 1
                node = ("div", node, self.signed())
            elif kind == "cmd" and value in ("bmod", "mod"):
                self.at += 1
                node = ("fn", "mod", node, self.signed())
            elif self.starts_atom(node):
                node = self.juxtaposed(node)
            else:
                return node

    def juxtaposed(self, node: Node) -> Node:
        """Implicit product, or a mixed number: `3 1/2` and `3\\frac12`."""
        before = self.tokens[self.at - 1]
        begin = self.at
        factor = self.power()
        if before[0] == "num" and node[0] in ("num", "neg") and "." not in before[1]:
            whole = node if node[0] == "num" else node[1]
            if factor[0] == "num" and self.tokens[begin][0] == "num" and self.peek() == ("op", "/"):
                self.at += 1
                factor = ("div", factor, self.power())
                if factor[2][0] != "num":
                    raise NotMath("two numbers side by side")
            elif factor[0] in ("num", "dec") and self.tokens[begin][0] == "num":
                raise NotMath("two numbers side by side")
            if whole[0] == "num" and whole[1].denominator == 1 and _proper(factor):
                mixed: Node = ("add", whole, factor)
                return mixed if node[0] == "num" else negated(mixed)
        elif before[0] == "num" and self.tokens[begin][0] == "num":
            raise NotMath("two numbers side by side")
        return multiplied(node, factor)

    def starts_atom(self, node: Node) -> bool:
        kind, value = self.peek()
        if kind == "num":
            return True
        if kind == "id":
            return value.lower() not in _WORD_SEPARATORS and not (value == "U" and node[0] in ("brk", "cup", "set"))
        if kind == "cmd":
            return value in _ATOM_COMMANDS
        if kind == "op":
            if value == "|":
                return self.bars == 0
            return value in ("(", "[", "{", "l|") and not (value == "[" and node[0] in ("brk",))
        return False

    def signed(self) -> Node:
        if self.take("op", "-"):
            return negated(self.signed())
        if self.take("op", "+"):
            return self.signed()
        return self.power()

    def power(self) -> Node:
        base = self.postfix(self.atom())
        while self.take("op", "^"):
            if self.degree_mark():
                base = ("deg", base)
                continue
            prime = self.primes()
            if prime:
                base = _primed(base, prime)
                continue
            base = self.postfix(("pow", base, self.exponent()))
        return base

    def degree_mark(self) -> bool:
        for marks in (
            [("cmd", "circ")],
            [("cmd", "degree")],
            [("op", "{"), ("cmd", "circ"), ("op", "}")],
            [("text", "o")],
            [("op", "{"), ("text", "o"), ("op", "}")],
        ):
            if self.tokens[self.at : self.at + len(marks)] == marks:
                self.at += len(marks)
                return True
        return False

    def primes(self) -> int:
        if self.take("cmd", "prime"):
            return 1
        start = self.at
        count = 0
        if self.take("op", "{"):
            while self.take("cmd", "prime") or self.take("op", "'"):
                count += 1
            if count and self.take("op", "}"):
                return count
        self.at = start
        return 0

    def exponent(self) -> Node:
        if self.take("op", "-"):
            return negated(self.exponent())
        if self.take("op", "+"):
            return self.exponent()
        node = self.atom()
        if self.peek() == ("op", "!"):
            node = self.postfix(node)
        while self.take("op", "^"):
            node = ("pow", node, self.exponent())
        return node

    def postfix(self, node: Node) -> Node:
        while True:
            token = self.peek()
            if token == ("op", "!"):
                self.at += 1
                node = ("fact", node)
            elif token == ("op", "%") or token == ("cmd", "percent"):
                self.at += 1
                node = ("pct", node)
            elif token == ("cmd", "degree") or token == ("cmd", "circ"):
                self.at += 1
                node = ("deg", node)
            elif token == ("op", "'"):
                self.at += 1
                node = _primed(node, 1)
            elif token == ("op", "_") and node[0] in ("num", "call"):
                self.at += 1
                base = self.argument()
                if node[0] != "num" or base[0] != "num":
                    raise NotMath("subscript of a number")
                node = ("base", str(node[1]), int(base[1]))
            else:
                return node

    # -- atoms ---------------------------------------------------------------------------------------------------

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
            return self.subscripted(_letter(word))
        if word and all(re.fullmatch(r"[-+*/^().\d\s]+", c) for c in word):
            inner = parse(word)
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
            return _letter(value[0])
        if kind == "op" and value == "{":
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
        if run in _CONSTANT_WORDS:
            return _CONSTANT_WORDS[run]
        if run in GREEK:
            return self.subscripted(("sym", run))
        for name in ("sin", "cos", "tan", "log", "sqrt", "ln"):
            if run.startswith(name) and len(run) == len(name) + 1:
                self.at -= 1
                self.tokens[self.at : self.at + 1] = [("id", name), ("id", run[len(name) :])]
                return self.atom()
        if run.startswith("pi") and len(run) == 3:
            return multiplied(("const", "pi"), self.subscripted(_letter(run[2])))
        if len(run) > 3:
            if self.peek() in (("op", "="), ("op", ":")):
                return ("sym", run)
            raise NotMath(f"the word {run}")
        node: Node | None = None
        for position, char in enumerate(run):
            letter = _letter(char)
            if position == len(run) - 1:
                letter = self.called(char) if char in _CALLS else self.subscripted(letter)
            node = letter if node is None else multiplied(node, letter)
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
            if kind == "cmd" and (value in FUNCTIONS or value not in _ATOM_COMMANDS):
                break
            if kind == "id" and (value in FUNCTIONS or value.lower() in _WORD_SEPARATORS):
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

    def root(self, exponent: Node | None = None) -> Node:
        index: Node | None = None
        if self.peek() == ("op", "["):
            mark = self.at
            self.at += 1
            try:
                index = self.sum()
                self.expect("]")
            except NotMath:
                self.at, index = mark, None
        kind, value = self.peek()
        if kind == "op" and value == "{" and self.tokens[self.at + 1 : self.at + 2] == [("op", "}")]:
            self.at += 2  # \sqrt{}{3}: an empty group and then the radicand
        if kind == "num":
            self.at += 1
            inside = number(value)
        elif kind == "id":
            inside = self.argument() if len(value) > 1 and value not in _CONSTANT_WORDS else self.atom()
        else:
            inside = self.argument()
        node: Node = (
            ("root", inside, index) if index else ("pow", inside, ("div", ("num", Fraction(1)), ("num", Fraction(2))))
        )
        return ("pow", node, exponent) if exponent is not None else node

    def command(self, name: str) -> Node:
        if name in ("frac", "dfrac", "tfrac", "cfrac"):
            top = self.argument()
            return ("div", top, self.argument())
        if name in ("sqrt", "surd"):
            return self.root()
        if name == "pi":
            return ("const", "pi")
        if name in ("infty", "infin"):
            return ("const", "inf")
        if name in FUNCTIONS:
            return self.function(name)
        if name in GREEK:
            return self.called(name) if name in _CALLS else self.subscripted(("sym", name))
        if name in ("binom", "dbinom", "tbinom"):
            top = self.argument()
            return ("fn", "binom", top, self.argument())
        if name in ("sum", "prod"):
            return self.big(name)
        if name in ("emptyset", "varnothing"):
            return ("set", ())
        if name in ("langle", "lvert", "vert", "lfloor", "lceil", "lbrace", "lbrack"):
            return self.delimited(name)
        if name in (
            "overline",
            "underline",
            "bar",
            "vec",
            "hat",
            "overrightarrow",
            "widehat",
            "mathbb",
            "mathcal",
            "mathbf",
            "mathrm",
            "tilde",
        ):
            start = self.at
            inside = self.argument()
            names = "".join(v for k, v in self.tokens[start : self.at] if k in ("id", "num"))
            if name in ("mathbf", "mathrm"):
                return inside
            if inside[0] == "num" and name == "overline":
                return ("repeat", "", names)
            if inside[0] == "list":
                raise NotMath("a list under a bar")
            return self.subscripted(("sym", f"{name}:{names}"))
        if name in ("angle", "triangle"):
            kind, value = self.peek()
            if kind != "id":
                raise NotMath(f"\\{name} without a name")
            self.at += 1
            return ("sym", f"{name} {value}")
        if name == "boxed":
            return self.argument()
        if name == "begin":
            return self.environment()
        if name in ("int", "lim"):
            return self.opaque(name)
        raise NotMath(f"\\{name} has no value")

    def opaque(self, name: str) -> Node:
        """Limits and integrals are kept as words up to the next relation or separator."""
        words = [name]
        depth = 0
        while True:
            kind, value = self.peek()
            if kind == "end" or (depth == 0 and kind == "op" and value in ("=", ",", ";")):
                break
            depth += value in ("{", "(", "[") if kind == "op" else 0
            depth -= value in ("}", ")", "]") if kind == "op" else 0
            if depth < 0:
                break
            words.append(value)
            self.at += 1
        return ("opaque", " ".join(words))

    def delimited(self, name: str) -> Node:
        closer = {
            "langle": "rangle",
            "lvert": "rvert",
            "vert": "vert",
            "lfloor": "rfloor",
            "lceil": "rceil",
            "lbrace": "rbrace",
            "lbrack": "rbrack",
        }[name]
        self.deeper()
        inside = self.items_until(None)
        self.depth -= 1
        if not self.take("cmd", closer):
            raise NotMath(f"\\{name} is not closed")
        items = inside[1] if inside[0] == "list" else (inside,)
        if name == "langle":
            return ("brk", "(", ")", tuple(items))
        if name == "lbrace":
            return ("set", tuple(items))
        if name == "lbrack":
            return ("brk", "[", "]", tuple(items))
        return ("fn", {"lvert": "abs", "vert": "abs", "lfloor": "floor", "lceil": "ceil"}[name], inside)

    def big(self, name: str) -> Node:
        low = high = None
        for _ in range(2):
            if self.take("op", "_"):
                low = self.argument_whole()
            elif self.take("op", "^"):
                high = self.argument_whole()
        if low is None or high is None or low[0] != "rel" or low[1][1] != "=" or low[1][0][0] not in ("sym", "const"):
            raise NotMath(f"\\{name} without bounds")
        self.deeper()
        body = self.product()
        self.depth -= 1
        return ("big", name, str(low[1][0][1]), low[1][2], high, body)

    def environment(self) -> Node:
        self.expect("{")
        kind, name = self.peek()
        self.at += 1
        self.expect("}")
        if name == "array" and self.take("op", "{"):
            while not self.take("op", "}"):
                if self.peek()[0] == "end":
                    raise NotMath("array without columns")
                self.at += 1
        self.deeper()
        rows: list[tuple[Node, ...]] = []
        cells: list[Node] = []
        while True:
            token = self.peek()
            if token == ("op", "&"):
                self.at += 1
            elif token[0] == "row":
                self.at += 1
                if cells:
                    rows.append(tuple(cells))
                cells = []
            elif token == ("cmd", "end"):
                self.at += 1
                break
            else:
                cells.append(self.items_until(None))
        if cells:
            rows.append(tuple(cells))
        self.depth -= 1
        self.expect("{")
        self.at += 1
        self.expect("}")
        if not rows:
            raise NotMath("an empty matrix")
        if name.startswith(("cases", "align", "aligned")):
            return ("cases", tuple(rows))
        if name in ("vmatrix", "Vmatrix"):
            return ("fn", "det", ("matrix", tuple(rows)))
        if len({len(r) for r in rows}) != 1:
            raise NotMath("rows of different length")
        return ("matrix", tuple(rows))


def number(text: str) -> Node:
    """A number token as an exact leaf; decimals remember their places."""
    mantissa, _, exponent = text.lower().partition("e")
    if len(mantissa) > 2000 or (exponent and abs(int(exponent)) > 4000):
        raise NotMath("a number with too many digits")
    value = Fraction(mantissa if not mantissa.startswith(".") else "0" + mantissa)
    places = len(mantissa.partition(".")[2])
    if exponent:
        value = value * Fraction(10) ** int(exponent)
        places -= int(exponent)
    return ("dec", value, places) if "." in mantissa or exponent else ("num", value)


_NO_ARITHMETIC = frozenset(("brk", "list", "set", "rel", "cup", "cap", "minus", "ratio", "cases"))


def _arithmetic(*nodes: Node) -> None:
    """Points, sets and relations are not added or multiplied: side by side they are something else."""
    if any(n[0] in _NO_ARITHMETIC for n in nodes):
        raise NotMath("arithmetic with points or sets")


def negated(node: Node) -> Node:
    """Minus a value."""
    _arithmetic(node)
    return ("neg", node)


def multiplied(left: Node, right: Node) -> Node:
    """A product, flat."""
    _arithmetic(left, right)
    return (*left, right) if left[0] == "mul" else ("mul", left, right)


def _proper(node: Node) -> bool:
    """A fraction of whole numbers below one: what can follow the whole part of a mixed number."""
    if node[0] != "div" or node[1][0] != "num" or node[2][0] != "num":
        return False
    return 0 < node[1][1] < node[2][1]


def _letter(char: str) -> Node:
    if char in ("i", "e"):
        return ("const", char)
    return ("sym", char)


def _primed(node: Node, count: int) -> Node:
    if node[0] == "sym":
        return ("sym", node[1] + "'" * count)
    raise NotMath("a prime on something without a name")
