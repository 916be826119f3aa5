"""The HTML of a report: whole, small, self-contained, and with nothing alive in it that came from data."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from curation import reporting
from curation.versions import Version
from reports import charts, page
from tests.reports.conftest import row_id


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the ids."""

    def __init__(self, html: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def made(version: Version, tmp_path: Path, **more: object) -> str:
    target = tmp_path / "report.html"
    reporting.write(version, target, **more)  # type: ignore[arg-type]
    return target.read_text(encoding="utf-8")


def test_what_stands_in_it(small: Version, tmp_path: Path) -> None:
    html = made(small, tmp_path)
    for said in (
        "small@0123456789ab",
        "From what came in",
        "Where rows went",
        "What more tries would bring",
        "CC-BY-NC-4.0",
        "merged away",
    ):
        assert said in html, said
    assert html.count('class="card"') == 10
    assert html.count('<img src="data:image/webp;base64,') == 3  # two pictures, one of which stands in two rows
    assert len(html) < 400_000


def test_ids_are_unique_and_links_lead_somewhere(small: Version, tmp_path: Path) -> None:
    elements = Elements(made(small, tmp_path)).found
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for tag, attributes in elements if tag == "a"]
    assert {link[1:] for link in links if link} <= set(ids)
    assert f"row-{row_id(0)}" in ids


@pytest.mark.parametrize("which", ["small", "hostile"])
def test_it_asks_for_nothing_and_runs_only_its_own_script(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    html = made(request.getfixturevalue(which), tmp_path)
    elements = Elements(html).found
    scripts = [attributes for tag, attributes in elements if tag == "script"]
    assert scripts == [{}]
    for tag, attributes in elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert tag not in ("iframe", "object", "embed", "link", "form", "base", "image", "use", "a:href")
        for name in ("src", "href", "xlink:href", "data", "action"):
            value = attributes.get(name) or "#"
            assert value.startswith("#") or (tag == "img" and value.startswith("data:image/webp;base64,")), (tag, value)
    policy = next(
        attributes["content"]
        for tag, attributes in elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy and policy.startswith("default-src 'none'; img-src data:;") and "script-src 'sha256-" in policy
    assert not re.search(r"url\(|@import", re.sub(r"<pre.*?</pre>", "", html, flags=re.DOTALL))


def test_hostile_texts_show_as_they_are(hostile: Version, tmp_path: Path) -> None:
    html = made(hostile, tmp_path)
    assert "&lt;script&gt;window.hacked=1&lt;/script&gt;" in html
    for alive in ("<script>window", "<img src=x", "<svg onload", "\u202e", "\x07"):
        assert alive not in html, alive
    assert "{{7*7}}" in html


def test_benchmark_texts_stand_only_in_reports_for_oneself(
    small: Version, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from curation.similarity import benchmarks

    item = {"question": "The secret item?", "choices": None, "answer": "42"}
    monkeypatch.setattr(benchmarks, "cached_item", lambda workspace, name, row: item)
    assert "The secret item?" in made(small, tmp_path)
    assert "The secret item?" not in made(small, tmp_path, items=False)


def test_draws_are_seeded(small: Version) -> None:
    def ids(seed: int) -> list[str]:
        return [s.row_id for g in reporting.answers(small, seed=seed).groups for s in g.samples]

    assert ids(1) == ids(1)
    assert len({tuple(ids(seed)) for seed in range(12)}) > 1


def test_two_versions_side_by_side(small: Version, hostile: Version, tmp_path: Path) -> None:
    reporting.write_pair(small, hostile, tmp_path / "both.html")
    html = (tmp_path / "both.html").read_text()
    assert html.count("<h4>small@0123456789ab</h4>") == html.count("<h4>hostile@0123456789ab</h4>") > 20
    assert "<script>window" not in html


def test_without_a_drawer_tables_have_bars(small: Version, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(charts, "can_draw", lambda: False)
    html = made(small, tmp_path)
    assert "<svg" not in html and "pip install 'winnow[report]'" in html.replace("&#39;", "'")
    assert html.count('class="n bar"') > 30


def test_what_finds_no_room_is_counted(small: Version, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(page, "SAMPLES_BYTES", 6000)
    html = made(small, tmp_path)
    assert 0 < html.count('class="card"') < 10
    assert "found no room on this page" in html


def test_tables_as_files(small: Version, hostile: Version, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    subject = reporting.answers(hostile)
    assert len(reporting.write_tables(subject, tmp_path / "csv")) > 30
    text = (tmp_path / "csv" / "fates.csv").read_text(encoding="utf-8")
    assert text.splitlines()[0] == "stage,fate,reason,rows,share,for_example"
    reporting.write_tables(reporting.answers(small), tmp_path / "parquet", "parquet")
    assert pq.read_table(tmp_path / "parquet" / "fates.parquet").num_rows == 5


def test_formulas_in_csv_are_neutralised(small: Version, tmp_path: Path) -> None:
    (tmp_path / "evil.sql").write_text("select '=HYPERLINK(\"http://x\")' as a, '-1+1' as b, -5 as c")
    reporting.write_tables(reporting.answers(small, [tmp_path]), tmp_path / "out")
    assert (tmp_path / "out" / "evil.csv").read_text() == 'a,b,c\n"\'=HYPERLINK(""http://x"")",\'-1+1,-5\n'
