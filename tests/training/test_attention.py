"""Packed samples never see each other: packed is unpacked, by value and gradient, and what would leak is shown to leak."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from schemas.errors import WinnowError
from tests.training.conftest import Bench, apart, image_rows, text_rows
from training import attention
from training.batches import mrope_positions

Models = Callable[[str], Path]
KINDS = ("qwen2", "qwen2_5_vl", "qwen3_vl")


def rows_for(kind: str, count: int = 5) -> list[dict]:
    """Several lengths; for models with eyes, rows with and without pictures."""
    return text_rows(count) if kind == "qwen2" else image_rows(count, every=2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["varlen", "sdpa", "eager"])
def test_packed_is_unpacked(models: Models, kind: str, name: str) -> None:
    bench, rows = Bench(models(kind), name), rows_for(kind)
    packed, packed_grads = bench.run(bench.batch(rows))
    alone, alone_grads = bench.run(*[bench.batch([row]) for row in rows])
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)
    assert apart(packed_grads, alone_grads) < 1e-6
    padded, padded_grads = bench.run(bench.batch(rows, packed=False))
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=0)
    assert apart(padded_grads, alone_grads) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_the_models_own_forward(models: Models, kind: str) -> None:
    """One sample at a time, through transformers: its masks, its positions, its head, its logits."""
    bench, rows = Bench(models(kind)), rows_for(kind)
    ours, _ = bench.run(bench.batch(rows))
    plain, theirs = Bench(models(kind), "eager"), []
    for named in plain.named(rows):
        ids = torch.tensor([list(named.sample.ids)])
        more = {}
        if named.sample.pictures:
            made = [plain.encoder.pixels(p.read()) for p in named.sample.pictures]
            more["pixel_values"] = torch.cat([patches for patches, _ in made])
            more["image_grid_thw"] = torch.tensor([[1, *grid] for _, grid in made])
            more["mm_token_type_ids"] = (ids == plain.encoder.image_token).int()
        logits = plain.model(input_ids=ids, attention_mask=torch.ones_like(ids), **more).logits[0]
        for start, end in named.sample.spans:
            theirs.append(
                torch.nn.functional.cross_entropy(logits[start - 1 : end - 1], ids[0, start:end], reduction="none")
            )
    torch.testing.assert_close(ours, torch.cat(theirs).detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_changing_one_sample_leaves_the_others_bit_equal(models: Models, kind: str) -> None:
    bench, rows = Bench(models(kind)), rows_for(kind)
    batch = bench.batch(rows)
    before, _ = bench.run(batch)
    changed = replace(batch, ids=batch.ids.clone())
    end = sum(batch.lengths[:3])
    changed.ids[0, end - 8 : end - 4] = 65
    after, _ = bench.run(changed)
    touched = batch.owner == 2
    assert torch.equal(before[~touched], after[~touched])
    assert not torch.equal(before[touched], after[touched])


@pytest.mark.parametrize("kind", KINDS)
def test_a_pack_without_borders_leaks(models: Models, kind: str) -> None:
    """The negative control: the same tokens as one long sample are another loss."""
    bench, rows = Bench(models(kind)), rows_for(kind)
    batch = bench.batch(rows)
    right, _ = bench.run(batch)
    wrong, _ = bench.run(replace(batch, lengths=[sum(batch.lengths)]))
    assert (right - wrong).abs().max() > 1e-2


@pytest.mark.parametrize("kind", KINDS[1:])
def test_each_condition_of_transformers_own_packing_matters(models: Models, kind: str) -> None:
    """[4, 1, L] positions, no mask, no cache: break any one, and samples see each other without a word."""
    bench, rows = Bench(models(kind), "sdpa"), rows_for(kind)
    batch = bench.batch(rows)
    body, head = bench.model.model, bench.model.lm_head.weight
    features = bench.model.get_image_features(batch.pixels, batch.grids)

    def logits(**changes: object) -> torch.Tensor:
        call = {"input_ids": batch.ids, "position_ids": batch.positions, "attention_mask": None, "use_cache": False}
        out = body(**{**call, "mm_encoder_outputs": {"image": features}, **changes})
        return (out.last_hidden_state[0] @ head.T).detach()

    alone = torch.cat([_alone(bench, row) for row in rows])
    assert (logits() - alone).abs().max() < 1e-5
    broken = {
        "three rows of positions": {"position_ids": batch.positions[1:]},
        "a mask of ones": {"attention_mask": torch.ones_like(batch.ids)},
        "a cache": {"use_cache": True},
        "positions that do not begin again": {"position_ids": torch.arange(batch.ids.shape[1]).expand(4, 1, -1)},
    }
    leaks = {name: (logits(**change) - alone).abs().max().item() for name, change in broken.items()}
    assert all(leak > 1e-2 for leak in leaks.values()), leaks


def _alone(bench: Bench, row: dict) -> torch.Tensor:
    batch = bench.batch([row])
    extra = {}
    if batch.pixels is not None:
        extra["mm_encoder_outputs"] = {"image": bench.model.get_image_features(batch.pixels, batch.grids)}
    out = bench.model.model(
        input_ids=batch.ids, position_ids=batch.positions, attention_mask=None, use_cache=False, **extra
    )
    return (out.last_hidden_state[0] @ bench.model.lm_head.weight.T).detach()


def test_varlen_without_lengths_is_an_error_rather_than_a_leak(models: Models) -> None:
    bench = Bench(models("qwen2"))
    batch = bench.batch(text_rows(3))
    with pytest.raises(RuntimeError, match="without segments"):
        bench.model.model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False)


def test_windows_of_sliding_attention_are_kept(tmp_path: Path, models: Models) -> None:
    import json
    import shutil

    shutil.copytree(models("qwen2"), tmp_path / "sliding")
    config = json.loads((tmp_path / "sliding" / "config.json").read_text())
    config |= {"use_sliding_window": True, "sliding_window": 9, "layer_types": ["full_attention", "sliding_attention"]}
    (tmp_path / "sliding" / "config.json").write_text(json.dumps(config))
    rows = text_rows(5)
    ours, eager, whole = (
        Bench(f, a)
        for f, a in ((tmp_path / "sliding", "varlen"), (tmp_path / "sliding", "eager"), (models("qwen2"), "varlen"))
    )
    a, _ = ours.run(ours.batch(rows))
    b, _ = eager.run(*[eager.batch([row]) for row in rows])
    c, _ = whole.run(whole.batch(rows))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    assert (a - c).abs().max() > 1e-4


@pytest.mark.parametrize("lengths", [(5,), (1, 1, 1), (7, 3, 7, 2), (40, 39, 38, 3, 20, 1), tuple(range(1, 30))])
@pytest.mark.parametrize("causal", [True, False])
def test_buckets_are_attention_of_each_segment(lengths: tuple[int, ...], causal: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    query, key, value = (
        torch.randn(1, heads, sum(lengths), 8, generator=generator, dtype=torch.float64).requires_grad_()
        for heads in (4, 2, 2)
    )
    inside = attention.segments(lengths, "cpu", attention.SLACK if causal else 1.0)
    assert inside.cu.tolist()[1:] == torch.tensor(lengths).cumsum(0).tolist() and inside.longest == max(lengths)
    out = attention._within(query, key, value, inside, 0.0, None, causal, None)
    want, start = [], 0
    for length in lengths:
        part = slice(start, start + length)
        want.append(
            torch.nn.functional.scaled_dot_product_attention(
                query[:, :, part], key[:, :, part], value[:, :, part], is_causal=causal, enable_gqa=True
            )
        )
        start += length
    wanted = torch.cat(want, dim=2).transpose(1, 2)
    torch.testing.assert_close(out, wanted, atol=1e-12, rtol=0)
    weights = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    ours = torch.autograd.grad((out * weights).sum(), (query, key, value), retain_graph=True)
    theirs = torch.autograd.grad((wanted * weights).sum(), (query, key, value))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=0)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_positions_in_time_height_and_width_are_the_models_own(models: Models, kind: str) -> None:
    bench = Bench(models(kind))
    rows = image_rows(6)
    rows[0]["messages"][0]["content"] *= 2  # two pictures in one conversation
    rows[0]["images"] *= 2
    for named in bench.named([*rows, *image_rows(2, every=2)]):
        ids = torch.tensor([list(named.sample.ids)])
        grids = torch.tensor([[1, h, w] for _, h, w in named.sample.images]) if named.sample.images else None
        kinds = (ids == bench.encoder.image_token).int()
        theirs, _ = bench.model.model.get_rope_index(ids, kinds, image_grid_thw=grids)
        ours = mrope_positions(ids.shape[1], named.sample.images, bench.encoder.merge)
        assert torch.equal(torch.from_numpy(ours[1:]), theirs[:, 0])
        assert ours[0].tolist() == list(range(ids.shape[1]))


def test_models_in_which_samples_would_meet_are_refused(models: Models, tmp_path: Path) -> None:
    import transformers

    from schemas.training import ModelChoice
    from training.models import load_model

    small = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 40,
        "head_dim": 8,
    }
    made = {
        "state": transformers.Qwen3NextConfig(
            **small, num_hidden_layers=2, layer_types=["linear_attention", "full_attention"]
        ),
        "logits": transformers.Gemma2Config(**small, num_hidden_layers=1),
    }
    for name, config in made.items():
        config.save_pretrained(tmp_path / name)
        choice = ModelChoice(path=name, init="random")
        with pytest.raises(WinnowError, match="carry a state" if name == "state" else "behind the head"):
            load_model(str(tmp_path / name), choice, seed=0, device="cpu")
