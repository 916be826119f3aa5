"""`winnow explore` as it runs: pages, filters, time limits, what it refuses, and hostile data in a browser."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

import pytest

from curation.explore.desk import Desk, TooLong
from curation.versions import Version
from schemas.errors import WinnowError
from tests.reports.browsing import chromium
from tests.reports.conftest import row_id

pytest.importorskip("aiohttp", reason="winnow explore needs: pip install 'winnow[report]'")


def started(version: Version, *more: str) -> tuple[subprocess.Popen[str], str]:
    words = [
        sys.executable,
        "-m",
        "curation.cli",
        "explore",
        version.name,
        "--port",
        "0",
        "-w",
        str(version.path.parents[2]),
        *more,
    ]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert url.startswith("http://127.0.0.1:")
    return process, url


@pytest.fixture(scope="module")
def url(small: Version) -> Iterator[str]:
    process, address = started(small)
    yield address
    process.terminate()
    process.wait(10)


@pytest.fixture(scope="module")
def hostile_url(hostile: Version) -> Iterator[str]:
    process, address = started(hostile)
    yield address
    process.terminate()
    process.wait(10)


def get(url: str, path: str = "", method: str = "GET", **headers: str) -> tuple[int, str, http.client.HTTPResponse]:
    parts = urlsplit(url + path)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 0, timeout=20)
    connection.request(
        method,
        f"{parts.path}?{parts.query}" if parts.query else parts.path,
        headers={k.replace("_", "-"): v for k, v in headers.items()},
    )
    response = connection.getresponse()
    return response.status, response.read().decode("utf-8", "replace"), response


def test_the_first_page(url: str) -> None:
    status, text, response = get(url)
    assert status == 200 and "10 rows" in text and text.count('class="card line"') == 10
    assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "<script" not in text


@pytest.mark.parametrize(
    ("where", "traces", "found"),
    [
        ("source = 'a'", "", "4 rows"),  # the fifth of them is in source a of the ledger alone below
        ("fate = 'quarantined'", "", "1 rows"),
        ("fate = 'kept' and length(question) > 12", "", "3 rows"),
        ("", "state = 'truncated'", "1 rows"),
        ("", "state = 'correct' and output_tokens > 300", "1 rows"),
        ("pass_rate < 0.5", "state = 'correct'", "1 rows"),
        ("len(images) > 1", "", "1 rows"),
        ("question like '%no such thing%'", "", "0 rows"),
    ],
)
def test_filters(url: str, where: str, traces: str, found: str) -> None:
    status, text, _ = get(url, "?" + urlencode({"where": where, "traces": traces}))
    found = "5 rows" if where == "source = 'a'" else found
    assert status == 200 and f">{found}" in text.replace('role="status"', ""), text[:3000]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("no_such = 1", "is no column"),
        ("sourc = 'a'", "Did you mean &#39;source&#39;"),
        ("1 = 1; drop table x", "only one SELECT"),
        ("row_id in (select row_id from rows)", "has no subquery"),
        ("source =", "syntax error"),
        ("source = 1 + 'x'", "was not run"),
    ],
)
def test_wrong_filters_say_what_is_wrong(url: str, where: str, said: str) -> None:
    status, text, _ = get(url, "?" + urlencode({"where": where}))
    assert status == 400 and said in text


def test_one_row(url: str) -> None:
    status, text, _ = get(url, f"/row/{row_id(0)}")
    assert status == 200 and text.count('class="trace ') == 4 and "<mark>" in text
    assert get(url, f"/row/{row_id(0)[:8]}")[0] == 200
    _, text, _ = get(url, f"/row/{row_id(3)}")
    assert "merged away" in text and row_id(0) in text
    assert get(url, "/row/ffff")[0] == 404


def test_pictures(url: str, small: Version) -> None:
    name = small.sql("select images[1] as h from rows where len(images) > 0 limit 1")["h"][0]
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(url).port or 0)
    connection.request("GET", f"{urlsplit(url).path}/picture/{name}?small")
    response = connection.getresponse()
    assert (response.status, response.headers["Content-Type"]) == (200, "image/webp") and response.read()[
        8:12
    ] == b"WEBP"
    assert get(url, "/picture/0000")[0] == 404
    assert get(url, "/picture/..%2f..%2fmanifest.json")[0] == 404


def test_sql(url: str) -> None:
    assert ">10<" in get(url, "/sql?q=" + quote("select count(*) from ledger"))[1]
    assert "1,000 rows of more" in get(url, "/sql?q=" + quote("select * from range(5000)"))[1]
    status, text, response = get(url, "/sql?csv=1&q=" + quote("select '=1+1' as a, -1 as b"))
    assert (status, text) == (200, "a,b\n'=1+1,-1\n") and "attachment" in response.headers["Content-Disposition"]


@pytest.mark.parametrize(
    "query",
    [
        "drop view rows", "create table x as select 1", "copy (select 1) to '/tmp/winnow_was_here'", "set memory_limit = '99GB'", "attach '/tmp/x.db'",
        "select * from read_text('/etc/hostname')", "select * from read_csv('/etc/hostname')", "select * from '/etc/hostname'", "install httpfs",
        "select 1; select 2", "select * from glob('/*')", "select * from read_parquet('http://127.0.0.1:1/x')", "pragma version", "call pragma_version()",
        "select getenv('HOME')", "explain analyze select 1",
    ],
)  # fmt: skip
def test_sql_reads_the_version_and_nothing_else(url: str, query: str) -> None:
    status, text, _ = get(url, "/sql?" + urlencode({"q": query}))
    assert status == 400 and 'class="error"' in text
    assert not Path("/tmp/winnow_was_here").exists()


def test_who_is_refused(url: str) -> None:
    port = urlsplit(url).port
    assert get(url, Host="evil.example")[0] == 403
    assert get(url, Host=f"evil.example:{port}")[0] == 403
    assert get(url, Host=f"127.0.0.1:{(port or 1) + 1}")[0] == 403
    assert get(url, Origin="http://evil.example")[0] == 403
    assert get(url, Origin="null")[0] == 403
    assert get(url, Sec_Fetch_Site="cross-site")[0] == 403
    assert get(url, Host=f"localhost:{port}", Origin=f"http://localhost:{port}", Sec_Fetch_Site="same-origin")[0] == 200
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        assert get(url, method=method)[0] == 405


def test_it_listens_at_loopback_alone(small: Version) -> None:
    process, address = started(small)
    try:
        port = urlsplit(address).port
        lines = (
            [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            if Path("/proc/net/tcp").exists()
            else []
        )
        bound = {line[1].split(":")[0] for line in lines if line[3] == "0A" and int(line[1].split(":")[1], 16) == port}
        assert bound <= {"0100007F"}
    finally:
        process.terminate()
        process.wait(10)


def test_paging_sees_every_row_once(small: Version, monkeypatch: pytest.MonkeyPatch) -> None:
    from curation.explore import desk as module

    monkeypatch.setattr(module, "ROWS", 3)
    desk = Desk(small)
    seen, after = [], ""
    while True:
        page = desk.page(after=after)
        seen += [sample.row_id for sample in page.samples]
        if page.after is None:
            break
        after = page.after
    assert seen == [row_id(n) for n in range(10)]
    desk.close()


def test_a_query_that_takes_too_long_is_stopped(small: Version) -> None:
    desk = Desk(small, seconds=0.5)
    with pytest.raises(TooLong, match=r"more than 0\.5 s"):
        desk.sql("select count(*) from range(100000000) a, range(100000) b where a.range * b.range % 7 = 3")
    assert desk.sql("select 1 as a")[0].to_pylist() == [{"a": 1}]
    with pytest.raises(WinnowError):
        desk.sql("select list(range) from range(2000000000)")
    desk.close()


def test_many_at_once(small: Version) -> None:
    desk = Desk(small)
    wrong: list[BaseException] = []

    def look() -> None:
        try:
            for _ in range(5):
                assert desk.page(where="fate = 'kept'").total == 5
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    desk.close()


def test_a_taken_port(url: str, small: Version) -> None:
    words = [
        sys.executable,
        "-m",
        "curation.cli",
        "explore",
        "-w",
        str(small.path.parents[2]),
        "--port",
        str(urlsplit(url).port),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "Choose another: --port 0" in done.stderr


# ------------------------------------------------------------------------------------------------------- in a browser


@pytest.mark.browser
def test_pages_in_a_browser(url: str, chromium_path: str) -> None:
    with chromium(chromium_path) as seen:
        page = seen.page
        page.goto(url)
        page.get_by_label("Rows where").fill("source = 'a' and fate = 'kept'")
        page.get_by_role("button", name="Show").click()
        assert page.locator(".card").count() == 3
        page.locator(".card .id").first.click()
        assert page.locator("h1").inner_text().startswith("Row")
        page.locator(".trace summary").first.click()
        assert page.locator("mark").first.is_visible()
        page.get_by_role("link", name="SQL", exact=True).click()
        page.get_by_label("One SELECT").fill("select row_id, question from rows order by row_id")
        page.get_by_role("button", name="Run").click()
        assert page.locator("tbody tr").count() == 5
        page.locator("tbody a").first.click()
        page.get_by_role("link", name="Versions").click()
        assert page.locator("tbody tr").count() == 1
        seen.check("http://127.0.0.1:")


@pytest.mark.browser
def test_hostile_data_in_a_browser(hostile_url: str, chromium_path: str) -> None:
    with chromium(chromium_path) as seen:
        page = seen.page
        for path in (
            "",
            f"/row/{row_id(1)}",
            f"/row/{row_id(3)}",
            "/sql?q=" + quote("select * from decisions, ledger"),
            "?where=" + quote("<script>window.hacked=1</script>"),
        ):
            page.goto(hostile_url + path)
            page.evaluate("() => { for (const fold of document.querySelectorAll('details')) fold.open = true }")
            assert page.evaluate("document.querySelectorAll('script, iframe, object').length") == 0
            typed = page.locator("input, textarea").evaluate_all("all => all.map(one => one.value).join(' ')")
            assert "window.hacked=1" in page.locator("body").inner_text() + typed
            page.wait_for_timeout(100)
            assert page.evaluate("window.hacked") is None
        foreign = [r for r in seen.requests if not r.startswith("http://127.0.0.1:")]
        assert foreign == [] and seen.errors == []
        assert all("400" in line for line in seen.console)  # of the wrong filter alone
