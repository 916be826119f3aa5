"""Reports in a real browser: no error, no request, filter and deep links work, and hostile data is inert."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from curation import build, reporting
from curation.versions import Version
from tests.reports.browsing import chromium
from tests.reports.conftest import row_id

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = pytest.mark.browser
QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report that the build of the quickstart leaves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WINNOW_REPORT", "yes")
        version = build(QUICKSTART, workspace=tmp_path_factory.mktemp("quickstart") / ".winnow")
    return version.path / "report.html"


def written(version: Version, tmp_path: Path) -> str:
    reporting.write(version, tmp_path / "report.html")
    return (tmp_path / "report.html").as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_quickstarts_report(quickstart: Path, chromium_path: str, scheme: str) -> None:
    with chromium(chromium_path, color_scheme=scheme) as seen:
        page = seen.page
        page.goto(quickstart.as_uri())
        assert page.title().startswith("quickstart@")
        assert page.locator("h2").first.inner_text() == "Summary"
        assert page.locator("figure.question").count() > 15
        charts = page.locator(".chart svg")
        assert charts.count() > 8
        assert all(charts.nth(n).bounding_box()["width"] > 300 for n in range(charts.count()))
        assert page.locator("math").count() > 50
        assert page.locator(".pictures img").first.evaluate("image => image.complete && image.naturalWidth > 50")
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (light == "rgb(251, 251, 250)") == (scheme == "light")
        # Nothing runs out of the page on its right.
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        seen.check("file://")


def test_filter(quickstart: Path, chromium_path: str) -> None:
    with chromium(chromium_path) as seen:
        page = seen.page
        page.goto(quickstart.as_uri())
        all_cards = page.locator(".card").count()
        page.keyboard.press("/")
        page.keyboard.type("puzzlevqa merged")
        expect(page.locator("#count")).to_have_text(re.compile(" of "))
        shown = [card for card in page.locator(".card").all() if card.is_visible()]
        assert 0 < len(shown) < all_cards
        assert all("puzzlevqa" in card.inner_text() and "merged" in card.inner_text() for card in shown)
        assert page.locator("#count").inner_text() == f"{len(shown)} of {all_cards} rows"
        page.keyboard.press("Escape")
        expect(page.locator("#count")).to_have_text("")
        page.locator("#filter").fill("no such words anywhere")
        expect(page.locator("#count")).to_have_text(re.compile("^0 of"))
        assert page.locator(".group:visible").count() == 0
        seen.check("file://")


def test_deep_links(quickstart: Path, chromium_path: str) -> None:
    with chromium(chromium_path) as seen:
        page = seen.page
        page.goto(quickstart.as_uri())
        last = page.locator(".card").last.get_attribute("id")
        assert not page.locator(f"#{last}").is_visible()  # its group is folded
        page.goto(f"{quickstart.as_uri()}#{last}")
        page.reload()
        assert page.locator(f"#{last}").is_visible()
        assert "linked" in page.locator(f"#{last}").get_attribute("class")
        top = page.locator(f"#{last}").bounding_box()["y"]
        assert -5 <= top < 900
        # The beginning of an id will do, and a filter that hides the row is taken back.
        page.locator("#filter").fill("no such words anywhere")
        expect(page.locator("#count")).to_have_text(re.compile("^0 of"))
        page.evaluate(f"location.hash = '#{last[:14]}'")
        expect(page.locator(f"#{last}")).to_be_focused()
        assert page.locator("#filter").input_value() == ""
        page.locator("nav a", has_text="Traces").click()
        assert page.locator("h2", has_text="Traces").bounding_box()["y"] < 200
        seen.check("file://")


def test_sql_and_traces_unfold_by_keyboard(quickstart: Path, chromium_path: str) -> None:
    with chromium(chromium_path) as seen:
        page = seen.page
        page.goto(quickstart.as_uri())
        sql = page.locator("#funnel .sql")
        assert not sql.locator("pre").is_visible()
        sql.locator("summary").focus()
        page.keyboard.press("Enter")
        assert "from ledger" in sql.locator("pre").inner_text()
        trace = page.locator(".trace").first
        trace.locator("summary").focus()
        page.keyboard.press("Enter")
        assert trace.locator("mark").first.is_visible()
        seen.check("file://")


def test_what_a_screen_reader_meets(quickstart: Path, chromium_path: str) -> None:
    with chromium(chromium_path) as seen:
        page = seen.page
        page.goto(quickstart.as_uri())
        assert page.locator("html").get_attribute("lang") == "en"
        assert page.get_by_role("main").count() == 1 and page.get_by_role("navigation").count() == 1
        assert page.get_by_role("img", name="Chart: Pass rates").count() == 1
        assert page.get_by_role("searchbox", name="Filter").count() == 1
        assert page.evaluate("[...document.images].every(image => image.alt)")
        levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4,h5')].map(h => +h.tagName[1])")
        assert levels[0] == 1 and all(after - before <= 2 for before, after in itertools.pairwise(levels))
        assert page.evaluate("[...document.querySelectorAll('th')].every(th => th.scope)")
        seen.check("file://")


def test_contrast(quickstart: Path, chromium_path: str) -> None:
    """Text against its ground: 4.5 to 1 at least (WCAG AA), in both schemes."""
    ratio = """() => {
      const lum = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map(v => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4 }); return 0.2126 * r + 0.7152 * g + 0.0722 * b };
      const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)$/.test(c)) return c } return 'rgb(255,255,255)' };
      const worst = {};
      for (const e of document.querySelectorAll('p, td, th, summary, .chip, .soft, a, h1, h2, h3, dt, dd, code')) {
        if (!e.textContent.trim() || !e.getClientRects().length || getComputedStyle(e).opacity === '0') continue;
        const [a, b] = [lum(getComputedStyle(e).color), lum(ground(e))].sort((x, y) => y - x);
        const r = (a + 0.05) / (b + 0.05);
        if (r < 4.5) worst[e.tagName + '.' + e.className] = r.toFixed(2);
      }
      return worst;
    }"""
    for scheme in ("light", "dark"):
        with chromium(chromium_path, color_scheme=scheme) as seen:
            seen.page.goto(quickstart.as_uri())
            assert seen.page.evaluate(ratio) == {}, scheme


def test_it_prints(quickstart: Path, chromium_path: str) -> None:
    with chromium(chromium_path) as seen:
        seen.page.goto(quickstart.as_uri())
        pdf = seen.page.pdf()
        assert pdf.startswith(b"%PDF") and pdf.count(b"/Type /Page") > 5
        seen.page.emulate_media(media="print")
        assert not seen.page.locator("nav").is_visible()
        seen.check("file://")


def test_without_scripts_it_says_everything(quickstart: Path, chromium_path: str) -> None:
    with chromium(chromium_path, java_script_enabled=False) as seen:
        seen.page.goto(quickstart.as_uri())
        assert seen.page.locator(".chart svg").count() > 8
        assert seen.page.locator(".card").first.is_visible()


def test_on_a_telephone(quickstart: Path, chromium_path: str) -> None:
    with chromium(chromium_path, viewport={"width": 390, "height": 800}) as seen:
        seen.page.goto(quickstart.as_uri())
        assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_hostile_data_is_inert(hostile: Version, chromium_path: str, tmp_path: Path) -> None:
    with chromium(chromium_path) as seen:
        page = seen.page
        page.goto(written(hostile, tmp_path) + f"#row-{row_id(0)}")
        page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
        page.locator("#filter").fill("<script>")
        page.wait_for_timeout(300)
        assert page.locator(".card:visible").count() == 10
        page.locator("#filter").fill("")
        page.mouse.move(300, 400)
        assert "window.hacked=1" in page.locator(".card").first.inner_text()
        seen.check("file://")


def test_even_an_injected_script_would_not_run(small: Version, chromium_path: str, tmp_path: Path) -> None:
    """The page's policy is the second wall: a script put into the file by hand is refused."""
    reporting.write(small, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    evil = "<script>window.hacked=1</script><img src=http://127.0.0.1:9/x.png onerror='window.hacked=2'>"
    (tmp_path / "report.html").write_text(html.replace("<main", f"{evil}<main", 1))
    with chromium(chromium_path) as seen:
        seen.page.goto((tmp_path / "report.html").as_uri())
        assert seen.page.evaluate("window.hacked") is None
        assert len([line for line in seen.console if "Content Security Policy" in line]) >= 2


def test_two_versions(small: Version, hostile: Version, chromium_path: str, tmp_path: Path) -> None:
    reporting.write_pair(small, hostile, tmp_path / "both.html")
    with chromium(chromium_path) as seen:
        seen.page.goto((tmp_path / "both.html").as_uri())
        sides = seen.page.locator("#sources .side")
        assert sides.count() == 2
        assert sides.nth(0).bounding_box()["y"] == sides.nth(1).bounding_box()["y"]
        seen.check("file://")


def test_a_large_version(chromium_path: str, tmp_path: Path) -> None:
    """A hundred thousand rows and four hundred thousand traces: the page stays small, and all of it works."""
    from tests.benchmarks.large_version import write_large

    version = Version.open(write_large(tmp_path / ".winnow", 100_000, traces=4))
    address = written(version, tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 15_000_000
    with chromium(chromium_path) as seen:
        page = seen.page
        page.goto(address)
        assert page.locator("figure.question").count() > 20 and page.locator(".chart svg").count() > 10
        assert "100,000" in page.locator("section", has=page.locator("h2", has_text="Summary")).inner_text()
        cards = page.locator(".card")
        assert cards.count() > 50
        page.locator("#filter").fill("source_5 merged")
        expect(page.locator("#count")).to_have_text(re.compile(rf"^[1-9]\d* of {cards.count()} rows"))
        last = cards.last.get_attribute("id")
        page.evaluate(f"location.hash = '#{last}'")
        expect(page.locator(f"#{last}")).to_be_focused()
        assert page.locator(f"#{last}").is_visible() and page.locator("#filter").input_value() == ""
        seen.check("file://")
