"""Models of transformers, made ready for training: loaded, frozen or adapted in parts, sharded over processes.

`Trainee` is what the loop trains: a batch goes in, the loss comes out. It calls the model's body and its head apart,
so that logits exist in chunks only, and hands the lengths of the samples to every layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from schemas.errors import WinnowError
from schemas.training import ModelChoice
from training import attention
from training.batches import Batch
from training.logprobs import chunked_log_probs
from training.losses import chunked_cross_entropy

SHAPED_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
"""Settings by which a model changes its logits behind the head: our loss would not see it."""
PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "A800": 312.0, "L40S": 362.0, "RTX 4090": 165.0}
"""Dense bfloat16 peaks of one device, from the makers' data sheets (SXM where there are several)."""


def load_model(place: str, choice: ModelChoice, *, seed: int, device: Any) -> Any:
    """The model in float32, in training mode, with what `choice` says about attention, freezing and adapters.

    Raises WinnowError for a model whose samples or logits would not be what our loss takes them for.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    attention.register()
    try:
        config = transformers.AutoConfig.from_pretrained(place, revision=choice.revision)
        sees = getattr(config, "vision_config", None) is not None
        kind = transformers.AutoModelForImageTextToText if sees else transformers.AutoModelForCausalLM
        _refuse(place, config)
        if choice.init == "random":
            torch.manual_seed(seed)
            model = kind.from_config(config, dtype=torch.float32)
            model.generation_config = _generation_config(place, choice.revision) or model.generation_config
        else:
            model = kind.from_pretrained(place, revision=choice.revision, dtype=torch.float32)
    except (OSError, ValueError, ImportError) as error:
        raise WinnowError(f"The model {place} cannot be loaded: {str(error).splitlines()[0]}") from error
    if choice.attention != "varlen":
        model.set_attn_implementation(choice.attention)
    elif not model._can_set_attn_implementation():
        raise WinnowError(
            f"{type(model).__name__} has attention of its own, in which packed samples could see each other.\n"
            "Set `attention: eager` of the model and `packing: false` of the batch."
        )
    else:
        use_varlen(model)
    if choice.kernels == "liger":
        _fuse(model, torch.device(device))
    for part in choice.freeze:
        for parameter in _parts(model, part, place):
            parameter.requires_grad_(False)
    if choice.lora is not None:
        _adapt(model, choice)
    return model.train().to(device)


def _refuse(place: str, config: Any) -> None:
    text = config.get_text_config()
    shaped = [name for name in SHAPED_LOGITS if getattr(text, name, None) not in (None, 1, 1.0)]
    if shaped:
        raise WinnowError(
            f"The model {place} changes its logits behind the head ({', '.join(shaped)}), which this trainer does not."
        )
    linear = {kind for kind in getattr(text, "layer_types", None) or () if "attention" not in kind or "linear" in kind}
    if linear or getattr(text, "mamba_d_state", None) or getattr(text, "is_encoder_decoder", False):
        what = ", ".join(sorted(linear)) or type(config).__name__
        raise WinnowError(
            f"The model {place} has layers that carry a state along ({what}): samples of a pack would leak into each "
            "other. Models whose layers are all attention can be trained."
        )


def _fuse(model: Any, device: torch.device) -> None:
    """Liger's kernels instead of torch's for rotary embedding, norms and SwiGLU. Not for the loss: ours makes its
    gradients chunk by chunk as Liger's does, and tells the loss of each token beside, of which Liger gives the sum."""
    if device.type != "cuda":
        raise WinnowError("`kernels: liger` of the model needs a GPU: Liger's kernels are written in Triton.")
    try:
        from liger_kernel.transformers.monkey_patch import _apply_liger_kernel_to_instance
    except ImportError as error:
        raise WinnowError(
            "`kernels: liger` needs Liger-Kernel.\nInstall it: pip install 'winnow[train,liger]'"
        ) from error
    _apply_liger_kernel_to_instance(model, cross_entropy=False, fused_linear_cross_entropy=False)


def _generation_config(place: str, revision: str | None) -> Any:
    import transformers

    try:
        return transformers.GenerationConfig.from_pretrained(place, revision=revision)
    except OSError:  # few folders have one
        return None


def use_varlen(model: Any) -> None:
    """Attention by lengths, in the text model and the vision tower."""
    model.config.get_text_config()._attn_implementation = attention.TEXT
    body(model).config._attn_implementation = attention.TEXT
    if (tower := vision_tower(model)) is not None:
        language_model(model).config._attn_implementation = attention.TEXT
        tower.config._attn_implementation = attention.VISION


def body(model: Any) -> Any:
    """The model without its head."""
    return getattr(model, model.base_model_prefix)


def vision_tower(model: Any) -> Any:
    return getattr(body(model), "visual", None)


def language_model(model: Any) -> Any:
    return getattr(body(model), "language_model", body(model))


def layers(model: Any) -> list[nn.Module]:
    """Decoder layers and vision blocks: what is sharded, recomputed and compiled one by one."""
    tower = vision_tower(model)
    return [*language_model(model).layers, *(tower.blocks if tower is not None else ())]


def is_mrope(config: Any) -> bool:
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    return "mrope_section" in rope


def _parts(model: Any, part: str, place: str) -> Iterator[nn.Parameter]:
    if part == "embeddings":
        yield from model.get_input_embeddings().parameters()
        return
    tower = vision_tower(model)
    if tower is None:
        raise WinnowError(f"`freeze: [{part}]`: the model {place} has no vision tower.")
    merging = [p for name, p in tower.named_parameters() if "merger" in name]
    held = {id(p) for p in merging}
    yield from merging if part == "projector" else (p for p in tower.parameters() if id(p) not in held)


def _adapt(model: Any, choice: ModelChoice) -> None:
    assert choice.lora is not None
    try:
        import peft
    except ImportError as error:
        raise WinnowError("`lora` needs peft.\nInstall it: pip install 'winnow[train]'") from error
    targets = choice.lora.targets
    config = peft.LoraConfig(
        r=choice.lora.rank,
        lora_alpha=choice.lora.alpha,
        lora_dropout=choice.lora.dropout,
        target_modules="all-linear" if targets == ["all-linear"] else targets,
        task_type="CAUSAL_LM",
    )
    try:
        # Layers are replaced inside `model`; the wrapper is kept beside it, to save the adapter.
        model.__dict__["adapter"] = peft.get_peft_model(model, config)
    except ValueError as error:
        raise WinnowError(f"`lora`: {str(error).splitlines()[0]}") from error


class Trainee(nn.Module):  # type: ignore[misc]
    """A model with its loss."""

    def __init__(self, model: Any, *, chunk: int, varlen: bool):
        super().__init__()
        self.model = model
        self._chunk, self._varlen = chunk, varlen
        tower = vision_tower(model)
        self._sees = tower is not None

    def forward(self, batch: Batch, scale: float) -> tuple[Tensor, Tensor]:
        """(scale · Σ nll of the batch's targets, nll of each [N])."""
        hidden, idle = self._hidden(batch)
        head = self.model.get_output_embeddings()
        loss, nll = chunked_cross_entropy(
            hidden, head.weight, batch.targets, bias=head.bias, scale=scale, chunk=self._chunk
        )
        return loss + idle, nll

    def _hidden(self, batch: Batch) -> tuple[Tensor, Tensor | float]:
        """Hidden states that predict the targets, [N, D], and a zero that keeps an unused vision tower in the graph."""
        model = self.model
        extra: dict[str, Any] = {}
        idle: Tensor | float = 0.0
        if self._sees:
            if batch.pixels is not None:
                extra["mm_encoder_outputs"] = {"image": model.get_image_features(batch.pixels, batch.grids)}
            else:
                idle = self.idle_image()
        if self._varlen:
            inside = (
                attention.segments(tuple(batch.lengths), str(batch.ids.device)) if batch.packed else attention.PADDED
            )
            extra["segments"] = inside
        hidden = body(model)(
            input_ids=batch.ids, position_ids=batch.positions, attention_mask=None, use_cache=False, **extra
        ).last_hidden_state
        return hidden.flatten(0, 1).index_select(0, batch.at), idle

    def idle_image(self) -> Tensor | float:
        """One black picture of one token, times nothing, for a batch without pictures: every process runs the same
        layers, so no collective waits for ever, and the vision tower's gradient is zero rather than missing."""
        tower, device = vision_tower(self.model), self.model.device
        if tower is None:
            return 0.0
        merge, config = tower.spatial_merge_size, tower.config
        channels = getattr(config, "in_channels", None) or config.in_chans
        pixels = torch.zeros(merge**2, channels * config.temporal_patch_size * config.patch_size**2, device=device)
        features = self.model.get_image_features(pixels, torch.tensor([[1, merge, merge]], device=device))
        used = [features.pooler_output, getattr(features, "deepstack_features", None)]
        return sum(one.float().sum() for one in _tensors(used)) * 0.0


class Policy(Trainee):
    """A model that says how likely it would have said what is in a batch, as it was sampled."""

    def __init__(self, model: Any, *, chunk: int, varlen: bool, temperature: float, banned: Sequence[int]):
        super().__init__(model, chunk=chunk, varlen=varlen)
        self._temperature = temperature
        self._banned = torch.tensor(banned, device=model.device) if banned else None

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(log p of the batch's targets [N], its entropy in nats [N], without gradient)."""
        hidden, idle = self._hidden(batch)
        head = self.model.get_output_embeddings()
        logp, entropy = chunked_log_probs(
            hidden, head.weight, batch.targets, bias=head.bias, temperature=self._temperature, banned=self._banned,
            chunk=self._chunk,
        )  # fmt: skip
        return logp + idle, entropy


def without_dropout(model: Any) -> None:
    """The old and the new policy must differ by their weights alone, so nothing may be dropped."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in lists and tuples, however deep."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)


def shard(trainee: Trainee, *, precision: str, mesh: Any) -> None:
    """FSDP2: every layer a unit, the rest one more. Weights, optimizer and reductions in float32, forward and backward
    in bfloat16 where `precision` says so."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    half = torch.bfloat16 if precision == "bf16" else None
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32 if half else None)
    for layer in layers(trainee.model):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(trainee, mesh=mesh, mp_policy=policy)


def step_flops(model: Any, batch: Batch) -> float:
    """Floating-point operations of forward and backward over a batch, without recomputation.

    6 per weight of a matrix and token (the head: per target; vision: per patch), and for attention
    12 · layers · heads · head size · Σ length² / 2 (PaLM, arXiv 2204.02311, appendix B, with the causal half).
    Attention of the vision tower is left out.
    """
    config = model.config.get_text_config()
    text = sum(p.numel() for p in language_model(model).layers.parameters() if p.ndim > 1)
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    flops = 6.0 * text * sum(batch.lengths)
    flops += 6.0 * model.get_output_embeddings().weight.numel() * len(batch.targets)
    flops += 6.0 * config.num_hidden_layers * heads * size * sum(n * n for n in batch.lengths)
    if batch.pixels is not None:
        flops += 6.0 * sum(p.numel() for p in vision_tower(model).parameters() if p.ndim > 1) * len(batch.pixels)
    return flops


def peak_flops(device: Any, stated: float | None) -> float | None:
    """Operations per second of one device at its best, where anybody knows."""
    if stated is not None:
        return stated * 1e12
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for known, peak in PEAK_TFLOPS.items() if known in name), None)


def world() -> tuple[int, int]:
    """(rank, number of processes)"""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
