"""Attention in which samples of a pack cannot see each other, by their lengths.

transformers finds packed samples in the positions, under conditions that are easy to break without a word: no mask, no
cache, and for M-RoPE a fourth row of positions. Here the lengths are handed to every layer, and a call without them is
an error. On CUDA in half precision this is one variable-length flash kernel; everywhere else samples of like length are
gathered into buckets and run through SDPA, each as a row of its own: no mask of L · L, no work across borders, and a
change in one sample leaves every other sample's numbers bit-equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from schemas.errors import WinnowError

TEXT, VISION = "winnow_varlen", "winnow_varlen_flash"
"""Names under which transformers finds it. Vision towers hand over lengths only to what is called flash."""
SLACK = 0.8
"""A sample shares a bucket with longer ones of which it has at least this share. Causal attention may pad on the right
without a mask; pictures share a bucket only with their like."""


@dataclass(frozen=True)
class Segments:
    """Where the samples of a pack lie.

    cu       [S + 1] int32, cumulative lengths
    longest  of them
    buckets  [n, length] indices of tokens, samples of like length as rows; short ones repeat their last token
    back     [L] where each token's result stands in the buckets laid end to end
    """

    cu: Tensor
    longest: int
    buckets: tuple[Tensor, ...]
    back: Tensor


PADDED = "padded"
"""In place of segments: each row of the batch is one sample, padded on the right."""


@lru_cache(maxsize=16)
def segments(lengths: tuple[int, ...], device: str, slack: float = SLACK) -> Segments:
    """The segments of samples of these lengths, in tokens."""
    sizes = torch.tensor(lengths)
    ends = sizes.cumsum(0)
    starts = ends - sizes
    order = sorted(range(len(lengths)), key=lambda n: -lengths[n])
    buckets, back = [], torch.empty(int(ends[-1]), dtype=torch.long)
    done = first = 0
    while first < len(order):
        longest = lengths[order[first]]
        last = first
        while last < len(order) and lengths[order[last]] >= slack * longest:
            last += 1
        rows = torch.tensor(order[first:last])
        steps = torch.arange(longest)
        bucket = torch.minimum(starts[rows, None] + steps, ends[rows, None] - 1)
        real = steps < sizes[rows, None]
        back[bucket[real]] = (done + torch.arange(bucket.numel()).view_as(bucket))[real]
        buckets.append(bucket.to(device))
        done, first = done + bucket.numel(), last
    cu = torch.cat([torch.zeros(1, dtype=torch.long), ends]).to(torch.int32)
    return Segments(cu.to(device), max(lengths), tuple(buckets), back.to(device))


@torch.compiler.disable  # type: ignore[untyped-decorator]
def text_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    segments: Segments | str | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each segment. query [B, H, L, D], key and value [B, H_kv, L, D] -> [B, L, H, D]."""
    if segments is None:
        raise RuntimeError("varlen attention was called without segments: samples would see each other")
    if attention_mask is not None or others.get("softcap") is not None or others.get("s_aux") is not None:
        raise WinnowError(
            f"{type(module).__name__} uses a mask, soft-capping or sinks that varlen attention does not know.\n"
            "Set `attention: eager` of the model."
        )
    if isinstance(segments, str):
        out = _sdpa(query, key, value, dropout, scaling, True, sliding_window)
        return out.transpose(1, 2), None
    return _within(query, key, value, segments, dropout, scaling, True, sliding_window), None


def vision_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Full attention inside each picture, or each window of one. [1, H, L, D] -> [1, L, H, D]."""
    if cu_seq_lens_q is None or attention_mask is not None:
        raise RuntimeError("varlen attention was called without the borders of pictures")
    lengths = tuple(cu_seq_lens_q.diff().tolist())
    inside = segments(tuple(n for n in lengths if n), str(query.device), 1.0)
    return _within(query, key, value, inside, dropout, scaling, False, None), None


def _within(
    query: Tensor, key: Tensor, value: Tensor, inside: Segments, dropout: float, scaling: float | None, causal: bool,
    window: int | None,
) -> Tensor:  # fmt: skip
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and not dropout and query.shape[-1] <= 256:
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        left = window - 1 if window is not None and window <= inside.longest else -1
        out = varlen_attn(
            q, k, v, inside.cu, inside.cu, inside.longest, inside.longest, scale=scaling,
            window_size=(left, 0) if causal else (-1, -1), enable_gqa=q.shape[1] != k.shape[1],
        )  # fmt: skip
        return out[None]
    if len(inside.buckets) == 1 and len(inside.buckets[0]) == 1:
        return _sdpa(query, key, value, dropout, scaling, causal, window).transpose(1, 2)
    results = []
    for bucket in inside.buckets:
        q, k, v = (
            x[0].index_select(1, bucket.flatten()).unflatten(1, bucket.shape).transpose(0, 1)
            for x in (query, key, value)
        )
        out = _sdpa(q, k, v, dropout, scaling, causal, window)  # [n, H, length, D]
        results.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(results).index_select(0, inside.back)[None]


def _sdpa(
    query: Tensor, key: Tensor, value: Tensor, dropout: float, scaling: float | None, causal: bool, window: int | None
) -> Tensor:
    length, mask = query.shape[2], None
    if causal and window is not None and window < length:
        steps = torch.arange(length, device=query.device)
        apart = steps[:, None] - steps
        mask, causal = (apart >= 0) & (apart < window), False
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling, is_causal=causal,
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip


def register() -> None:
    """Make both known to transformers. No mask is registered, so models make none."""
    from transformers import AttentionInterface

    AttentionInterface.register(TEXT, text_attention)
    AttentionInterface.register(VISION, vision_attention)
