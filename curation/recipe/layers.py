"""One tree out of a recipe, the recipes that it extends and the overrides of a command line.

A recipe that extends another is laid over it: mappings are merged key by key, and the lists of sources, stages and
outputs entry by entry, by name; everything else is replaced. Every value keeps its place, so a problem points into the
file, base or not, in which it was written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from curation import yamlfile
from curation.recipe import shapes
from curation.recipe.shapes import Schema
from curation.recipe.wording import did_you_mean, listed
from curation.yamlfile import Node, Place
from schemas.errors import Problem
from schemas.recipe import OF_A_PLACE, PLACES, Recipe

NAMED = {"sources": "source", "stages": "stage", "outputs": "output"}
"""Lists whose entries have names -> what an entry is called."""

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_ENVIRONMENT = re.compile(r"\$\{[A-Z_][A-Z0-9_]+\}")
"""Where no variable may stand, only what is spelled like an environment variable is taken for one: LaTeX has `${x}`."""


def read(path: Path, problems: list[Problem], above: tuple[Path, ...] = ()) -> Node | None:
    """The recipe at `path` laid over what it extends, or None where a file can't be read at all."""
    try:
        tree = yamlfile.read(path, shown=shown(path))
    except yamlfile.YamlError as error:
        problems += error.problems
        return None
    if not isinstance(tree.value, dict):
        problems.append(tree.place.problem("A recipe is a mapping: name, sources, stages, outputs."))
        return None
    extends = tree.value.pop("extends", None)
    if extends is None or extends.value is None:
        return tree
    if not isinstance(extends.value, str):
        problems.append(extends.place.problem("`extends` should be the path of one recipe."))
        return tree
    base_path = path.parent / expand(extends, problems)
    chain = (*above, path.resolve())
    if base_path.resolve() in chain:
        names = " -> ".join(p.name for p in (*chain, base_path))
        problems.append(extends.place.problem(f"The recipe extends itself: {names}."))
        return tree
    if not base_path.is_file():
        problems.append(missing_file(extends.place, "`extends`", base_path))
        return tree
    base = read(base_path, problems, chain)
    return tree if base is None else lay_over(base, tree)


def shown(path: Path) -> str:
    """A path as messages show it: relative where it lies below the current folder."""
    relative = os.path.relpath(path)
    return os.path.normpath(path) if relative.startswith("..") else relative


def missing_file(place: Place, key: str, path: Path) -> Problem:
    """A file or folder that is not there, with the nearest one that is."""
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    if folder != path.parent:
        message = f"{key}: there is no folder {shown(path.parent)}."
        wanted = path.parent.relative_to(folder).parts[0]
    else:
        message = f"{key}: there is no file or folder {shown(path)}."
        wanted = path.name
    there = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    return place.problem(message, did_you_mean(wanted, there) or f"{_folder(folder)} has {_some(there)}.")


def _folder(folder: Path) -> str:
    return "The current folder" if shown(folder) == "." else f"The folder {shown(folder)}"


def _some(names: Sequence[str], limit: int = 8) -> str:
    visible = [name for name in names if not name.startswith(".")]
    listed = ", ".join(visible[:limit]) or "nothing"
    return listed if len(visible) <= limit else f"{listed} and {len(visible) - limit} more"


# -------------------------------------------------------------------------------------------------------------- merging


def lay_over(base: Node, top: Node) -> Node:
    """A recipe's tree over the tree of the recipe that it extends."""
    assert isinstance(base.value, dict) and isinstance(top.value, dict)
    merged = dict(base.value)
    for key, node in top.value.items():
        under = merged.get(key)
        if under is None:
            merged[key] = node
        elif key in NAMED and isinstance(under.value, list) and isinstance(node.value, list):
            merged[key] = Node(_entries(key, under.value, node.value), node.place)
        elif key == "use" and isinstance(under.value, list) and isinstance(node.value, list):
            merged[key] = Node([*under.value, *node.value], node.place)
        else:
            merged[key] = _merged(under, node)
    return Node(merged, top.place)


def _merged(under: Node, node: Node) -> Node:
    if isinstance(under.value, dict) and isinstance(node.value, dict):
        kind, other = under.value.get("kind"), node.value.get("kind")
        if kind is not None and other is not None and kind.value != other.value:
            return node  # another kind of teacher: nothing of the old one's keys fits it
        both = {k: _merged(v, node.value[k]) if k in node.value else v for k, v in under.value.items()}
        return Node({**both, **{k: v for k, v in node.value.items() if k not in both}}, node.place)
    return node


def _entries(key: str, under: list[Node], over: list[Node]) -> list[Node]:
    """Entries merged by name; new ones come last."""
    entries = dict(zip(names(key, under), under, strict=True))
    for name, node in zip(names(key, over), over, strict=True):
        entries[name] = _entry(key, entries[name], node) if name in entries else node
    return list(entries.values())


def _entry(key: str, under: Node, node: Node) -> Node:
    if not isinstance(under.value, dict) or not isinstance(node.value, dict):
        return node
    if key == "sources" and any(place in node.value for place in PLACES):
        moved = not any(place in node.value for place in PLACES if place in under.value)
        gone = (*PLACES, *OF_A_PLACE) if moved else PLACES
        under = Node({k: v for k, v in under.value.items() if k not in gone}, under.place)
    else:
        field = "export" if key == "outputs" else "stage"
        kind, other = under.get(field), node.get(field)
        if kind is not None and other is not None and kind.value != other.value:
            return node  # another kind of the same name: nothing of the old one's keys fits it
    return _merged(under, node)


def names(key: str, entries: Sequence[Node]) -> list[str]:
    """The names by which entries of `sources`, `stages` or `outputs` are addressed: as given, else the kind, and for a
    source what its place is called. Sources that would share a derived name are numbered: data, data-2."""
    found: list[str] = []
    for entry in entries:
        given = entry.get("name")
        if given is not None and isinstance(given.value, str) and given.value:
            found.append(given.value)
        elif key == "sources":
            base = number_free = source_name(entry.plain())
            count = 1
            while number_free in found:
                count += 1
                number_free = f"{base}-{count}"
            found.append(number_free)
        else:
            kind = entry.get("export" if key == "outputs" else "stage")
            found.append(str(kind.value) if kind is not None else "")
    return found


def source_name(source: Any) -> str:
    """What a source is called that gives itself no name: its file, folder, repo, version or function."""
    if not isinstance(source, Mapping):
        return "source"
    place = next((p for p in PLACES if source.get(p) is not None), "source")
    value = source.get(place)
    text = str(value[0] if isinstance(value, list) and value else value or place)
    if place == "generator":
        text = text.rpartition(":")[2]
    elif place in ("version", "hub"):
        text = text.partition("@")[0].rpartition("/")[2]
    else:
        # The last part of the path that is a name rather than a pattern: data/train-*.parquet is `data`.
        parts = [p for p in Path(text).parts if p not in ("/", "..", ".") and not re.search(r"[*?\[\]$]", p)]
        text = re.sub(r"\.(parquet|jsonl|json|ndjson)(\.\w+)?$", "", parts[-1]) if parts else place
    return re.sub(r"[^a-z0-9_.-]+", "-", text.lower()).strip("-.") or place


# ------------------------------------------------------------------------------------------------------------ overrides


def override(tree: Node, text: str, problems: list[Problem], keys: Collection[str] | None = None) -> Node:
    """Apply `target=value`: `seed=3`, `stages.dedup.text.threshold=0.7`, `sources.math.where="level > 3"`.

    `keys` are those that stand at the top of the file, by default a recipe's."""
    known = [key for key in Recipe.model_fields if key != "extends"] if keys is None else keys
    target, equals, written = text.partition("=")
    target = target.strip()
    place = Place(f"--set {text}")
    if not equals or not target:
        problems.append(place.problem("An override is KEY=VALUE.", "For example: --set stages.dedup.threshold=0.7"))
        return tree
    try:
        quoted = written[:1] in ("[", "{", '"', "'")
        value = yamlfile.parse(written, file=place.file).plain() if quoted else yamlfile.scalar(written)
    except yamlfile.YamlError as error:
        problems += [place.problem(p.message, p.hint) for p in error.problems]
        return tree
    head, *rest = target.split(".")
    if head in NAMED:
        return _override_entry(tree, head, rest, _planted(value, place), problems)
    if head not in known:
        problems.append(place.problem(f"`{head}` is not a key of a recipe.", _address(tree, head, target, known)))
        return tree
    return _set(tree, [head, *rest], _planted(value, place))


def _planted(value: Any, place: Place) -> Node:
    """Plain data as a tree that stands in one place."""
    if isinstance(value, dict):
        return Node({k: _planted(v, place) for k, v in value.items()}, place)
    if isinstance(value, list):
        return Node([_planted(v, place) for v in value], place)
    return Node(value, place)


def _address(tree: Node, head: str, target: str, known: Collection[str]) -> str:
    """What an unknown target could have meant."""
    for key in NAMED:
        entries = tree.get(key)
        if entries is not None and isinstance(entries.value, list) and head in names(key, entries.value):
            return f"Did you mean `{key}.{target}`?"
    return did_you_mean(head, known) or f"There are: {listed(list(known))}."


def _override_entry(tree: Node, key: str, rest: list[str], value: Node, problems: list[Problem]) -> Node:
    place, entries = value.place, tree.get(key)
    held = entries.value if entries is not None and isinstance(entries.value, list) else []
    known = names(key, held)
    # Names may have dots in them, so the longest name that fits is meant.
    cuts = [n for n in range(len(rest), 0, -1) if ".".join(rest[:n]) in known]
    if not cuts:
        wanted = ".".join(rest[:-1]) or ".".join(rest)
        hint = did_you_mean(wanted, known) or did_you_mean(rest[0] if rest else "", known)
        message = f"There is no {NAMED[key]} called `{rest[0] if rest else ''}`."
        problems.append(place.problem(message, hint or f"There are: {', '.join(known) or 'none'}."))
        return tree
    name, path = ".".join(rest[: cuts[0]]), rest[cuts[0] :]
    if not path:
        message = f"Name the key of {NAMED[key]} `{name}` to set."
        problems.append(place.problem(message, f"--set {key}.{name}.KEY=VALUE"))
        return tree
    number = known.index(name)
    changed = [_set(e, path, value) if i == number else e for i, e in enumerate(held)]
    assert isinstance(tree.value, dict) and entries is not None
    return Node({**tree.value, key: Node(changed, entries.place)}, tree.place)


def _set(node: Node, path: Sequence[str], value: Node) -> Node:
    """A copy of the tree with one value replaced; mappings on the way are made where there are none."""
    if not path:
        return value
    head, *rest = path
    if isinstance(node.value, list) and head.isdigit() and int(head) < len(node.value):
        items = [_set(item, rest, value) if i == int(head) else item for i, item in enumerate(node.value)]
        return Node(items, node.place)
    held = node.value if isinstance(node.value, dict) else {}
    return Node({**held, head: _set(held.get(head, Node({}, value.place)), rest, value)}, node.place)


# ---------------------------------------------------------------------------------------------------------------- paths


def expand(node: Node, problems: list[Problem]) -> str:
    """A path with its `${NAME}`s replaced from the environment."""

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match.group(1))
        if found is None:
            hint = f"Set it: export {match.group(1)}=…"
            problems.append(node.place.problem(f"The environment variable {match.group(1)} is not set.", hint))
            return match.group(0)
        return found

    return _VARIABLE.sub(value, str(node.value))


def expanded(node: Node, schema: Schema, problems: list[Problem]) -> Node:
    """The tree with environment variables in its paths replaced; anywhere else they are a problem."""

    def change(leaf: Node, formats: set[str]) -> Node:
        assert isinstance(leaf.value, str)
        if formats:
            return Node(expand(leaf, problems), leaf.place)
        if found := _ENVIRONMENT.search(leaf.value):
            message = f"{found.group(0)} stands in a text that is not a path: only paths may hold variables."
            problems.append(leaf.place.problem(message, "Use --set to give a value from outside."))
        return leaf

    return _mapped_texts(node, list(shapes.branches(schema, schema)), schema, change)


def rebased(node: Node, schema: Schema, folder: Path) -> Node:
    """The tree with the relative paths of base recipes rewritten so that they begin at `folder`."""

    def change(leaf: Node, formats: set[str]) -> Node:
        text, home = str(leaf.value), Path(leaf.place.file).parent
        if not formats or leaf.place.line is None or Path(text).is_absolute() or text.startswith("${"):
            return leaf
        if home.resolve() == folder.resolve():
            return leaf
        if formats == {"path-or-name"} and not (home / text).exists():
            return leaf
        return Node(os.path.relpath(home.resolve() / text, folder.resolve()), leaf.place)

    return _mapped_texts(node, list(shapes.branches(schema, schema)), schema, change)


def _mapped_texts(
    node: Node, options: Sequence[Schema], root: Schema, change: Callable[[Node, set[str]], Node]
) -> Node:
    """The tree with `change(text node, formats that its schema allows)` in place of every text."""
    if isinstance(node.value, dict):
        entries = {k: _mapped_texts(v, shapes.below(options, k, root), root, change) for k, v in node.value.items()}
        return Node(entries, node.place)
    if isinstance(node.value, list):
        under = shapes.below(options, 0, root)
        return Node([_mapped_texts(child, under, root, change) for child in node.value], node.place)
    if isinstance(node.value, str):
        formats = {str(o.get("format")) for o in options} & {"path", "file-path", "directory-path", "path-or-name"}
        return change(node, formats)
    return node
