"""YAML with positions: a file becomes a tree in which every value knows its file, line and text.

PyYAML parses; what a plain scalar means is decided here, by YAML 1.2: `yes`, `no`, `on` and `off` are text, `1e-6` is
a number, and `08` is text, since turning a name into the number 8 helps nobody. Keys are always text. Anchors and `<<`
merges are allowed, up to a size that no honest file reaches. Whatever is wrong comes back as Problems for a person,
never as an exception of the parser.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from schemas.errors import Problem

MAX_BYTES = 4 << 20
MAX_NODES = 100_000
"""Values after aliases are expanded."""
MAX_DEPTH = 60

_TAG = "tag:yaml.org,2002:"
_PLAIN = {
    "null": re.compile(r"~|null|Null|NULL|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+|0o[0-7]+"),
    "float": re.compile(
        r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
    ),
}


@dataclass(frozen=True)
class Place:
    """Where something is written. Lines and columns count from 1; `text` is the whole line."""

    file: str
    line: int | None = None
    column: int = 1
    text: str = ""

    def problem(self, message: str, hint: str = "") -> Problem:
        return Problem(message, file=self.file, line=self.line, text=self.text, hint=hint)


@dataclass(frozen=True)
class Node:
    """A value and where it is written: for an entry of a mapping, where its key is."""

    value: Scalar | dict[str, Node] | list[Node]
    place: Place

    def plain(self) -> Any:
        """The value without its places."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def find(self, path: Sequence[Any]) -> Node:
        """The node at a path of keys and indices, or the last one on the way to it. Parts that are neither a key nor an
        index here are passed over: pydantic's locations name the branch of a union, too."""
        node = self
        for part in path:
            held = node.value
            if isinstance(held, dict):
                node = held.get(part, node)
            elif isinstance(held, list) and isinstance(part, int) and part < len(held):
                node = held[part]
        return node

    def items(self) -> Iterator[tuple[str, Node]]:
        yield from self.value.items() if isinstance(self.value, dict) else ()

    def get(self, key: str) -> Node | None:
        return self.value.get(key) if isinstance(self.value, dict) else None


Scalar = str | int | float | bool | None


class YamlError(Exception):
    """The file is not YAML that we read."""

    def __init__(self, problems: Sequence[Problem]):
        self.problems = list(problems)
        super().__init__("\n".join(map(str, self.problems)))


def read(path: Path, *, shown: str | None = None) -> Node:
    """Parse a file. Problems call it `shown` (by default its path). Raises YamlError."""
    file = shown if shown is not None else str(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise YamlError([Problem(f"This file can't be read: {error.strerror}.", file=file)]) from error
    if len(data) > MAX_BYTES:
        raise YamlError([Problem(f"The file has {len(data):,} bytes; at most {MAX_BYTES:,} are read.", file=file)])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        shown_line = data.splitlines()[line - 1].decode("utf-8", "backslashreplace")
        message = f"The file is not UTF-8: the byte 0x{data[error.start]:02x} stands for no character."
        hint = "Save it as UTF-8."
        raise YamlError([Problem(message, file=file, line=line, text=_shown(shown_line), hint=hint)]) from error
    return parse(text, file=file)


def parse(text: str, *, file: str) -> Node:
    """Parse text that stands in `file`. Raises YamlError."""
    lines = text.split("\n")

    def place(mark: yaml.Mark | None) -> Place:
        if mark is None:
            return Place(file)
        line = lines[mark.line] if mark.line < len(lines) else ""
        return Place(file, mark.line + 1, mark.column + 1, _shown(line))

    try:
        loader = _Loader(text)
        root = loader.get_node() if loader.check_node() else None
        if root is None:
            raise YamlError([Problem("The file is empty.", file=file)])
        if loader.check_node():
            extra = loader.get_node()
            second = place(extra.start_mark if extra is not None else None)
            raise YamlError(
                [second.problem("A second YAML document begins here; a file holds one.", "Take out the `---`.")]
            )
    except yaml.MarkedYAMLError as error:
        raise YamlError([_syntax_problem(error, place)]) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"The character U+{ord(text[error.position]):04X} is not allowed in YAML."
        raise YamlError([Problem(message, file=file, line=line, text=_shown(lines[line - 1]))]) from error
    except RecursionError as error:
        raise YamlError([Problem(f"The file is nested deeper than {MAX_DEPTH} levels.", file=file)]) from error
    builder = _Builder(place)
    node = builder.build(root, place(root.start_mark), ())
    if builder.problems:
        raise YamlError(builder.problems)
    return node


def _shown(line: str) -> str:
    return line.rstrip() if len(line) <= 160 else line[:160] + "…"


def scalar(text: str) -> Scalar:
    """What a plain scalar means: `0.7` is a number, `null` is null, `yes` is text."""
    return _value(_kind(text), text)


def dump(data: Any) -> str:
    """Plain data as YAML text that `parse` reads back to the same data; the same data gives the same text."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=110)


def _kind(text: str) -> str:
    return next((kind for kind, pattern in _PLAIN.items() if pattern.fullmatch(text)), "str")


def _value(kind: str, text: str) -> Scalar:
    """The value of a scalar of a kind; ValueError where the text has another form."""
    if kind == "str":
        return text
    if not _PLAIN[kind].fullmatch(text):
        raise ValueError(text)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


class _Loader(Reader, Scanner, Parser, Composer, BaseResolver):
    """PyYAML up to its nodes, with our meaning of plain scalars."""

    def __init__(self, text: str):
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode and implicit[0]:
            return _TAG + _kind(value)
        return str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]


class _Dumper(yaml.SafeDumper):
    """Quotes whatever readers of YAML 1.1 or 1.2 would not take for text."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        tag = str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]
        if kind is yaml.ScalarNode and implicit[0] and tag == _TAG + "str":
            return _TAG + _kind(value)
        return tag

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _Builder:
    """PyYAML nodes to our tree, collecting problems."""

    def __init__(self, place: Callable[[yaml.Mark | None], Place]):
        self._place = place
        self._count = 0
        self._open: set[int] = set()
        self.problems: list[Problem] = []

    def build(self, node: yaml.Node, place: Place, path: tuple[str, ...]) -> Node:
        """`place` is where the key stands, for an entry of a mapping."""
        self._count += 1
        if self._count == MAX_NODES:
            message = f"The file has more than {MAX_NODES:,} values once its aliases (*name) are expanded."
            self.problems.append(place.problem(message))
        if self._count >= MAX_NODES:
            return Node(None, place)
        if id(node) in self._open:
            self.problems.append(place.problem("This alias (*name) stands inside the very value that it names."))
            return Node(None, place)
        if len(self._open) >= MAX_DEPTH:
            self.problems.append(place.problem(f"This is nested deeper than {MAX_DEPTH} levels."))
            return Node(None, place)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.ScalarNode):
                return Node(self._scalar(node, place), place)
            kind = "map" if isinstance(node, yaml.MappingNode) else "seq"
            if node.tag != _TAG + kind:
                self._unknown_tag(node)
            if isinstance(node, yaml.MappingNode):
                return Node(self._mapping(node, path), place)
            return Node([self.build(item, self._place(item.start_mark), path) for item in node.value], place)
        finally:
            self._open.discard(id(node))

    def _unknown_tag(self, node: yaml.Node) -> None:
        tag = node.tag.replace(_TAG, "!!")
        place = self._place(node.start_mark)
        self.problems.append(place.problem(f"The tag `{tag}` is not known here.", "Write the plain value."))

    def _scalar(self, node: yaml.ScalarNode, place: Place) -> Scalar:
        kind = node.tag.removeprefix(_TAG)
        if kind not in ("str", *_PLAIN):
            self._unknown_tag(node)
            return None
        try:
            return _value(kind, node.value)
        except ValueError:
            self.problems.append(
                self._place(node.start_mark).problem(f"`{node.value[:60]}` is not of the type {kind}.")
            )
            return None

    def _mapping(self, node: yaml.MappingNode, path: tuple[str, ...]) -> dict[str, Node]:
        found: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key_node, value_node in node.value:
            place = self._place(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(place.problem("A key must be one plain word or text."))
                continue
            key = key_node.value
            child = self.build(value_node, place, (*path, key))
            if key == "<<" and key_node.style is None:
                merged.update(self._merge(child, merged))
            elif key in found:
                first = found[key].place.line
                self.problems.append(
                    place.problem(f"The key `{key}` stands twice in one mapping; first on line {first}.")
                )
            else:
                found[key] = child
        return {**merged, **found}

    def _merge(self, node: Node, merged: dict[str, Node]) -> dict[str, Node]:
        """The entries that `<<: *name` or `<<: [*a, *b]` brings in; of several, the first that has a key wins."""
        found = dict(merged)
        for part in node.value if isinstance(node.value, list) else [node]:
            if not isinstance(part.value, dict):
                self.problems.append(node.place.problem("`<<` takes in a mapping (<<: *name) or a list of them."))
                return merged
            found = {**part.value, **found}
        return found


# What PyYAML says -> what a person needs to hear, and a hint. The first whose words all occur in the complaint counts.
_SYNTAX: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("cannot start any token", "\\t"), "A tab stands where YAML wants blanks.", "Indent with spaces."),
    (("cannot start any token",), "Text can't begin with {character} here.", "Put the text in quotes."),
    (("mapping values are not allowed",), "A second `:` in this line.", "Put text that holds `: ` in quotes."),
    (("could not find expected ':'",), "This line has a key but no `: ` after it.", ""),
    (("found undefined alias",), "{problem}.", "Define it above with &name."),
    (("found duplicate anchor",), "An anchor (&name) is defined twice.", ""),
    (("found unexpected end of stream",), "A quote is opened here and never closed.", ""),
    (("expected ',' or ']'",), "A list that is opened with [ here is not closed, or lacks a comma.", ""),
    (("expected ',' or '}'",), "A mapping that is opened with {{ here is not closed, or lacks a comma.", ""),
    (("expected <block end>",), "The indentation does not fit the lines above.", "Entries of one list share a column."),
    (("expected <document start>",), "This line belongs to nothing above it.", "Is its indentation right?"),
    (("expected the node content",), "A value is missing here.", ""),
    (("unknown escape character",), "{problem} in double quotes.", "Write \\\\ for a backslash, or use single quotes."),
    ((), "This is not valid YAML: {problem}.", ""),
)


def _syntax_problem(error: yaml.MarkedYAMLError, place: Callable[[yaml.Mark | None], Place]) -> Problem:
    said = error.problem or "it can't be parsed"
    message, hint = next((message, hint) for words, message, hint in _SYNTAX if all(word in said for word in words))
    at_opening = "is opened" in message and error.context_mark is not None
    at = place(error.context_mark if at_opening else error.problem_mark or error.context_mark)
    if "second `:`" in message and ":" not in at.text[: at.column - 1]:
        message, hint = "This entry is indented deeper than the one above, which already has a value.", ""
    character = re.search(r"found character ('.*?'|\".*?\")", said)
    filled = message.format(problem=said[:1].upper() + said[1:], character=character.group(1) if character else "this")
    return at.problem(filled, hint)
