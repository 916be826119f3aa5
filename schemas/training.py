"""The training recipe: one YAML file that says which model learns from which data, and how.

These models check shape and values; training/recipe.py turns every complaint into file, line and a suggestion, and
looks whether the data is there. A value that decides on the result has its field here and nowhere else.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from schemas.recipe import NAME, Model, PathOrName, PathText, Strings

DATA_PLACES = ("version", "parquet", "hub")


class Data(Model):
    """Rows of a layout that Winnow exports. Exactly one of version, parquet and hub is named."""

    version: str | None = Field(default=None, description="A Winnow version: name, name@tag or name@id.")
    parquet: PathText | list[PathText] | None = Field(
        default=None, description="File, glob or folder of Parquet (or a list)."
    )
    hub: str | None = Field(default=None, description="Dataset repo id, with @revision: ORG/NAME@main.")
    config: str | None = Field(default=None, description="Version: the name of the output. Hub: the dataset's config.")
    split: str = Field(default="train", description="The split to take, of a version or a Hub dataset.")
    source: str | None = Field(
        default=None, description="What these rows are called in losses per source, where they have no column `source`."
    )

    @model_validator(mode="after")
    def _one_place(self) -> Data:
        named = [kind for kind in DATA_PLACES if getattr(self, kind) is not None]
        if len(named) != 1:
            what = " and ".join(named) if named else "none"
            raise ValueError(f"data names exactly one of {', '.join(DATA_PLACES)}; here: {what}")
        return self

    @property
    def place(self) -> str:
        return next(kind for kind in DATA_PLACES if getattr(self, kind) is not None)


class Lora(Model):
    """Low-rank adapters (peft) in place of training all weights."""

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1, description="Scale: updates are multiplied by alpha / rank.")
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: Strings = Field(
        default_factory=lambda: ["all-linear"], description="Names of modules, or all-linear: every one but the head."
    )


class ModelChoice(Model):
    """Which model, and which part of it learns."""

    path: PathOrName = Field(description="Folder of a model in Hugging Face format, or its repo id.")
    revision: str | None = Field(default=None, description="Commit or tag of a repo id.")
    init: Literal["pretrained", "random"] = Field(
        default="pretrained",
        description="random: only the config and the tokenizer are taken; weights are drawn by `seed`.",
    )
    attention: Literal["varlen", "sdpa", "eager", "flash_attention_2"] = Field(
        default="varlen",
        description="varlen: ours, by the lengths of the samples, on every device; the others are transformers' own, "
        "which find the samples in the positions.",
    )
    kernels: Literal["torch", "liger"] = Field(
        default="torch",
        description="liger: rotary embedding, RMSNorm and SwiGLU by Liger-Kernel, on a GPU. The loss is ours in any case.",
    )
    freeze: list[Literal["vision", "projector", "embeddings"]] = Field(
        default_factory=list, description="Parts that stay as they are: the vision tower, its merger, the embeddings."
    )
    lora: Lora | None = None


class Batch(Model):
    """What one optimizer step sees. Its size is global: the same step on 1 or 32 processes has the same gradient."""

    packs: int = Field(default=1, ge=1, description="Packs of a step, over all processes and accumulation.")
    max_tokens: int = Field(
        default=8192, ge=8, description="Tokens of a pack. A longer sample is left out and counted."
    )
    packing: bool = Field(
        default=True, description="false: a pack holds `samples` samples, padded, instead of filling tokens."
    )
    samples: int = Field(default=8, ge=1, description="Samples of a pack without packing.")
    open_bins: int = Field(default=16, ge=1, description="Packs that are filled at once (bounded first-fit).")
    max_patches: int | None = Field(
        default=None, ge=1, description="Image patches of a pack at most: bounds vision memory."
    )
    shuffle: bool = Field(default=True, description="false keeps the order of the data: a curriculum.")
    streaming: bool = Field(
        default=False,
        description="Tokenise on the way instead of once into the workspace: for sets larger than the disk.",
    )
    workers: int = Field(default=2, ge=0, description="Processes per trainer that read and decode ahead.")
    max_pixels: int | None = Field(
        default=None, ge=1, description="Pixels of an image at most; by default the model's own."
    )
    min_pixels: int | None = Field(
        default=None, ge=1, description="Pixels of an image at least; by default the model's own."
    )


class Optimizer(Model):
    """AdamW, its schedule and clipping."""

    lr: float = Field(default=5e-5, gt=0, description="Peak learning rate.")
    schedule: Literal["cosine", "linear", "constant"] = Field(default="cosine", description="After the warm-up.")
    warmup: float = Field(default=0.1, ge=0, description="Steps, or below 1 their share.")
    min_lr: float = Field(default=0.0, ge=0, description="Learning rate at the end of the schedule.")
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0, description="On matrices; never on norms and biases.")
    clip: float | None = Field(default=1.0, gt=0, description="Largest norm of the gradient; null does not clip.")


class Evaluation(Model):
    """Held-out questions, answered greedily now and then and judged by the checker."""

    data: Data = Field(description="Rows with a gold answer: the layout `rl`, or `sft` with a column `answer`.")
    every: int = Field(default=100, ge=1, description="Steps between evaluations; the last step always has one.")
    limit: int = Field(default=64, ge=1, description="Questions at most: the first of the split.")
    max_new_tokens: int = Field(default=256, ge=1)
    batch_size: int = Field(default=16, ge=1)


class Saving(Model):
    """Checkpoints: Hugging Face format, and beside it what a run needs to go on bit for bit."""

    every: int = Field(default=500, ge=1, description="Steps between checkpoints; the last step always makes one.")
    keep: int = Field(default=2, ge=1, description="Newest checkpoints that stay.")
    dtype: Literal["float32", "bfloat16", "as_trained"] = Field(
        default="as_trained", description="Of the exported weights; as_trained is bfloat16 where precision is bf16."
    )


class Logging(Model):
    """Where figures go, beside metrics.jsonl and report.html."""

    every: int = Field(default=1, ge=1, description="Steps between two lines.")
    to: list[Literal["tensorboard", "wandb", "trackio"]] = Field(
        default=["tensorboard"], description="Services; wandb and trackio are installed by whoever wants them."
    )
    peak_tflops: float | None = Field(
        default=None, gt=0, description="Peak of one device, for MFU; known for common GPUs, unknown for CPUs."
    )


class SftRecipe(Model):
    """Supervised fine-tuning: the loss is the mean negative log-likelihood of the assistant's tokens of a step."""

    name: str = Field(description="Name of the run: its folder in the workspace is runs/<name>.")
    description: str = ""
    extends: PathText | None = Field(default=None, description="Path of a training recipe that this one changes.")
    seed: int = Field(default=0, ge=0, description="Seed of order, dropout and random weights.")
    model: ModelChoice
    data: list[Data] = Field(min_length=1)
    batch: Batch = Batch()
    optimizer: Optimizer = Optimizer()
    steps: int | None = Field(default=None, ge=1, description="Optimizer steps.")
    epochs: float | None = Field(default=None, gt=0, description="Or passes over the data.")
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32",
        description="bf16: forward and backward in bfloat16; weights, optimizer and reductions in float32.",
    )
    activation_checkpointing: bool = Field(default=False, description="Recompute activations: less memory, more time.")
    compile: bool = Field(default=False, description="torch.compile for every layer.")
    loss_chunk: int = Field(default=1024, ge=1, description="Target tokens whose logits exist at once.")
    evaluation: Evaluation | None = None
    save: Saving = Saving()
    log: Logging = Logging()

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(
                "a name has lower-case letters, digits, '-', '_' and '.', and begins with a letter or digit"
            )
        return name

    @model_validator(mode="after")
    def _one_length(self) -> SftRecipe:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("say either `steps` or `epochs`")
        if self.batch.streaming and self.steps is None:
            raise ValueError("a streamed set has no known number of steps: say `steps`")
        if not self.batch.packing and self.model.attention == "flash_attention_2":
            raise ValueError("flash_attention_2 needs packing: padded samples run with sdpa, eager or varlen")
        return self
