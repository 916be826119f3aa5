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

    path: PathOrName = Field(
        description="Folder of a model in Hugging Face format, its repo id, or run:NAME, the newest checkpoint of a run."
    )
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
    first: bool = Field(default=False, description="Also before the first step; RL always asks then.")
    until: float | None = Field(
        default=None, gt=0, le=1, description="The run ends at its first evaluation with at least this accuracy."
    )
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


# ------------------------------------------------------------------------------------------------------------------- RL


class Questions(Data):
    """Rows of the layout `rl`: questions with a gold answer."""

    config: str | None = Field(default="rl", description="Version: the name of the output. Hub: the dataset's config.")


class Loss(Model):
    """Parts of the objective. What is not said is what the algorithm's name fixes."""

    ratio: Literal["token", "sequence", "sequence_token"] | None = Field(
        default=None, description="Level of the importance ratio. A sequence's goes with `seq_mean` only."
    )
    aggregation: Literal["seq_mean", "token_mean", "constant"] | None = Field(
        default=None,
        description="Mean over sequences of their means; over all tokens of the step; or over sequences times the "
        "longest possible answer.",
    )
    clip_low: float | None = Field(default=None, ge=0, description="Ratios count as at least 1 - clip_low.")
    clip_high: float | None = Field(default=None, ge=0, description="Ratios count as at most 1 + clip_high.")
    scale: Literal["group", "batch", "none"] | None = Field(
        default=None, description="What advantages are divided by: the deviation of the group, of the batch, nothing."
    )
    floor: float = Field(
        default=0.1, ge=0, description="A deviation counts as at least this: a slip in format stays a slip."
    )
    kl: float = Field(default=0.0, ge=0, description="Weight of the KL divergence from the model at the beginning.")
    importance_cap: float | None = Field(
        default=None, gt=0, description="Corrects the rollout engine's numerics by min(π / π_rollout, cap), by token."
    )


class Rollouts(Model):
    """How answers are drawn. Sampling is from the whole distribution, which is also what the trainer scores."""

    engine: Literal["transformers", "vllm", "vllm_server"] = Field(
        default="transformers",
        description="vllm: in this process. vllm_server: behind HTTP. Both are given new weights behind every step.",
    )
    servers: list[str] = Field(
        default_factory=list,
        description="vllm_server: addresses like http://localhost:8000, of `winnow serve-teacher MODEL --rollouts`; they "
        "must see the run's folder. Empty: the run starts one of its own on this machine.",
    )
    patience: float = Field(
        default=900.0, gt=0, description="vllm_server: seconds to wait for a server that does not answer."
    )
    sleep: bool = Field(
        default=False, description="vllm: gives the GPU's memory to the trainer while nothing is drawn."
    )
    prompts: int = Field(default=128, ge=1, description="Questions of a step, over all processes.")
    n: int = Field(default=16, ge=2, description="Answers to each: a group.")
    temperature: float = Field(default=1.0, gt=0, description="Of sampling and of scoring.")
    max_prompt_tokens: int = Field(default=4096, ge=1, description="Longer prompts are left out and counted.")
    max_new_tokens: int = Field(default=1024, ge=1)
    at_once: int = Field(
        default=8, ge=1, description="transformers: questions whose answers are drawn together. Part of the result."
    )
    truncated: Literal["mask", "penalise"] = Field(
        default="mask", description="An answer that was cut off: leave it out of the loss, or take it as wrong."
    )
    zero_variance: Literal["keep", "skip", "resample"] = Field(
        default="keep",
        description="Groups of equal rewards have no gradient. keep: they count in the step's mean; skip: they do not; "
        "resample: other questions are asked in their place.",
    )
    max_rounds: int = Field(default=3, ge=1, description="resample: rounds of asking at most.")
    ahead: bool = Field(
        default=False,
        description="Answers of the next step are drawn before this step's updates, with vllm beside them: one step "
        "off-policy, so it needs loss.importance_cap.",
    )
    memory: float | None = Field(default=None, gt=0, le=1, description="vllm: share of the GPU's memory.")


class RewardFunction(Model):
    """A function of one's own: `function(row) -> float | None`, called in a process that can be killed."""

    path: str = Field(
        description="module:function. The row has response, gold, question, row_id, source, tokens, state."
    )
    weight: float = Field(default=1.0, description="Its value is added with this weight. None masks the answer out.")
    seconds: float = Field(
        default=5.0, gt=0, description="A call that takes longer is ended, and the answer masked out."
    )

    @field_validator("path")
    @classmethod
    def _two_parts(cls, path: str) -> str:
        if path.count(":") != 1 or not all(path.split(":")):
            raise ValueError(f"a function is named module:function, not {path!r}")
        return path


class Overlong(Model):
    """Soft punishment of length (DAPO, arXiv 2503.14476, eq. 13): 0 up to limit - buffer, then down to -factor at limit."""

    buffer: int = Field(ge=1, description="Tokens before the limit in which the punishment grows.")
    limit: int | None = Field(default=None, ge=1, description="By default max_new_tokens.")
    factor: float = Field(default=1.0, gt=0)


class JudgeChoice(Model):
    """A model that is asked about answers which the checker's rules leave undecided."""

    base_url: str
    model: str
    api_key_env: str = Field(default="OPENAI_API_KEY", description="Environment variable with the key.")
    timeout_s: float = Field(default=30.0, gt=0)


class Reward(Model):
    """R = (1 - format_weight) · accuracy + format_weight · format + overlong + Σ weight · function."""

    format: Literal["think_answer", "boxed", "none"] = Field(
        default="think_answer",
        description="What earns the format's part: one non-empty <think> and one non-empty <answer>, or one box.",
    )
    format_weight: float = Field(default=0.1, ge=0, le=1)
    overlong: Overlong | None = None
    budget: int | None = Field(
        default=None, ge=1, description="Reward per token: accuracy times min(1, budget / tokens)."
    )
    functions: list[RewardFunction] = Field(default_factory=list)
    judge: JudgeChoice | None = None
    workers: int | None = Field(default=None, ge=1, description="Processes that check; by default one per core.")


class Curriculum(Model):
    """Which questions, in which order, by the share of right answers that `pass_rate` says."""

    order: Literal["shuffled", "ascending", "descending"] = Field(
        default="shuffled", description="ascending: the hardest first; descending: the easiest first."
    )
    band: tuple[float, float] | None = Field(default=None, description="Pass rates from … to, both included.")


class Alarms(Model):
    """When a line is said about a run that goes wrong. Windows are steps."""

    window: int = Field(default=10, ge=2, description="Steps whose mean is compared with the steps before.")
    entropy: float = Field(default=0.1, ge=0, description="Entropy below this share of what it was at first.")
    length: float = Field(default=2.0, gt=1, description="Answers longer than this many times what they were at first.")
    mismatch: float = Field(default=0.05, gt=0, description="Mean |log π - log π_rollout| above this.")
    unclipped: int = Field(default=50, ge=1, description="Steps without any clipping although off-policy.")


class GspoBatch(Model):
    """How a step is cut into passes: decides on memory and time, never on the result beyond rounding."""

    max_tokens: int = Field(
        default=16384, ge=8, description="Tokens of a forward pass; one longer sequence runs alone."
    )
    max_pixels: int | None = Field(default=None, ge=1, description="Pixels of an image at most.")
    min_pixels: int | None = Field(default=None, ge=1, description="Pixels of an image at least.")
    picture_cache_mb: int = Field(
        default=1024, ge=0, description="Decoded pictures that are kept for other answers and passes; 0 keeps none."
    )


class GspoRecipe(Model):
    """Reinforcement learning on verifiable answers: rollouts, rewards, advantages, updates."""

    name: str = Field(description="Name of the run: its folder in the workspace is runs/<name>.")
    description: str = ""
    extends: PathText | None = Field(default=None, description="Path of a training recipe that this one changes.")
    seed: int = Field(default=0, ge=0, description="Seed of order and sampling.")
    algorithm: Literal["gspo", "gspo_token", "grpo", "dr_grpo", "dapo"] = "gspo"
    loss: Loss = Loss()
    model: ModelChoice
    data: list[Questions] = Field(min_length=1)
    rollout: Rollouts = Rollouts()
    reward: Reward = Reward()
    updates: int = Field(
        default=4,
        ge=1,
        description="Optimizer steps per rollout batch, each on its share. With 1 nothing is ever clipped.",
    )
    curriculum: Curriculum = Curriculum()
    batch: GspoBatch = GspoBatch()
    optimizer: Optimizer = Optimizer(lr=1e-6, schedule="constant", warmup=10)
    steps: int = Field(ge=1, description="Rollout batches.")
    precision: Literal["fp32", "bf16"] = "fp32"
    activation_checkpointing: bool = False
    loss_chunk: int = Field(default=1024, ge=1, description="Tokens whose logits exist at once.")
    evaluation: Evaluation | None = None
    save: Saving = Saving(every=16)
    log: Logging = Logging()
    alarms: Alarms = Alarms()

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        return SftRecipe._plain_name(name)

    @model_validator(mode="after")
    def _fits(self) -> GspoRecipe:
        ratio = self.loss.ratio or ("sequence" if self.algorithm.startswith("gspo") else "token")
        if ratio != "token" and (self.loss.aggregation or "seq_mean") != "seq_mean":
            raise ValueError(f"the ratio `{ratio}` goes with `aggregation: seq_mean` only")
        if ratio != "token" and not self.algorithm.startswith("gspo") and self.loss.aggregation is None:
            raise ValueError(f"`ratio: {ratio}` needs `aggregation: seq_mean` beside it")
        if self.rollout.ahead and self.loss.importance_cap is None:
            raise ValueError(
                "`rollout.ahead` draws with weights of one step before: set loss.importance_cap (2.0, say)"
            )
        if self.rollout.servers and self.rollout.engine != "vllm_server":
            raise ValueError("`rollout.servers` goes with `rollout.engine: vllm_server`")
        if self.rollout.sleep and (self.rollout.engine != "vllm" or self.rollout.ahead):
            raise ValueError(
                "`rollout.sleep` goes with `rollout.engine: vllm`, and not with `ahead`: then it never rests"
            )
        if self.updates > self.rollout.prompts:
            raise ValueError(f"{self.updates} updates cannot share {self.rollout.prompts} prompts")
        return self
