"""Sources, the token index and batches: every layout that Winnow exports, pictures read in place, nothing lost."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from schemas.training import Data
from tests.training.conftest import conversation, image_rows, picture, text_rows, write_rows
from training.batches import Collator, load
from training.index import RowStream, TokenIndex, token_index
from training.packing import Order, Packer
from training.sources import BadRow, ByteFinder, OpenData, Picture, messages_of, open_data, questions_of
from training.tokens import Encoder

Models = Callable[[str], Path]


def opened(path: Path) -> OpenData:
    return open_data(Data(parquet=str(path)), path.parent, None)


def contents(samples: Any) -> list[tuple]:
    made = []
    for n in range(len(samples)):
        named = samples.get(n)
        pixels = [p.read() for p in named.sample.pictures]
        made.append(
            (named.row_id, named.source, list(named.sample.ids), named.sample.spans, named.sample.images, pixels)
        )
    return made


def test_the_index_holds_what_was_encoded_and_is_made_once(tmp_path: Path, models: Models) -> None:
    encoder = Encoder(str(models("qwen2_5_vl")))
    data = [opened(write_rows(tmp_path / "rows.parquet", image_rows(30, every=2), group=7))]
    index = token_index(encoder, data, tmp_path / "tokens")
    assert contents(index) == contents(RowStream(encoder, data))
    assert [index.shape(n) for n in range(30)] == [RowStream(encoder, data).shape(n) for n in range(30)]
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "tokens").rglob("*")}
    again = token_index(encoder, data, tmp_path / "tokens")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "tokens").rglob("*")} == before
    assert contents(pickle.loads(pickle.dumps(again))) == contents(index)


def test_pictures_are_read_where_they_lie(tmp_path: Path, models: Models) -> None:
    """An uncompressed column needs no second copy; of a compressed one each picture is copied once."""
    encoder, rows = Encoder(str(models("qwen2_5_vl"))), image_rows(12) + image_rows(12)
    plain = write_rows(tmp_path / "plain.parquet", rows, compression="none")
    packed = write_rows(tmp_path / "packed.parquet", rows, compression="zstd")
    a, b = (token_index(encoder, [opened(path)], tmp_path / "tokens") for path in (plain, packed))
    assert [c[2:] for c in contents(a)] == [c[2:] for c in contents(b)]
    assert {p.path for n in range(24) for p in a.get(n).sample.pictures} == {str(plain)}
    copies = list(b.folder.glob("*.bin"))
    pixels = {p.read() for n in range(24) for p in b.get(n).sample.pictures}
    assert len(pixels) == 12
    if copies:  # zstd left random pixels as they were: then they are read in place as well
        assert sum(p.stat().st_size for p in copies) <= sum(map(len, pixels))


def test_bytes_are_found_again_or_not_claimed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    first, second = picture(1), picture(2)
    path.write_bytes(b"head" + first + b"middle" + second)
    finder = ByteFinder(path)
    for data in (second, first, second, second):
        found = finder.find(data)
        assert found is not None and found.read() == data
    assert finder.find(b"not there at all") is None
    finder.close()


def test_the_index_does_not_depend_on_the_number_of_processes(
    tmp_path: Path, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    import training.index

    monkeypatch.setattr(training.index, "POOL_ROWS", 10)
    encoder = Encoder(str(models("qwen2_5_vl")))
    data = [opened(write_rows(tmp_path / "rows.parquet", image_rows(20, every=3), group=6))]
    one, two = (token_index(encoder, data, tmp_path / f"w{workers}", workers=workers) for workers in (1, 2))
    assert (one.folder / "samples.arrow").read_bytes() == (two.folder / "samples.arrow").read_bytes()


def test_rows_that_cannot_be_used_are_left_out_with_their_reason(tmp_path: Path, models: Models) -> None:
    rows = image_rows(8)
    rows[1]["images"] = []
    rows[2]["images"] = [{"bytes": b"no picture", "path": None}]
    rows[3]["messages"] = rows[3]["messages"][:1]
    rows[4]["messages"] = []
    rows[5]["messages"][0]["role"] = "robot"
    rows[6]["images"] = [{"bytes": None, "path": "gone.png"}]
    data = [opened(write_rows(tmp_path / "rows.parquet", rows))]
    encoder = Encoder(str(models("qwen2_5_vl")))
    index, stream = token_index(encoder, data, tmp_path / "tokens"), RowStream(encoder, data)
    assert [index.get(n).row_id for n in range(len(index))] == ["pic0000", "pic0007"]
    assert [n for n in range(8) if stream.shape(n) is not None] == [0, 7]
    reasons = {one.row_id: one.reason for one in index.left_out}
    assert reasons == {
        "pic0001": "image_marks", "pic0002": "image_broken", "pic0003": "no_target", "pic0004": "no_messages",
        "pic0005": "bad_messages", "pic0006": "image_missing",
    }  # fmt: skip
    assert [(one.row_id, one.reason) for one in stream.left_out] == list(reasons.items())


def test_a_picture_that_breaks_later_costs_its_sample_alone(tmp_path: Path, models: Models) -> None:
    encoder, rows = Encoder(str(models("qwen2_5_vl"))), image_rows(4)
    whole = rows[2]["images"][0]["bytes"]
    rows[2]["images"] = [{"bytes": whole[: len(whole) // 2], "path": None}]  # its header is right
    index = token_index(encoder, [opened(write_rows(tmp_path / "rows.parquet", rows))], tmp_path / "tokens")
    batch = Collator(encoder, packed=True, mrope=True)([index.get(n) for n in range(4)], {})
    assert batch.row_ids == ["pic0000", "pic0001", "pic0003"]
    assert [(one.row_id, one.reason) for one in batch.left_out] == [("pic0002", "image_broken")]
    empty = Collator(encoder, packed=True, mrope=True)([index.get(2)], {})
    assert empty.row_ids == [] and len(empty.targets) == 0 and empty.lengths == [1]


def test_a_batch_predicts_every_target_from_the_token_before_it(tmp_path: Path, models: Models) -> None:
    encoder = Encoder(str(models("qwen2")))
    index = token_index(encoder, [opened(write_rows(tmp_path / "r.parquet", text_rows(5)))], tmp_path / "t")
    named = [index.get(n) for n in range(5)]
    for packed in (True, False):
        batch = Collator(encoder, packed=packed, mrope=False)(named, {})
        flat, positions = batch.ids.flatten(), batch.positions.flatten()
        assert torch.equal(flat[batch.at + 1], batch.targets)
        assert torch.equal(torch.bincount(batch.owner), torch.tensor([one.sample.targets for one in named]))
        starts = (
            [0, *torch.tensor(batch.lengths).cumsum(0)[:-1].tolist()]
            if packed
            else range(0, flat.numel(), batch.ids.shape[1])
        )
        for one, start in zip(named, starts, strict=True):
            length = len(one.sample.ids)
            assert flat[start : start + length].tolist() == list(one.sample.ids)
            assert positions[start : start + length].tolist() == list(range(length))
        assert batch.ids.shape[0] == (1 if packed else 5)


def test_the_end_token_is_trained_where_padding_is_the_same_token(tmp_path: Path, models: Models) -> None:
    """Masks come from lengths: a tokenizer whose padding is its end token still teaches to stop."""
    encoder = Encoder(str(models("qwen2")))
    encoder.tokenizer.pad_token = encoder.tokenizer.eos_token
    rows = [
        {"messages": conversation(("user", "a"), ("assistant", "b" * n)), "row_id": str(n), "source": "s"}
        for n in (1, 9)
    ]
    data = [opened(write_rows(tmp_path / "r.parquet", rows))]
    index = token_index(encoder, data, tmp_path / "t")
    batch = Collator(encoder, packed=False, mrope=False)([index.get(0), index.get(1)], {})
    assert (batch.targets == encoder.tokenizer.eos_token_id).sum() == 2
    assert len(batch.targets) == 1 + 9 + 2


@pytest.mark.parametrize("streaming", [False, True])
def test_batches_come_in_the_order_of_the_plan_with_any_number_of_workers(
    tmp_path: Path, models: Models, streaming: bool
) -> None:
    encoder = Encoder(str(models("qwen2_5_vl")))
    data = [opened(write_rows(tmp_path / "rows.parquet", image_rows(30, every=2), group=9))]

    def batches(workers: int) -> list[Any]:
        samples = RowStream(encoder, data) if streaming else token_index(encoder, data, tmp_path / "tokens")
        order = Order(len(samples), seed=0, shuffle=True, epochs=2, blocks=[9, 9, 9, 3] if streaming else None)
        packer = Packer(order, samples.shape, max_tokens=150, open_bins=3)
        collate = Collator(encoder, packed=True, mrope=True)
        return list(load(samples, packer, collate, workers=workers, pin=False))

    torch.manual_seed(5)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    one, two = batches(0), batches(2)
    assert torch.equal(torch.rand(1), drawn)  # loading draws from no generator that training uses
    assert [b.row_ids for b in one] == [b.row_ids for b in two] and [b.state for b in one] == [b.state for b in two]
    assert all(
        torch.equal(a.ids, b.ids) and torch.equal(a.positions, b.positions) for a, b in zip(one, two, strict=True)
    )
    assert sorted(n for b in one for n in b.row_ids) == sorted(f"pic{n:04d}" for n in range(30) for _ in range(2))


def test_memory_stays_flat_while_pictures_stream_by(tmp_path: Path, models: Models) -> None:
    """400 pictures of 230 kB (92 MB decoded, 1.4 GB as float patches) pass through; the process holds a few of them."""
    import resource

    encoder = Encoder(str(models("qwen2_5_vl")), max_pixels=280 * 280, min_pixels=16 * 16)
    big = [picture(n, 280, 280) for n in range(4)]
    rows = image_rows(400)
    for n, row in enumerate(rows):
        row["images"] = [{"bytes": big[n % 4], "path": None}]
    index = token_index(encoder, [opened(write_rows(tmp_path / "r.parquet", rows, group=50))], tmp_path / "t")
    packer = Packer(Order(400, seed=0, shuffle=True, epochs=1), index.shape, max_tokens=700)
    batches = load(index, packer, Collator(encoder, packed=True, mrope=True), workers=0, pin=False)
    seen = [len(next(batches).row_ids) for _ in range(20)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seen += [len(batch.row_ids) for batch in batches]
    assert sum(seen) == 400
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # kB


# -------------------------------------------------------------------------------------------------------------- layouts


def test_the_layouts_of_winnow_are_read(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(picture(3))
    parts = [{"type": "text", "text": "See "}, {"type": "image_url", "image_url": {"url": "images/a.png"}}]
    openai = {"id": "x", "messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "ok"}]}
    messages, pictures = messages_of(openai, tmp_path)
    assert [part["type"] for part in messages[0]["content"]] == ["text", "image"] and pictures[0].read() == picture(3)
    marked = {
        "prompt": [{"role": "user", "content": "First <image> then <image>?"}],
        "images": [{"bytes": picture(n), "path": None} for n in (1, 2)],
    }
    messages, pictures = messages_of(marked, tmp_path)
    assert [part["type"] for part in messages[0]["content"]] == ["text", "image", "text", "image", "text"]
    assert [p.read() for p in pictures] == [picture(1), picture(2)]
    plain = {"messages": conversation(("user", "a <image> in plain text"), ("assistant", "yes"))}
    assert messages_of(plain, tmp_path) == (plain["messages"], [])
    with pytest.raises(BadRow):
        messages_of({**marked, "images": marked["images"][:1]}, tmp_path)


def test_a_version_is_trained_on_as_it_is_exported(tmp_path: Path, models: Models) -> None:
    from curation import build

    (tmp_path / "recipe.yaml").write_text(
        "name: shapes\nsources: [{generator: 'training.tasks:shapes', count: 30, license: CC0-1.0}]\n"
        "stages: [{stage: split, splits: {held_out: 0.2}}]\n"
        "outputs: [{export: sft, responses: solution}, {export: sft, name: urls, layout: openai, responses: solution}, {export: rl}]\n"
    )
    version = build(tmp_path / "recipe.yaml", workspace=tmp_path / "w", workers=1)
    encoder = Encoder(str(models("qwen2_5_vl")))
    data = {c: open_data(Data(version="shapes", config=c), tmp_path, tmp_path / "w") for c in ("sft", "urls")}
    assert data["sft"].identity == {"version": "shapes", "id": version.id, "config": "sft", "split": "train"}
    index, urls = (token_index(encoder, [data[c]], tmp_path / c) for c in ("sft", "urls"))
    assert len(index) == len(urls) == version.manifest["splits"]["sft"]["train"] and not index.left_out
    assert [c[2:] for c in sorted(contents(index))] == [c[2:] for c in sorted(contents(urls))]
    assert not list(index.folder.glob("*.bin"))  # pictures are read inside the version
    asked = list(
        questions_of(open_data(Data(version="shapes", config="rl", split="held_out"), tmp_path, tmp_path / "w"), 5)
    )
    assert asked and all(q.pictures and q.messages[-1]["role"] == "user" and q.gold for q in asked)
    rows = pq.read_table(data["sft"].files[0])
    assert isinstance(rows, pa.Table) and isinstance(index, TokenIndex) and isinstance(asked[0].pictures[0], Picture)
