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

from fractions import Fraction
from functools import lru_cache
from typing import Any

from curation.answers.atoms import ATOM_COMMANDS
from curation.answers.commands import Commands
from curation.answers.lexer import RELATIONS, NotMath, tokenize
from curation.answers.reader import END, WORD_SEPARATORS, Node, arithmetic, multiplied, negated, number, primed, proper

__all__ = ["Node", "parse"]

_RELATION_OPS = {"=": "=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", "!=": "!=", "=>": ">="}
_PLUS, _MINUS, _CARET = ("op", "+"), ("op", "-"), ("op", "^")
_PLUS_MINUS = (("cmd", "pm"), ("cmd", "mp"))
_PRODUCT_COMMANDS = {"cdot", "times", "ast", "star", "cdotp"}


@lru_cache(maxsize=32_768)
def parse(text: str, thousands: bool = True) -> Node | None:
    """The tree of `text` (a normal form), or None where it is not an expression of the grammar."""
    try:
        tokens = tokenize(text, thousands)
        if not tokens:
            return None
        if len(tokens) == 1 and tokens[0][0] == "num":
            return number(tokens[0][1])
        return _Parser(tokens).whole()
    except (NotMath, RecursionError):
        return None


class _Parser(Commands):
    """The grammar: lists of relations of set expressions of sums of products of powers of atoms."""

    def parse_text(self, text: str) -> Node | None:
        """What stands inside \\text, if it is a formula after all."""
        return parse(text)

    def whole(self) -> Node:
        node = self.items_until(None)
        if self.at < len(self.tokens):
            raise NotMath(f"unread from {self.peek()[1]!r}")
        return node

    def separator(self) -> str | None:
        kind, value = self.peek()
        if kind == "end":
            return None
        if kind == "op" and value in (",", ";"):
            self.at += 1
            while self.peek() in (("op", ","), ("op", ";")):
                self.at += 1
            follows = self.peek()
            if follows[0] in ("id", "text") and follows[1].strip(" ,").lower() in WORD_SEPARATORS:
                self.at += 1
            return value
        if kind in ("id", "text") and value.strip(" ,").lower() in WORD_SEPARATORS:
            self.at += 1
            return ","
        return None

    def items_until(self, closer: str | None) -> Node:
        """Items separated by commas; semicolons over commas make groups: `1,2;3,4` is two pairs."""
        first = self.relation()
        if self.peek() is END:
            return first
        groups: list[list[Node]] = [[first]]
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
        if kind == "end":
            return None
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
        token = self.peek()
        if token in _PLUS_MINUS:
            self.at += 1
            node: Node = ("pm", ("num", Fraction(0)), self.product())
        elif token == _MINUS:
            self.at += 1
            node = negated(self.product())
        else:
            self.at += token == _PLUS
            node = self.product()
        terms = [node]
        while (token := self.peek()) is not END:
            if token == _PLUS:
                self.at += 1
                terms.append(self.product())
            elif token == _MINUS:
                self.at += 1
                terms.append(negated(self.product()))
            elif token in _PLUS_MINUS:
                self.at += 1
                left = terms[0] if len(terms) == 1 else ("add", *terms)
                terms = [("pm", left, self.product())]
            else:
                break
        self.depth -= 1
        if len(terms) > 1:
            arithmetic(*terms)
        return terms[0] if len(terms) == 1 else ("add", *terms)

    def product(self) -> Node:
        node = self.signed()
        while True:
            kind, value = token = self.peek()
            if token is END:
                return node
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
            part, mark = (factor[1], factor[0]) if factor[0] in ("pct", "deg") else (factor, "")
            if whole[0] == "num" and whole[1].denominator == 1 and proper(part):
                mixed: Node = ("add", whole, part)
                mixed = (mark, mixed) if mark else mixed
                return mixed if node[0] == "num" else negated(mixed)
        elif before[0] == "num" and self.tokens[begin][0] == "num":
            raise NotMath("two numbers side by side")
        return multiplied(node, factor)

    def starts_atom(self, node: Node) -> bool:
        kind, value = self.peek()
        if kind == "num" or (kind == "text" and len(value) == 1):
            return True
        if kind == "id":
            return value.lower() not in WORD_SEPARATORS and not (value == "U" and node[0] in ("brk", "cup", "set"))
        if kind == "cmd":
            return value in ATOM_COMMANDS
        if kind == "op":
            if value == "|":
                return self.bars == 0
            return value in ("(", "[", "{", "l|") and not (value == "[" and node[0] in ("brk",))
        return False

    def signed(self) -> Node:
        token = self.peek()
        if token == _MINUS:
            self.at += 1
            return negated(self.signed())
        if token == _PLUS:
            self.at += 1
            return self.signed()
        return self.power()

    def power(self) -> Node:
        base = self.postfix(self.atom())
        while self.peek() == _CARET:
            self.at += 1
            if self.degree_mark():
                base = ("deg", base)
                continue
            prime = self.primes()
            if prime:
                base = primed(base, prime)
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
            if token[0] != "op" and token[0] != "cmd":
                return node
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
                node = primed(node, 1)
            elif token == ("op", "_") and node[0] in ("num", "call"):
                self.at += 1
                base = self.argument()
                if node[0] != "num" or base[0] != "num":
                    raise NotMath("subscript of a number")
                node = ("base", str(node[1]), int(base[1]))
            else:
                return node
