"""The policy's weights as an engine of rollouts takes them, and whether it took them.

An engine can say that it has new weights and draw from old ones: read from files that leave out a head which is tied to
the embeddings, a CPU build of vLLM keeps the head that it prepared at its start. So the head is always handed over under
a name of its own, and what an engine says is compared with the policy: at the beginning with a head that was changed for
the purpose, since by then nothing else tells old weights from new, and behind every push.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from schemas.errors import WinnowError
from training import models
from training.batches import Collator
from training.index import Named
from training.tokens import Encoder, Sample

if TYPE_CHECKING:
    from training.rollouts import Drawn

STALE = 4.0
"""Times the recipe's alarms.mismatch: rounding never makes so much of a difference, old weights soon do."""
CHANGED = 4.0
"""Factor on the head when an engine has to show that it follows: far beyond rounding for any model."""


def weights_of(policy: models.Policy) -> dict[str, Tensor]:
    """Whole weights by the names of the model's state dict, the head among them also where it is tied, and adapters
    merged into the layers that they change. Every process calls it; each gets all. Raises WinnowError."""
    state = {name: value.full_tensor() if hasattr(value, "full_tensor") else value
             for name, value in policy.model.state_dict().items()}  # fmt: skip
    return _merged(policy.model, state) if policy.model.__dict__.get("adapter") is not None else state


def _merged(model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """W + scaling · B A (LoRA, arXiv 2106.09685, section 4.1) in place of W, A and B."""
    merged, inside = {}, ".base_layer."
    for name, value in state.items():
        if ".lora_A." in name or ".lora_B." in name:
            continue
        layer, found, part = name.partition(inside)
        if not found:
            if ".lora_" in name:
                raise WinnowError(f"An adapter's part {name} cannot be merged for vLLM: use `rollout.engine: transformers`.")  # fmt: skip
            merged[name] = value
            continue
        if part == "weight":
            scaling = model.get_submodule(layer).scaling
            for adapter, factor in scaling.items():
                a, b = (state[f"{layer}.lora_{which}.{adapter}.weight"] for which in "AB")
                value = value + factor * (b @ a)
        merged[f"{layer}.{part}"] = value
    return merged


class Pushed(Protocol):
    """An engine as it is seen from here."""

    def load(self) -> None:
        """Take over the policy's weights as they are now."""
        ...

    def probe(self, prompt: Sample) -> list[Drawn]:
        """A short answer to the prompt by each copy of the model."""
        ...


def mismatch(policy: models.Policy, encoder: Encoder, prompt: Sample, drawn: Sequence[Drawn]) -> float:
    """Mean |log π - log π_rollout| over the tokens of these answers; 0 where there are none."""
    drawn = [one for one in drawn if one.ids]
    if not drawn:
        return 0.0
    start, named = len(prompt.ids), []
    for one in drawn:
        ids = [*prompt.ids, *one.ids]
        named.append(Named(Sample(ids, [(start, len(ids))], prompt.images, prompt.pictures), "", ""))
    collate = Collator(encoder, packed=True, mrope=models.is_mrope(policy.model.config))
    with torch.no_grad():
        logp, _ = policy(collate(named, {}).to(policy.model.device))
    said = torch.tensor([value for one in drawn for value in one.logp], dtype=logp.dtype, device=logp.device)
    return float((logp - said).abs().mean())


def check(engine: Pushed, policy: models.Policy, encoder: Encoder, prompt: Sample, bound: float) -> None:
    """Raises WinnowError where an engine does not say of its answers what the policy says."""
    found = mismatch(policy, encoder, prompt, engine.probe(prompt))
    if not found <= STALE * bound:
        raise WinnowError(
            f"{NOT_TAKEN}: its log-probabilities are {found:.3f} from the trainer's, and rounding explains "
            f"{STALE * bound:.3f} at most ({STALE:.0f} x alarms.mismatch).\n{CAUSES}"
        )


def prove(engine: Pushed, policy: models.Policy, encoder: Encoder, prompt: Sample, bound: float) -> None:
    """Lets the engine follow a change of the head there and back. Raises WinnowError where it does not.

    The policy is as before afterwards, to the bit.
    """
    head = _head(policy)
    before = head.detach().clone()
    try:
        with torch.no_grad():
            head.mul_(CHANGED)
        engine.load()
        drawn = engine.probe(prompt)
        new = mismatch(policy, encoder, prompt, drawn)
    finally:
        with torch.no_grad():
            _head(policy).copy_(before)
    old = mismatch(policy, encoder, prompt, drawn)
    if not new < old / 2:
        raise WinnowError(
            f"{NOT_TAKEN}: its log-probabilities are {new:.3g} from those of weights that were changed as a test, and "
            f"{old:.3g} from those before.\n{CAUSES}"
        )
    engine.load()
    check(engine, policy, encoder, prompt, bound)


NOT_TAKEN = "The engine of the rollouts has not taken the new weights"
CAUSES = (
    "Known causes: a head tied to the embeddings that stays as it was; a server with another model, or without "
    "--logprobs-mode processed_logprobs."
)


def _head(policy: models.Policy) -> Tensor:
    if hasattr(policy, "reshard"):  # FSDP keeps the gathered weights of its root after a forward pass
        policy.reshard()
    return policy.model.get_output_embeddings().weight  # type: ignore[no-any-return]


def plain_prompt(encoder: Encoder) -> Sample:
    """A question for the check while none was asked."""
    return encoder.prompt([{"role": "user", "content": "Think of a number and say why."}], [])
