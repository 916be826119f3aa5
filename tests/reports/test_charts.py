"""Drawings: what they show, that they hold nothing but shapes and text, and that a drawer that dies costs one of them."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pyarrow as pa
import pytest

from curation import reporting
from curation.versions import Version
from reports import charts
from reports.questions import Answer, parse

pytest.importorskip("vl_convert", reason="charts need: pip install 'winnow[report]'")


def answer(chart: str, columns: dict[str, list[object]], units: str = "") -> Answer:
    question = parse("mine", f"-- title: Mine\n-- chart: {chart}\n-- units: {units}\nselect 1")
    return Answer(question, "", pa.table(columns))


@pytest.mark.parametrize("which", ["small", "hostile"])
def test_drawings_hold_shapes_and_text_alone(which: str, request: pytest.FixtureRequest) -> None:
    version: Version = request.getfixturevalue(which)
    drawn = [svg for svg in charts.draw(reporting.answers(version).answers) if svg]
    assert len(drawn) >= 10
    for svg in drawn:
        root = ET.fromstring(svg)
        assert root.get("role") == "img" and root.get("aria-label")
        for element in root.iter():
            assert element.tag in charts._TAGS
            assert set(element.attrib) <= charts._ATTRIBUTES | {"role", "aria-label", "style"}
            assert not [v for v in element.attrib.values() if "url(" in v or "javascript" in v]


def test_bars_say_what_they_stand_for() -> None:
    [svg] = charts.draw([answer("bars y=who x=rows color=fate", {"who": ["a", "a", "b"], "fate": ["kept", "dropped", "kept"], "rows": [12345, 3, 4]}, "rows=rows")])  # fmt: skip
    assert "who a, fate kept, rows 12,345" in svg
    assert 'fill="var(--good)"' in svg and 'fill="var(--bad)"' in svg


def test_what_is_too_much_is_drawn_in_part() -> None:
    many = [answer("bars y=who x=n", {"who": [f"s{i}" for i in range(50)], "n": list(range(50))})]
    [svg] = charts.draw(many)
    assert "who s19, n 19" in svg and "who s20" not in svg
    lines = answer(
        "line x=k y=n color=who", {"who": [f"s{i // 2}" for i in range(40)], "k": [1, 2] * 20, "n": list(range(40))}
    )
    assert "s7" in charts.draw([lines])[0]


@pytest.mark.parametrize("chart", ["table", "numbers", "bars y=a x=b"])
def test_no_chart_where_a_table_says_it_better(chart: str) -> None:
    assert charts.draw([answer(chart, {"a": ["x"], "b": [1]})]) == [""]


def test_a_drawer_that_dies_costs_one_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """vl-convert 1.9 ends its whole process at a control character; what it gets has none, so one is put there."""
    good = [answer("bars y=a x=b", {"a": ["x", "y"], "b": [1, 2]})] * 2
    specs = [json.dumps(charts.specification(one)) for one in good]
    deadly = specs[0].replace('"x"', '"x\\u0007"')
    drawn = charts._drawn([specs[0], deadly, specs[1]])
    assert [svg[:4] for svg in drawn] == ["<svg", "", "<svg"]
    assert charts._drawn([deadly] * 5) == [""] * 5
    assert charts._drawn(["{}", specs[0]])[1].startswith("<svg")
