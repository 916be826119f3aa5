r"""LaTeX commands as atoms: fractions, roots, sums, accents, matrices, delimiters."""

from __future__ import annotations

from fractions import Fraction

from curation.answers.atoms import CONSTANT_WORDS, Atoms
from curation.answers.lexer import FUNCTIONS, GREEK, NotMath
from curation.answers.reader import CALLS, Node, number


class Commands(Atoms):
    """Parses what a backslash begins."""

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
            inside = self.argument() if len(value) > 1 and value not in CONSTANT_WORDS else self.atom()
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
            return self.called(name) if name in CALLS else self.subscripted(("sym", name))
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
            if kind not in ("id", "num") and not (kind == "cmd" and value in GREEK):
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
        _, name = self.peek()
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
