"""Pictures are decoded once: what is kept is bounded, and changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.conftest import picture, same, weights
from tests.training.test_gspo import asked, plan_in, rollouts_of
from training.gspo import train
from training.pictures import PictureCache
from training.sources import BadRow
from training.tokens import Encoder


def test_the_newest_pictures_are_kept_up_to_a_number_of_bytes() -> None:
    made: list[bytes] = []

    def make(data: bytes) -> tuple[torch.Tensor, tuple[int, int]]:
        made.append(data)
        return torch.zeros(len(data), 4), (1, len(data))  # 16 bytes for each

    cache = PictureCache(100)
    first = cache(b"aa", make)
    assert cache(bytes(bytearray(b"aa")), make) is first and cache.bytes == 32
    cache(b"bb", make), cache(b"cc", make), cache(b"aa", make)  # aa was used again: bb is the oldest
    assert made == [b"aa", b"bb", b"cc"] and cache.bytes == 96
    cache(b"d", make)
    assert cache.bytes == 80 and cache(b"aa", make) is first
    cache(b"bb", make)
    assert made == [b"aa", b"bb", b"cc", b"d", b"bb"] and cache.bytes <= 100
    before = cache.bytes
    cache(b"far too long", make), cache(b"far too long", make)
    assert made.count(b"far too long") == 2 and cache.bytes == before
    nothing = PictureCache(0)
    nothing(b"aa", make), nothing(b"aa", make)
    assert made.count(b"aa") == 3 and nothing.bytes == 0


def test_a_broken_picture_is_complained_about_each_time(models: Callable[[str], Path]) -> None:
    encoder = Encoder(str(models("qwen2_5_vl")), keep=2**20)
    for _ in range(2):
        with pytest.raises(BadRow, match="cannot be decoded"):
            encoder.pixels(b"no picture")
    patches, grid = encoder.pixels(picture(0))
    assert encoder.pixels(picture(0))[0] is patches
    fresh, again = Encoder(str(models("qwen2_5_vl"))).pixels(picture(0))
    assert torch.equal(patches, fresh) and grid == again


def test_a_run_decodes_each_picture_once_and_learns_the_same_to_the_bit(
    tmp_path: Path, models: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make, decoded = plan_in(tmp_path, models), Counter[bytes]()
    decode = Encoder._decoded

    def counted(self: Encoder, data: bytes) -> Any:
        decoded[data] += 1
        return decode(self, data)

    monkeypatch.setattr(Encoder, "_decoded", counted)
    found, times = [], []
    for size in (0, 1):
        decoded.clear()
        options = {"steps": 2, "save": {"dtype": "float32"}, "batch": {"picture_cache_mb": size}}
        done = train(make(asked(8, pictures=True), "qwen2_5_vl", f"mb{size}", **options), workspace=tmp_path / "w", quiet=True)  # fmt: skip
        found.append((weights(done.checkpoint), [rollouts_of(done.folder, step) for step in (1, 2)]))
        times.append(dict(decoded))
    assert same(found[0][0], found[1][0]) and found[0][1] == found[1][1]
    assert times[0].keys() == times[1].keys() and set(times[1].values()) == {1} and len(times[1]) == 4
    # Asked and drawn: once each; 4 answers: the later update's are scored, and all are learned from.
    assert min(times[0].values()) >= 2 + 4
