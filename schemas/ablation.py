"""The ablation recipe: which keys of which recipes take which values, how often, and what is measured."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from schemas.recipe import NAME, Model, PathOrName, PathText

Budget = Literal["equal_steps", "equal_epochs"]
Levels = list[Any] | dict[str, dict[str, Any]]


class Prepared(Model):
    """Something that is there before the cells are: a version, or a model that becomes a teacher."""

    build: PathText | None = None
    sft: PathText | None = None
    set: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one(self) -> Prepared:
        if (self.build is None) == (self.sft is None):
            raise ValueError("an entry of `prepare` names either `build` or `sft`")
        return self


class Resources(Model):
    """What one cell takes of a Ray cluster."""

    cpus: float = Field(default=1, gt=0)
    gpus: float | None = Field(
        default=None,
        ge=0,
        description="By default one for each of `processes` where the cluster has GPUs, else none.",
    )


class Ablation(Model):
    """A matrix of cells, each a build, a fine-tuning, RL where the recipe says so, and an evaluation, over seeds."""

    name: str
    description: str = ""
    shows: str = Field(default="", description="What this can show and what it cannot: the report says it first.")
    extends: PathText | None = None
    prepare: list[Prepared] = Field(default_factory=list)
    build: PathText | None = Field(
        default=None,
        description="Build recipe of the training data; without it, `data` of the training recipe is used.",
    )
    sft: PathText = Field(description="Training recipe of the fine-tuning.")
    gspo: PathText | None = Field(default=None, description="Training recipe of RL, which goes on from the fine-tuned.")
    benchmarks: list[PathOrName] = Field(min_length=1)
    ask: dict[str, Any] = Field(default_factory=dict, description="Overrides of the benchmarks: {ask.n: 4}.")
    seeds: list[int] = Field(
        default=[0, 1, 2], min_length=1, description="Seeds of training: order and random weights."
    )
    axes: dict[str, Levels] = Field(
        min_length=1,
        description="KEY: [values] for a key of the build recipe (stages.fanout.n) or of a training recipe (sft.…, gspo.…), "
        "or NAME: {level: {KEY: value, …}} where a level sets several keys.",
    )
    baseline: dict[str, Any] = Field(default_factory=dict, description="Level of each axis to compare with; the first one by default.")  # fmt: skip
    set: dict[str, Any] = Field(default_factory=dict, description="Keys that all cells share.")
    budget: list[Budget] = Field(
        default=["equal_steps"],
        min_length=1,
        description="equal_steps: all cells take the same optimizer steps, so the same compute; equal_epochs: all pass "
        "`epochs` times over their own data, so more data trains longer. Both make two families of cells.",
    )
    epochs: float | None = Field(default=None, gt=0)
    jobs: int = Field(default=1, ge=1, description="Cells that run at once, each in a process and on a GPU of its own.")
    processes: int = Field(default=1, ge=1, description="Processes of one training (torchrun on one machine).")
    resources: Resources = Field(default=Resources(), description="What one cell takes of a Ray cluster (--on ray).")

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(
                "a name has lower-case letters, digits, '-', '_' and '.', and begins with one of the first two"
            )
        return name

    @model_validator(mode="after")
    def _whole(self) -> Ablation:
        if "equal_epochs" in self.budget and self.epochs is None:
            raise ValueError("the budget equal_epochs needs `epochs`")
        for axis, level in self.baseline.items():
            if axis not in self.axes:
                raise ValueError(f"baseline: there is no axis {axis!r}; there are {', '.join(self.axes)}")
            if level not in list(self.axes[axis]):
                raise ValueError(f"baseline: {axis} has no level {level!r}")
        for axis, levels in self.axes.items():
            if len(levels) < 2:
                raise ValueError(f"axis {axis}: one level is nothing to compare")
        if self.gspo is None and any(key.startswith("gspo.") for key in self.keys):
            raise ValueError("an axis changes gspo.…, and there is no `gspo` recipe")
        return self

    @property
    def keys(self) -> list[str]:
        """Every key that some cell sets."""
        found = list(self.set)
        for axis, levels in self.axes.items():
            found += [key for level in levels.values() for key in level] if isinstance(levels, dict) else [axis]
        return found
