"""The openai_server teacher against a real server in its own process, sound and broken."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
from PIL import Image

from curation.images import ImageStore, ImageWriter
from curation.teachers import Message, OpenAIServer, Request, Sampling, Want
from curation.teachers.asking import Wish
from curation.teachers.store import TraceStore
from schemas.errors import WinnowError


def sums(rows_of, n, start=0):
    return rows_of(
        [
            {"question": f"What is {i} + {i + 1}?", "answer": str(2 * i + 1), "images": []}
            for i in range(start, start + n)
        ]
    )


def test_every_answer_has_a_seed_of_its_own_and_a_row_is_one_request(rows_of, fan_out, loopback):
    server = loopback()
    result = fan_out(sums(rows_of, 50), server.teacher, n=4)
    assert [(t["row_id"][:5], t["k"]) for t in result.traces] == [(f"{i:05x}", k) for i in range(50) for k in range(4)]
    assert len({t["text"] for t in result.traces}) == 200
    assert server.counts()["requests"] == 50 and server.counts()["asked"] == 200
    assert result.prepared["asked"] == 200 and result.prepared["reused"] == 0
    assert all(t["output_tokens"] == len(t["text"].split()) + 8 - 3 for t in result.traces)
    by_prompt = Counter(name for name, _, _ in server.asked())
    assert set(by_prompt.values()) == {4}
    # One at a time gives the same answers: each has the seed of its k, however it is asked for.
    again = fan_out(sums(rows_of, 50), {**server.teacher, "answers_per_request": 1}, n=4, seed=0, into=None)
    assert again.prepared["asked"] == 0
    assert again.table.equals(result.table)


def test_answers_do_not_depend_on_how_they_were_grouped(rows_of, fan_out, loopback, context, tmp_path):
    server, rows = loopback(), sums(rows_of, 20)
    together = fan_out(rows, server.teacher, n=4)
    for name, more in (("a", {"answers_per_request": 1}), ("b", {"answers_per_request": 3})):
        elsewhere = replace(context(), workspace=tmp_path / name)
        assert fan_out(rows, {**server.teacher, **more}, n=4, into=elsewhere).table.equals(together.table)
    elsewhere = replace(context(), workspace=tmp_path / "c")
    fan_out(rows, server.teacher, n=1, into=elsewhere)
    assert fan_out(rows, server.teacher, n=4, into=elsewhere).table.equals(together.table)


def test_x4_becomes_x8_by_asking_for_four_more(rows_of, fan_out, loopback):
    """10,000 rows: exactly 40,000 new answers, counted at the server."""
    server, rows = loopback(length=3), sums(rows_of, 10_000)
    four = fan_out(rows, server.teacher, n=4)
    assert server.counts()["asked"] == 40_000
    eight = fan_out(rows, server.teacher, n=8)
    assert server.counts()["asked"] == 80_000
    assert eight.prepared == {**eight.prepared, "asked": 40_000, "reused": 40_000}
    assert [t for t in eight.traces if t["k"] < 4] == four.traces
    assert max(Counter(server.asked()).values()) == 1


def test_a_server_that_gives_one_choice_is_asked_one_by_one(rows_of, fan_out, loopback, context, tmp_path):
    one, rows = loopback(most_choices=1), sums(rows_of, 30)
    result = fan_out(rows, one.teacher, n=4)
    assert max(Counter(one.asked()).values()) == 1
    several = loopback(log="other.log")
    elsewhere = replace(context(), workspace=tmp_path / "b")
    assert fan_out(rows, several.teacher, n=4, into=elsewhere).table.equals(result.table)


def test_an_unknown_server_is_asked_for_one_answer_at_a_time(rows_of, fan_out, loopback):
    server = loopback(engine="somebody")
    result = fan_out(sums(rows_of, 10), server.teacher, n=3)
    assert server.counts()["requests"] == 30
    assert all(t["output_tokens"] for t in result.traces)


@pytest.mark.timeout(300)
def test_a_fifth_of_all_requests_fails(rows_of, fan_out, loopback, context, tmp_path):
    """503, 429, hangs, cut connections and broken JSON: the same traces as undisturbed, and no failure among them."""
    rows = sums(rows_of, 300)
    sound, broken = loopback(), loopback(log="broken.log", faults=0.2)
    want = fan_out(rows, sound.teacher, n=4)
    elsewhere = replace(context(), workspace=tmp_path / "b")
    found = fan_out(rows, {**broken.teacher, "timeout": 1, "tries": 20}, n=4, into=elsewhere)
    assert found.table.equals(want.table)
    assert found.notes["traces"] == {"finished": 1200, "truncated": 0, "failed": 0}
    assert broken.counts()["requests"] > 300


def test_what_fails_too_often_is_failed_not_wrong_and_asked_again_by_the_next_build(rows_of, fan_out, loopback):
    server, rows = loopback(faults=1.0), sums(rows_of, 3)
    lost = fan_out(rows, {**server.teacher, "timeout": 0.2, "tries": 2}, n=2, retry={"failed": 0})
    assert lost.notes["traces"] == {"finished": 0, "truncated": 0, "failed": 6} and lost.again
    assert all(t["text"] is None and "tries" in t["finish_reason"] for t in lost.traces)
    server.kill()
    sound = loopback(log="sound.log", port=server.port)
    found = fan_out(rows, sound.teacher, n=2)
    assert found.notes["traces"]["finished"] == 6 and not found.again
    assert {t["attempt"] for t in found.traces} == {1}


def test_what_a_server_rejects_is_not_asked_again(rows_of, fan_out, loopback):
    server = loopback()
    rows = rows_of([{"question": "This is too long", "images": []}, {"question": "What is 1 + 2?", "images": []}])
    first = fan_out(rows, server.teacher, n=2)
    assert [t["finish"] for t in first.traces] == ["failed"] * 2 + ["finished"] * 2
    assert first.traces[0]["finish_reason"].startswith("rejected: 400") and not first.again
    requests = server.counts()["requests"]
    assert fan_out(rows, server.teacher, n=2).table.equals(first.table)
    assert server.counts()["requests"] == requests
    fan_out(rows, server.teacher, n=2, retry={"rejected": True, "failed": 0})
    assert server.counts()["requests"] == requests + 1


def test_two_endpoints_share_the_work_and_one_may_die(rows_of, fan_out, loopback):
    servers = [loopback(log=f"{i}.log", delay=0.01) for i in range(2)]
    teacher = {"kind": "openai_server", "url": [s.url for s in servers], "model": "tiny", "concurrency": 8}
    done = threading.Event()

    def kill_one():
        while not done.is_set() and servers[0].counts()["asked"] < 100:
            time.sleep(0.02)
        servers[0].kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    result = fan_out(sums(rows_of, 400), teacher, n=2)
    done.set()
    killer.join()
    assert result.notes["traces"]["finished"] == 800
    assert len(servers[0].asked()) >= 100 and len(servers[1].asked()) > 200


def test_a_server_that_is_restarted_is_found_again(rows_of, fan_out, loopback, context, tmp_path):
    server = loopback(delay=0.01)
    rows = sums(rows_of, 300)
    restarted = []

    def restart():
        while server.counts()["asked"] < 150:
            time.sleep(0.02)
        server.kill()
        time.sleep(1.5)
        restarted.append(loopback(log="second.log", port=server.port))

    thread = threading.Thread(target=restart)
    thread.start()
    result = fan_out(rows, {**server.teacher, "concurrency": 16}, n=2)
    thread.join()
    assert result.notes["traces"] == {"finished": 600, "truncated": 0, "failed": 0}
    assert len(restarted[0].asked()) > 300
    elsewhere = replace(context(), workspace=tmp_path / "b")
    assert fan_out(rows, loopback(log="third.log").teacher, n=2, into=elsewhere).table.equals(result.table)


def test_nobody_answers(rows_of, fan_out):
    teacher = {"kind": "openai_server", "url": "http://127.0.0.1:9", "model": "tiny", "patience": 0.5}
    with pytest.raises(
        WinnowError, match=r"No endpoint of the teacher answers:\n  http://127.0.0.1:9: .*\n.*serve-teacher"
    ):
        fan_out(sums(rows_of, 2), teacher, n=2)


def test_another_model_is_said_at_once(rows_of, fan_out, loopback):
    with pytest.raises(WinnowError, match="does not serve 'big'; it serves tiny"):
        fan_out(sums(rows_of, 2), {**loopback().teacher, "model": "big"}, n=2)


def test_the_limit_stays_where_the_server_has_room(rows_of, fan_out, loopback):
    """A server that says 429 above 20 at once: all is answered, and few requests are refused."""
    server = loopback(capacity=20, delay=0.005)
    result = fan_out(sums(rows_of, 2000), server.teacher, n=1)
    assert result.notes["traces"]["finished"] == 2000
    assert server.counts()["requests"] < 2400


def test_pictures_are_sent_once_as_they_are(rows_of, context, fan_out, loopback, tmp_path):
    """The original bytes of PNG and JPEG; a BMP becomes PNG; max_pixels makes them smaller, and is part of the key."""
    store = ImageStore(context().workspace)
    hashes, sources = [], []
    for kind in ("PNG", "JPEG", "BMP"):
        sink = io.BytesIO()
        Image.new("RGB", (40, 30), (10, 20, 30)).save(sink, kind)
        sources.append(sink.getvalue())
        hashes.append(hashlib.sha256(sink.getvalue()).hexdigest())
    with ImageWriter(context().workspace) as writer:
        for data in sources:
            writer.add(data)
    rows = rows_of([{"question": "See <image>, <image> and <image>.", "images": hashes}])
    config = OpenAIServer(url="http://127.0.0.1:9", model="tiny")
    server = config.open(store.read, tmp_path)
    messages = (Message("system", "S"), Message("user", rows["question"][0].as_py()))
    request = Request(messages, tuple(hashes), (Want("0" * 32, 0),), 1, 9)
    parts = json.loads(server.body(server.endpoints[0], request, Sampling()))["messages"][1]["content"]
    assert [p["type"] for p in parts] == ["text", "image_url", "text", "image_url", "text", "image_url", "text"]
    urls = [p["image_url"]["url"] for p in parts if p["type"] == "image_url"]
    assert [u.split(";")[0] for u in urls] == ["data:image/png", "data:image/jpeg", "data:image/png"]
    assert [base64.b64decode(u.split(",")[1]) for u in urls[:2]] == sources[:2]
    small = OpenAIServer(url="http://127.0.0.1:9", model="tiny", max_pixels=300)
    parts = json.loads(small.open(store.read, tmp_path).body(server.endpoints[0], request, Sampling()))["messages"][1][
        "content"
    ]
    image = Image.open(io.BytesIO(base64.b64decode(parts[1]["image_url"]["url"].split(",")[1])))
    assert image.size == (20, 15)
    assert small.identity(tmp_path) != config.identity(tmp_path)
    live = loopback()
    fan_out(rows, live.teacher, n=8)
    assert live.counts()["requests"] == 1  # eight answers, the pictures once


def test_the_key_is_sent_and_must_be_there(rows_of, fan_out, loopback, monkeypatch):
    with pytest.raises(WinnowError, match="NO_SUCH_KEY is not set"):
        fan_out(sums(rows_of, 1), {**loopback().teacher, "api_key_env": "NO_SUCH_KEY"}, n=1)


def test_without_aiohttp_the_error_names_the_command(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(WinnowError, match=r"pip install 'winnow\[server\]'"):
        OpenAIServer(url="http://x", model="m").open(lambda names: {}, tmp_path)


def test_a_consumer_that_stops_leaves_no_thread(rows_of, loopback, context, tmp_path):
    server = loopback(delay=0.01)
    config = OpenAIServer(**server.teacher)
    teacher = config.open(lambda names: {}, tmp_path)
    wish = Wish(Sampling(), 1)
    prompts = wish.prompts(sums(rows_of, 200), model="tiny", revision="")
    asked = (Request(p.messages, p.images, (Want(p.key(0), 0),), p.seed(0), 100) for p in prompts)
    answers = teacher.ask(asked, Sampling())
    next(answers)
    answers.close()
    assert not [t for t in threading.enumerate() if t.name == "openai_server"]


def test_answers_are_durable_before_they_are_reported(rows_of, fan_out, loopback, context):
    result = fan_out(sums(rows_of, 20), loopback().teacher, n=2)
    stored = TraceStore(context().workspace / "traces").records(t["key"] for t in result.traces)
    assert set(stored["key"].to_pylist()) == {t["key"] for t in result.traces}


def test_it_imports_nothing_heavy():
    code = "import sys, curation.teachers; print([m for m in ('aiohttp', 'torch', 'vllm', 'transformers') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
