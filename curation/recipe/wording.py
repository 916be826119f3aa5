"""What pydantic says, in words for the person who wrote the recipe: which key, what it should be, what is nearest."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from curation.recipe import shapes
from curation.yamlfile import Node, Place
from schemas.errors import Problem, WinnowError
from schemas.recipe import NAME

Complaint = Mapping[str, Any]
"""One entry of ValidationError.errors()."""

_SHOULD_BE = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
    "path_type": "a path",
}
_JSON_TYPES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping (key: value)",
}
NAMES = "Names have a-z, 0-9, '-', '_' and '.', and begin with a-z or 0-9."
_LIMITS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def nearest(word: str, options: Iterable[str]) -> str | None:
    """The option that looks most like a word, or None where none does."""
    by_lower = {option.lower(): option for option in options}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def did_you_mean(word: str, options: Iterable[str]) -> str:
    found = nearest(word, options)
    return f"Did you mean `{found}`?" if found is not None else ""


def listed(options: Sequence[str], limit: int = 30) -> str:
    more = f" and {len(options) - limit} more" if len(options) > limit else ""
    return ", ".join(f"`{option}`" for option in options[:limit]) + more


def quoted(error: WinnowError, place: Place, key: str = "") -> Problem:
    """An error that has its own advice, as a problem of a place."""
    first, _, rest = str(error).partition("\n")
    return place.problem(f"{key}{first}", " ".join(rest.split()))


def problems_of(
    error: ValidationError, node: Node, model: type[BaseModel], what: str, apart: Collection[str] = ()
) -> list[Problem]:
    """Problems for every complaint about the value of `node` as a `model`; `what` says what that is: "stage dedup".
    Complaints about entries of the lists `apart` are left out."""
    complaints = [c for c in error.errors() if not (len(c["loc"]) > 1 and c["loc"][0] in apart)]
    schema = model.model_json_schema()
    return [_problem(complaint, node, schema, what) for complaint in _chosen(complaints, node)]


# -------------------------------------------------------------------------------------------------------------- unions


def _branch(complaint: Complaint, node: Node) -> tuple[tuple[Any, ...], Any] | None:
    """(path to a union, name of its branch) where a complaint is about one branch of a union."""
    loc = complaint["loc"]
    inner = loc[:-1] if complaint["type"] == "missing" else loc
    for n, part in enumerate(inner):
        if node.find(loc[: n + 1]) is node.find(loc[:n]):
            return loc[:n], part
    return None


def _chosen(complaints: Sequence[Complaint], node: Node) -> list[Complaint]:
    """Complaints about a union come once per branch: keep those of the branch that was most likely meant, or make one
    of them where the value has none of the shapes."""
    chosen: list[Complaint] = []
    unions: dict[tuple[Any, ...], dict[Any, list[Complaint]]] = {}
    for complaint in complaints:
        found = _branch(complaint, node)
        if found is None:
            chosen.append(complaint)
        else:
            unions.setdefault(found[0], {}).setdefault(found[1], []).append(complaint)
    for path, by_branch in unions.items():
        meant = [c for c in by_branch.values() if not all(_is_shape(one, path) for one in c)]
        if meant or len(by_branch) == 1:
            chosen += sorted(meant or by_branch.values(), key=len)[0]
        else:
            # No branch has the value's shape: one complaint, which then says the shapes of all.
            chosen.append({**next(iter(by_branch.values()))[0], "loc": path})
    return chosen


def _is_shape(complaint: Complaint, path: tuple[Any, ...]) -> bool:
    return complaint["type"] in _SHOULD_BE and len(complaint["loc"]) == len(path) + 1


# -------------------------------------------------------------------------------------------------------------- wording


def _problem(complaint: Complaint, node: Node, schema: Mapping[str, Any], what: str) -> Problem:
    kind, loc = complaint["type"], complaint["loc"]
    at = node.find(loc)
    key = _key(loc, node)
    if kind == "missing":
        description = shapes.described(schema, loc)
        return at.place.problem(f"`{loc[-1]}` is missing in {_owner(loc, what)}.", description)
    if kind == "extra_forbidden":
        known = shapes.keys(schema, loc[:-1])
        hint = did_you_mean(str(loc[-1]), known) or (f"There are: {listed(known)}." if known else "")
        return at.place.problem(f"`{loc[-1]}` is not a key of {_owner(loc, what)}.", hint)
    if kind == "union_tag_not_found":
        name = complaint["ctx"]["discriminator"].strip("'")
        branches = [o["properties"] for o in shapes.at(schema, loc) if name in o.get("properties", {})]
        known = [str(branch[name]["const"]) for branch in branches if "const" in branch[name]]
        return at.place.problem(f"`{name}` is missing in {key}.", f"It is one of: {listed(known)}." if known else "")
    if kind in _SHOULD_BE:
        wanted = _shapes(schema, loc) or _SHOULD_BE[kind]
        value = complaint["input"]
        return at.place.problem(f"{key or 'This'} should be {wanted}, not {spelled(value)}.", _reshaped(wanted, value))
    message, hint = _said(complaint, key, complaint.get("input"))
    return at.place.problem(message, hint)


def _shapes(schema: shapes.Schema, loc: Sequence[Any]) -> str:
    """What a value may be, of all branches: "text or a list"."""
    return " or ".join(
        dict.fromkeys(_JSON_TYPES[o["type"]] for o in shapes.at(schema, loc) if o.get("type") in _JSON_TYPES)
    )


def _key(loc: Sequence[Any], node: Node) -> str:
    """The key that a complaint is about: `require`, or "an entry of `require`"."""
    real = [part for n, part in enumerate(loc) if node.find(loc[: n + 1]) is not node.find(loc[:n])]
    words = [part for part in real if isinstance(part, str)]
    if not words:
        return "An entry" if real else ""
    return f"`{words[-1]}`" if isinstance(real[-1], str) else f"An entry of `{words[-1]}`"


def _owner(loc: Sequence[Any], what: str) -> str:
    """What the key at a location belongs to: "stage dedup", or "`columns` of source gsm8k"."""
    parents = [part for part in loc[:-1] if isinstance(part, str) and part not in ("column", "constant")]
    return f"`{parents[-1]}` of {what}" if parents else what


def _said(complaint: Complaint, key: str, value: Any) -> tuple[str, str]:
    """(message, hint)"""
    kind, context = complaint["type"], complaint.get("ctx") or {}
    if kind in _LIMITS:
        name, words = _LIMITS[kind]
        return f"{key} should be {words} {context[name]:g}, not {spelled(value)}.", ""
    if kind in ("literal_error", "enum"):
        options = [option.strip("'\"") for option in context["expected"].replace(" or ", ", ").split(", ")]
        hint = did_you_mean(str(value), options) or f"It is one of: {listed(options)}."
        return f"{key} can't be {spelled(value)}.", hint
    if kind == "union_tag_invalid":
        name = context["discriminator"].strip("'")
        options = [option.strip("'") for option in context["expected_tags"].split(", ")]
        hint = did_you_mean(str(context["tag"]), options) or f"It is one of: {listed(options)}."
        return f"{key}: `{name}` can't be {spelled(context['tag'])}.", hint
    if kind == "too_short":
        least = context["min_length"]
        return f"{key} needs at least {least} {'entry' if least == 1 else 'entries'}.", ""
    if kind == "too_long":
        return f"{key} may have at most {context['max_length']} entries; it has {context['actual_length']}.", ""
    if kind == "string_pattern_mismatch":
        if NAME.pattern in context["pattern"]:
            return f"{key} can't be {spelled(value)}.", NAMES
        return f"{key} can't be {spelled(value)}: it must match {context['pattern']}.", ""
    if kind in ("value_error", "assertion_error"):
        said = str(context.get("error", complaint["msg"])).strip()
        said = said if said.endswith((".", "!", "?", ")")) else f"{said}."
        return f"{key}: {said}" if key else said[:1].upper() + said[1:], ""
    return f"{key or 'This'}: {complaint['msg']}.", ""


def _reshaped(wanted: str, value: Any) -> str:
    """How to write a value that was meant well."""
    if wanted == "true or false" and isinstance(value, str) and value.lower() in ("yes", "on", "no", "off"):
        return f"Write {'true' if value.lower() in ('yes', 'on') else 'false'}: YAML 1.2 reads `{value}` as text."
    if wanted.startswith("text") and isinstance(value, int | float):
        return f'Put it in quotes: "{str(value).lower() if isinstance(value, bool) else value}".'
    if "number" in wanted and isinstance(value, str) and value.replace(".", "", 1).isdigit():
        return "Take off the quotes."
    return ""


def spelled(value: Any) -> str:
    """A value as the recipe spells it."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = str(value)
    return f"`{text if len(text) <= 60 else text[:60] + '…'}`" if isinstance(value, str) else text
