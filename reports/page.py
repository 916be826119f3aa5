"""The report as one HTML file: opens by double click, needs no network, holds no script but its own.

A policy in the page itself (Content-Security-Policy) forbids every script whose hash it does not name, and every request.
Whatever comes from data is escaped by the templates; formulas and drawings come from `text` and `charts`, pictures are
decoded and encoded anew as small ones.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Protocol

from markupsafe import Markup

from reports import charts, formats
from reports.questions import Answer
from reports.samples import Group, Sample
from reports.text import harmless, rich

if TYPE_CHECKING:
    import jinja2
    from PIL import Image

THUMBNAIL = 224
"""Pixels of a picture's longer side."""
PICTURES = 160
"""Pictures of a page at most."""
SAMPLES_BYTES = 9_000_000
"""Bytes of HTML that samples may take; what does not fit is left out, and said to be."""
LINES = 60
"""Lines of a table that are shown; CSV has all."""


@dataclass(frozen=True)
class Outside:
    """What a report may ask for that does not lie in a version's folder.

    picture  hash -> the picture as a person sees it (RGB), or None where it cannot be had
    item     benchmark, row_id -> question, choices and answer of an item, or None. Benchmarks' texts must not be
             published, so only a report for one's own eyes is given this.
    """

    picture: Callable[[str], Image.Image | None] = lambda name: None
    item: Callable[[str, str], Mapping[str, Any] | None] = lambda benchmark, row_id: None


@dataclass(frozen=True)
class Subject:
    """One version of a report: its manifest, and the answers to the questions, all reports' in the same order."""

    manifest: Mapping[str, Any]
    answers: Sequence[Answer]
    groups: Sequence[Group] = field(default_factory=tuple)

    @property
    def label(self) -> str:
        return f"{self.manifest['name']}@{self.manifest['id']}"


@cache
def environment() -> jinja2.Environment:
    """The templates; everything that they print is made harmless and escaped, unless it is Markup."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("reports", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: harmless(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(
        rich=rich, said=formats.said, heading=formats.heading, meaning=meaning, style=source("report.css")
    )
    return made


@cache
def source(name: str) -> Markup:
    """A style sheet or script of the templates, as it is."""
    return Markup(resources.files("reports").joinpath("templates", name).read_text(encoding="utf-8"))


def meaning(state: str | None) -> str:
    """The colour of a fate or verdict."""
    return charts.MEANING.get(state or "", "grey")


def page(subjects: Sequence[Subject], outside: Outside | None = None) -> str:
    """The HTML of one version's report, or of several side by side."""
    script = source("report.js")
    policy = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    pictures = Pictures((outside or Outside()).picture)
    told = [(answer.question.name + subject.label, answer) for subject in subjects for answer in subject.answers]
    with ThreadPoolExecutor(1) as aside:  # another process draws meanwhile
        drawing = aside.submit(charts.draw, [answer for _, answer in told])
        groups, left_out = ([], 0) if len(subjects) > 1 else cards(subjects[0], pictures, outside or Outside())
        drawn = {name: Markup(svg) for (name, _), svg in zip(told, drawing.result(), strict=True)}
    sections: dict[str, list[list[Answer]]] = {}
    silent: list[tuple[str, str]] = []
    for answers in zip(*(subject.answers for subject in subjects), strict=True):
        if all(answer.empty and not answer.error for answer in answers):
            silent.append((answers[0].question.title, answers[0].missing or "nothing to count"))
            continue
        sections.setdefault(answers[0].question.section, []).append(list(answers))
    return environment().get_template("report.html").render(
        subjects=subjects,
        sections=sections,
        silent=silent,
        groups=groups,
        left_out=left_out,
        drawn=drawn,
        can_draw=charts.can_draw(),
        script=script,
        policy=policy,
        lines=LINES,
        table=table,
    )  # fmt: skip


def table(answer: Answer, most: int = LINES) -> dict[str, Any]:
    """An answer as cells: `columns` with heading and kind, `lines` of (text, number or None), `more` lines left out.

    A cell's number, from 0 to 1, is drawn as a bar behind it: shares, and the amounts of a chart that is not drawn.
    """
    assert answer.table is not None
    units, shown = answer.question.units, answer.table.slice(0, most)
    import pyarrow as pa

    names = answer.table.column_names
    numeric = {n for n in names if (t := shown.schema.field(n).type) and (pa.types.is_integer(t) or pa.types.is_floating(t) or pa.types.is_decimal(t))}  # fmt: skip
    drawn = None if charts.can_draw() else answer.question.roles.get("x" if answer.question.chart == "bars" else "y")
    lines = []
    values = shown.to_pylist()
    for line in values:
        cells = []
        for name in names:
            bar = None
            if name in numeric and line[name] is not None:
                if units.get(name) == "%":
                    bar = min(max(float(line[name]), 0.0), 1.0)
                elif name == drawn:
                    top = max((abs(float(v[name])) for v in values if v[name] is not None), default=0) or 1
                    bar = abs(float(line[name])) / top
            cells.append((formats.said(line[name], units.get(name, "")), bar, name in numeric))
        lines.append(cells)
    unit = {n: formats.unit_beside(n, units.get(n, "")) for n in names}
    columns = [(formats.heading(n), unit[n], n in numeric) for n in names]
    return {"columns": columns, "lines": lines, "more": len(answer.table) - len(shown)}


# ------------------------------------------------------------------------------------------------------------- samples


class Thumbnails(Protocol):
    """Where cards have their pictures from."""

    def thumbnail(self, name: str) -> str | None:
        """The address of a picture by its hash; None where it cannot be had."""


@dataclass
class Pictures:
    """Thumbnails as data URIs, each made once."""

    get: Callable[[str], Image.Image | None]
    made: dict[str, str | None] = field(default_factory=dict)

    def thumbnail(self, name: str) -> str | None:
        """None where the picture cannot be had, or the page has enough of them."""
        if name not in self.made:
            if sum(uri is not None for uri in self.made.values()) >= PICTURES:
                return None
            picture = self.get(name)
            self.made[name] = None if picture is None else data_uri(picture)
        return self.made[name]


def data_uri(picture: Image.Image, side: int = THUMBNAIL) -> str:
    """A small copy of a picture, as a data URI."""
    small = picture.copy()
    small.thumbnail((side, side))
    sink = io.BytesIO()
    small.convert("RGB").save(sink, "WEBP", quality=72, method=4)
    return "data:image/webp;base64," + base64.b64encode(sink.getvalue()).decode()


def cards(subject: Subject, pictures: Pictures, outside: Outside) -> tuple[list[dict[str, Any]], int]:
    """Groups with their cards' HTML, and how many cards found no room. The first card of every group comes first in
    the account, so that no group stays empty because others are long."""
    made: dict[tuple[int, int], Markup] = {}
    seen: set[str] = set()
    room, left_out = SAMPLES_BYTES, 0
    places = sorted((at, group) for group, of in enumerate(subject.groups) for at in range(len(of.samples)))
    for at, group in places:
        sample = subject.groups[group].samples[at]
        if sample.row_id in seen:
            html = Markup('<p class="again">Row <a href="#row-{0}"><code>{0}</code></a> stands above or below.</p>').format(sample.row_id)  # fmt: skip
        else:
            html = card(sample, pictures, outside)
        if len(html) > room:
            left_out += 1
            continue
        room -= len(html)
        seen.add(sample.row_id)
        made[group, at] = html
    groups = [
        {"group": of, "cards": [made[g, at] for at in range(len(of.samples)) if (g, at) in made]}
        for g, of in enumerate(subject.groups)
    ]
    return groups, left_out


def card(sample: Sample, pictures: Thumbnails, outside: Outside, longer: int = 1) -> Markup:
    """One row as an article: question, pictures, answers, traces, and what stands beside it. Texts are shown `longer`
    times as long as in a report."""
    item = None
    if sample.item is not None:
        item = {**sample.item, **(outside.item(sample.item["benchmark"], sample.item.get("item_row", "")) or {})}
    row = sample.row or {}
    find = " ".join(str(row.get(key) or "") for key in ("question", "answer", "id"))[:400]
    template = environment().get_template("card.html")
    shown = replace(sample, item=item)
    return Markup(template.render(sample=shown, picture=pictures.thumbnail, find=find, longer=longer))
