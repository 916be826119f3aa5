"""The chunked cross-entropy is the dense one: value, gradient, in float32, float64 and bfloat16."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from training.losses import chunked_cross_entropy


def tensors(dtype: torch.dtype = torch.float32, n: int = 37, bias: bool = False) -> list[torch.Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    made = [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in ((n, 16), (50, 16), (50,))
    ]
    made = [one.requires_grad_() for one in made]
    return [made[0], made[1], made[2] if bias else None, torch.randint(0, 50, (n,), generator=generator)]


@pytest.mark.parametrize("chunk", [1, 5, 36, 37, 1000])
@pytest.mark.parametrize("bias", [False, True])
def test_value_and_gradient_are_those_of_the_dense_loss(chunk: int, bias: bool) -> None:
    hidden, weight, offset, targets = tensors(bias=bias)
    loss, nll = chunked_cross_entropy(hidden, weight, targets, bias=offset, scale=0.25, chunk=chunk)
    (3 * loss).backward()
    mine = [p.grad.clone() for p in (hidden, weight, offset) if p is not None]
    for p in (hidden, weight, offset):
        if p is not None:
            p.grad = None
    logits = hidden @ weight.T + (offset if offset is not None else 0)
    dense = cross_entropy(logits, targets, reduction="none")
    (3 * 0.25 * dense.sum()).backward()
    torch.testing.assert_close(nll, dense.detach(), atol=1e-5, rtol=0)
    torch.testing.assert_close(loss, 0.25 * dense.sum(), atol=1e-5, rtol=1e-6)
    for grad, p in zip(mine, [p for p in (hidden, weight, offset) if p is not None], strict=True):
        torch.testing.assert_close(grad, p.grad, atol=1e-6, rtol=1e-5)


def test_finite_differences() -> None:
    hidden, weight, offset, targets = tensors(torch.float64, n=6, bias=True)

    def loss(h: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return chunked_cross_entropy(h, w, targets, bias=b, scale=0.5, chunk=4)[0]

    assert torch.autograd.gradcheck(loss, (hidden, weight, offset))


def test_no_targets_is_a_loss_of_zero_with_gradients_of_zero() -> None:
    hidden, weight, _, targets = tensors(n=0)
    loss, nll = chunked_cross_entropy(hidden, weight, targets)
    loss.backward()
    assert loss.item() == 0 and nll.shape == (0,)
    assert weight.grad.abs().max() == 0


def test_bfloat16_sums_its_chunks_in_float32() -> None:
    """The gradient of the weight is as near to the float32 one as one rounding of it allows, however many chunks."""
    hidden, weight, _, targets = tensors(torch.bfloat16, n=512)
    exact_hidden, exact_weight = (p.detach().float().requires_grad_() for p in (hidden, weight))
    cross_entropy(exact_hidden @ exact_weight.T, targets, reduction="sum").backward()
    chunked_cross_entropy(hidden, weight, targets, chunk=8)[0].backward()
    error = (weight.grad.float() - exact_weight.grad).norm() / exact_weight.grad.norm()
    assert error < 0.01


def test_what_is_frozen_has_no_gradient() -> None:
    hidden, weight, _, targets = tensors()
    weight.requires_grad_(False)
    chunked_cross_entropy(hidden, weight, targets)[0].backward()
    assert weight.grad is None and hidden.grad is not None
    with torch.no_grad():
        assert chunked_cross_entropy(hidden, weight, targets)[0].requires_grad is False


def test_memory_is_that_of_one_chunk() -> None:
    """With 4,096 targets and 2,000 words, no tensor of all logits is ever made."""
    hidden, weight = torch.randn(4096, 8, requires_grad=True), torch.randn(2000, 8, requires_grad=True)
    targets = torch.randint(0, 2000, (4096,))
    made: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            made.extend(
                one.numel()
                for one in (out if isinstance(out, tuple | list) else [out])
                if isinstance(one, torch.Tensor)
            )
            return out

    with Watch():
        chunked_cross_entropy(hidden, weight, targets, chunk=64)[0].backward()
    assert max(made) <= 64 * 2000
