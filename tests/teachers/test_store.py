"""The trace store: durable before it counts, torn tails, two writers, kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from curation.teachers.base import Answer, Message, Request, Sampling, trace_key
from curation.teachers.store import MERGE_FILES, TraceStore

ASK = (Message("user", "q"),)


def answer(key, text="t", attempt=0, finish="finished", max_tokens=10):
    return Answer(key, attempt, text, finish, "stop", max_tokens)


def put(folder, *answers):
    with TraceStore(folder) as store:
        for one in answers:
            store.append(one, teacher="test", model="m")


def texts(folder, keys=None):
    return {r["key"]: r["text"] for r in TraceStore(folder).records(keys).to_pylist()}


def request(key):
    return Request(key, ASK, (), 0)


def test_what_was_taken_is_there(tmp_path):
    put(tmp_path, answer("b", "two"), answer("a", "one"))
    assert texts(tmp_path) == {"a": "one", "b": "two"}
    assert texts(tmp_path, ["b", "c"]) == {"b": "two"}
    assert [path.suffix for path in tmp_path.glob("*.*") if path.name != ".lock"] == [".parquet"]


def test_flushed_answers_survive_without_close(tmp_path):
    store = TraceStore(tmp_path)
    store.append(answer("a"), teacher="test", model="m")
    store.flush()
    store.append(answer("b"), teacher="test", model="m")
    assert set(texts(tmp_path)) == {"a"}  # b is not durable, so nobody may hear of it
    store.close()
    assert set(texts(tmp_path)) == {"a", "b"}


@pytest.mark.parametrize("cut", [1, 5, 11, 40])
def test_a_torn_tail_is_dropped_and_the_rest_kept(tmp_path, cut):
    store = TraceStore(tmp_path)
    for key in "abc":
        store.append(answer(key), teacher="test", model="m")
    store.flush()
    (log,) = tmp_path.glob("*.log")
    data = log.read_bytes()
    torn = tmp_path / "other"
    torn.mkdir()
    (torn / log.name).write_bytes(data[:-cut])
    assert set(texts(torn)) == {"a", "b"}
    put(torn, answer("d"))  # the next writer compacts what the dead one left
    assert set(texts(torn)) == {"a", "b", "d"}
    assert not list(torn.glob("*.log"))
    store.close()


def test_a_flipped_bit_ends_the_log_there(tmp_path):
    store = TraceStore(tmp_path / "a")
    for key in "abc":
        store.append(answer(key, key * 50), teacher="test", model="m")
    store.flush()
    (log,) = (tmp_path / "a").glob("*.log")
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.log").write_bytes(bytes(data))
    assert set(texts(tmp_path / "b")) == {"a"}
    store.close()


def test_the_first_durable_record_wins(tmp_path):
    first, second = TraceStore(tmp_path), TraceStore(tmp_path)
    first.append(answer("a", "late"), teacher="test", model="m")
    second.append(answer("a", "early"), teacher="test", model="m")
    second.flush()
    time.sleep(0.001)
    first.flush()
    assert texts(tmp_path) == {"a": "early"}
    first.close()
    second.close()
    assert texts(tmp_path) == {"a": "early"}


def test_the_last_finished_attempt_counts(tmp_path):
    put(
        tmp_path,
        answer("a", "cut", 0, "truncated"),
        answer("a", "whole", 1),
        answer("a", None, 2, "failed"),
        answer("b", None, 0, "failed"),
        answer("b", "cut", 1, "truncated"),
        answer("b", None, 2, "failed"),
    )
    best = {r["key"]: (r["text"], r["attempt"]) for r in TraceStore(tmp_path).best(["a", "b", "c"]).to_pylist()}
    assert best == {"a": ("whole", 1), "b": ("cut", 1)}


def test_only_what_is_missing_is_asked_again(tmp_path):
    put(
        tmp_path,
        answer("done"),
        answer("cut", "x", 0, "truncated", max_tokens=10),
        answer("failed", None, 0, "failed"),
    )
    keys = ["done", "cut", "failed", "new", "new"]
    store = TraceStore(tmp_path)
    same = [(r.key, r.attempt) for r in store.missing([request(k) for k in keys], max_tokens=10)]
    assert same == [("failed", 1), ("new", 0)]
    longer = [(r.key, r.attempt) for r in store.missing([request(k) for k in keys], max_tokens=20)]
    assert longer == [("cut", 1), ("failed", 1), ("new", 0)]


def test_segments_are_merged(tmp_path):
    for i in range(MERGE_FILES + 3):
        put(tmp_path, answer(f"k{i}"))
    assert len(list(tmp_path.glob("*.parquet"))) <= MERGE_FILES
    assert len(texts(tmp_path)) == MERGE_FILES + 3
    segment = max(tmp_path.glob("*.parquet"), key=lambda path: path.stat().st_size)
    keys = pq.read_table(segment)["key"].to_pylist()
    assert keys == sorted(keys)


def test_text_with_half_a_character_is_kept_readable(tmp_path):
    put(tmp_path, answer("a", "x\ud800y\x00z"))
    assert texts(tmp_path) == {"a": "x?y\x00z"}


WRITER = """
import sys
from pathlib import Path
from curation.teachers.base import Answer
from curation.teachers.store import TraceStore
store = TraceStore(Path(sys.argv[1]))
i = 0
while True:
    store.append(Answer(f"{sys.argv[2]}-{i}", 0, "text " * 40, "finished", "stop", 10), teacher="t", model="m")
    i += 1
    if i % 7 == 0:
        store.flush()
        print(i, flush=True)
"""


def test_killed_writers_lose_nothing_that_they_reported(tmp_path):
    """Two writers at once, killed in the middle, again and again: every answer that was reported durable is there."""
    reported = {}
    for turn in range(3):
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(tmp_path), f"{turn}{name}"], stdout=subprocess.PIPE, text=True
            )
            for name in "ab"
        ]
        for name, writer in zip("ab", writers, strict=True):
            assert writer.stdout is not None
            for _ in range(20 + 5 * turn):
                line = writer.stdout.readline()
            reported[f"{turn}{name}"] = int(line)
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            writer.communicate()
    put(tmp_path, answer("end"))
    found = texts(tmp_path)
    for name, count in reported.items():
        assert all(f"{name}-{i}" in found for i in range(count))
    assert not list(tmp_path.glob("*.log"))
    assert all(text in ("text " * 40, "t") for text in found.values())


def test_keys_know_everything_that_shapes_an_answer():
    def key(messages=ASK, images=("h",), model="m", revision="r", k=0, **sampling):
        return trace_key(messages, images, model=model, revision=revision, sampling=Sampling(**sampling), k=k)

    base = key()
    others = [
        key(messages=(Message("user", "p"),)),
        key(messages=(Message("system", "s"), *ASK)),
        key(images=()),
        key(images=("i",)),
        key(model="n"),
        key(revision="s"),
        key(k=1),
        key(temperature=0.5),
        key(top_p=0.9),
        key(top_k=5),
        key(min_p=0.1),
        key(seed=1),
    ]
    assert len({base, *others}) == len(others) + 1
    assert key(max_tokens=7) == base
    assert request(base).seed != request(others[0]).seed
