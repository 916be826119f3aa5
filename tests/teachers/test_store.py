"""The trace store: durable before it counts, torn tails, two writers, kill -9."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.teachers import store as trace_store
from curation.teachers.base import Answer, Message, Prompt, Sampling, trace_key
from curation.teachers.snapshot import FAILED, FINISHED, REFUSED, TRUNCATED, Snapshot, key_numbers
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


def key(name):
    """A key as they are: 32 hex digits."""
    return hashlib.md5(name.encode()).hexdigest()


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
        answer(key("a"), "cut", 0, "truncated"),
        answer(key("a"), "whole", 1),
        answer(key("a"), None, 2, "failed"),
        answer(key("b"), None, 0, "failed"),
        answer(key("b"), "cut", 1, "truncated"),
        answer(key("b"), None, 2, "failed"),
    )
    snapshot = Snapshot(TraceStore(tmp_path))
    start, stop = snapshot.find([key("a"), key("b"), key("c")])
    best = snapshot.best(start, stop, snapshot.ranks("any"))
    assert best[2] == -1
    told = snapshot.texts(best[:2], ["text", "attempt"]).to_pylist()
    assert told == [{"text": "whole", "attempt": 1}, {"text": "cut", "attempt": 1}]
    # Where a format is demanded, a finished answer without it counts less than one that has it, and more than a cut one.
    put(
        tmp_path,
        answer(key("d"), "<think>a</think>b", 0),
        answer(key("d"), "bare", 1),
        answer(key("d"), "x", 2, "truncated"),
    )
    snapshot = Snapshot(TraceStore(tmp_path))
    for form, text in (("any", "bare"), ("think", "<think>a</think>b"), ("boxed", "bare")):
        best = snapshot.best(*snapshot.find([key("d")]), snapshot.ranks(form))
        assert snapshot.texts(best, ["text"])["text"].to_pylist() == [text]


def test_a_snapshot_knows_all_tries_of_every_key(tmp_path):
    """Many keys over segments, logs and an open writer: the same facts as the records themselves."""
    chance = random.Random(3)
    names = [key(str(i)) for i in range(500)]
    writers = [TraceStore(tmp_path) for _ in range(3)]
    for number in range(2000):
        name = chance.choice(names)
        finish = chance.choice(["finished", "truncated", "failed"])
        reason = "rejected: no" if finish == "failed" and chance.random() < 0.5 else "stop"
        said = Answer(name, chance.randrange(4), None if finish == "failed" else f"t{number}", finish, reason, 10)
        chance.choice(writers).append(said, teacher="test", model="m")
    writers[0].close()
    writers[1].flush()
    records = TraceStore(tmp_path).records().to_pylist()
    codes = {"finished": FINISHED, "truncated": TRUNCATED, "failed": FAILED}
    want: dict = {}
    for r in records:
        state = REFUSED if r["finish_reason"].startswith("rejected") else codes[r["finish"]]
        want.setdefault(r["key"], []).append((r["attempt"], state, r["text"]))
    for only in (None, sorted(names)):
        numbers = None if only is None else key_numbers(pa.array(only))
        snapshot = Snapshot(TraceStore(tmp_path), numbers)
        assert len(snapshot) == len(records)
        start, stop = snapshot.find([*names, key("never")])
        assert start[-1] == stop[-1]
        for i, name in enumerate(names):
            span = np.arange(start[i], stop[i])
            texts = snapshot.texts(span, ["text"])["text"].to_pylist()
            found = list(zip(snapshot.attempt[span].tolist(), snapshot.state[span].tolist(), texts, strict=True))
            assert found == want.get(name, [])
    few = Snapshot(TraceStore(tmp_path), key_numbers(pa.array(sorted(names)[:7])))
    assert len(few) == sum(len(want.get(name, [])) for name in sorted(names)[:7])
    for writer in writers[1:]:
        writer.close()


def test_texts_are_found_after_their_log_was_compacted(tmp_path):
    store = TraceStore(tmp_path)
    store.append(answer(key("a"), "here"), teacher="test", model="m")
    store.flush()
    snapshot = Snapshot(TraceStore(tmp_path))
    store.close()
    assert not list(tmp_path.glob("*.log"))
    assert snapshot.texts(np.array([0]), ["text"])["text"].to_pylist() == ["here"]


def test_segments_stay_while_a_snapshot_knows_them(tmp_path):
    for i in range(MERGE_FILES):
        put(tmp_path, answer(key(str(i)), str(i)))
    snapshot = Snapshot(TraceStore(tmp_path))
    for i in range(3):
        put(tmp_path, answer(key(f"late {i}")))
    assert len(list(tmp_path.glob("*.parquet"))) == MERGE_FILES + 3
    assert sorted(snapshot.texts(np.arange(MERGE_FILES), ["text"])["text"].to_pylist(), key=int) == [
        str(i) for i in range(MERGE_FILES)
    ]
    del snapshot
    put(tmp_path, answer(key("last")))
    assert len(list(tmp_path.glob("*.parquet"))) <= MERGE_FILES


def test_a_full_log_becomes_a_segment_and_memory_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(trace_store, "LOG_BYTES", 10_000)
    with TraceStore(tmp_path) as store:
        for i in range(640):
            store.append(answer(key(str(i)), "x" * 200), teacher="test", model="m")
        assert len(list(tmp_path.glob("*.log"))) <= 1
        assert len(list(tmp_path.glob("*.parquet"))) >= 9
    assert len(texts(tmp_path)) == 640


def test_segments_are_merged(tmp_path):
    for i in range(MERGE_FILES + 3):
        put(tmp_path, answer(f"k{i}"))
    assert len(list(tmp_path.glob("*.parquet"))) <= MERGE_FILES
    assert len(texts(tmp_path)) == MERGE_FILES + 3
    segment = max(tmp_path.glob("*.parquet"), key=lambda path: path.stat().st_size)
    keys = pq.read_table(segment)["key"].to_pylist()
    assert keys == [f"k{i}" for i in range(len(keys))]  # in the order in which they came


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
    def key_of(messages=ASK, images=("h",), model="m", revision="r", k=0, **sampling):
        return trace_key(messages, images, model=model, revision=revision, sampling=Sampling(**sampling), k=k)

    base = key_of()
    others = [
        key_of(messages=(Message("user", "p"),)),
        key_of(messages=(Message("system", "s"), *ASK)),
        key_of(images=()),
        key_of(images=("i",)),
        key_of(model="n"),
        key_of(revision="s"),
        key_of(k=1),
        key_of(temperature=0.5),
        key_of(top_p=0.9),
        key_of(top_k=5),
        key_of(min_p=0.1),
        key_of(seed=1),
    ]
    assert len({base, *others}) == len(others) + 1
    assert key_of(max_tokens=7) == base
    prompt = Prompt(ASK, ("h",), model="m", revision="r", sampling=Sampling())
    assert [prompt.key(0), prompt.key(1)] == [base, others[6]]
    assert prompt.seed(3) == prompt.seed(0) + 3 and prompt.seed(0, draw=1) != prompt.seed(0)
    assert 0 <= prompt.seed(7, draw=5) < 1 << 50
