"""The benchmark recipe: one YAML file that says what is asked, how, and what counts.

A benchmark is sources and stages as in any build recipe, a prompt, and a way of scoring. `winnow evaluate` puts a
fan-out by the model and the checker behind it: an evaluation is a build, and its answers are traces like all others.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from schemas.recipe import NAME, Model, PathOrName, PathText, Source

Metric = Literal["accuracy", "worst_case", "wemath_loose", "wemath_strict"]


class Ask(Model):
    """How the model is asked. What is not said here is as in the model's training, where that is known."""

    template: str | None = Field(default=None, description="Template of the user's turn: {question}, {stem}, {choices} …; by default that of the training, else {question}.")  # fmt: skip
    system: str | None = Field(
        default=None,
        description="Text of a system turn, where the model's training is not known. A known training's counts.",
    )
    n: int = Field(default=1, ge=1, description="Answers to each question.")
    temperature: float = Field(default=0.0, ge=0, description="0 takes the likeliest token; then n must be 1.")
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=49152, ge=1, description="Tokens of an answer at most; what reaches it is wrong.")
    seed: int = Field(default=0, ge=0)


class Score(Model):
    """What counts. Fields are those of `meta`, which the sources' `columns.meta` keeps, or columns of rows."""

    metric: Metric = Field(
        default="accuracy",
        description="The official headline. accuracy: mean over questions and answers; worst_case: of each group the "
        "worst variant; wemath_loose, wemath_strict: We-Math's four-way scheme over groups of steps.",
    )
    also: list[Metric] = Field(default_factory=list, description="Further metrics that are reported beside it.")
    group: str | None = Field(
        default=None,
        description="Field that names the seed question of variants, or the problem of steps: their cluster.",
    )
    part: str | None = Field(
        default=None, description="Field that says which step a question is: 2steps_1, …, 3steps_multi."
    )
    by: list[str] = Field(default_factory=list, description="Fields by whose values accuracy is also told.")
    official: str = Field(default="", description="What the benchmark's authors report, in words.")


class Benchmark(Model):
    """The whole file."""

    name: str
    description: str = ""
    extends: PathText | None = Field(default=None, description="Path of a benchmark recipe that this one changes.")
    seed: int = Field(default=0, ge=0)
    use: list[PathOrName] = Field(default_factory=list, description="Modules or files of stages that shape the questions.")  # fmt: skip
    sources: list[Source] = Field(min_length=1)
    stages: list[dict[str, Any]] = Field(default_factory=list, description="Stages before the model is asked.")
    ask: Ask = Ask()
    score: Score = Score()
    policy: dict[str, Any] = Field(default_factory=dict, description="Conventions of the checker, as in `verify`.")

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(
                "a name has lower-case letters, digits, '-', '_' and '.', and begins with a letter or digit"
            )
        return name
