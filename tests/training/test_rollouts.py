"""Rollouts: the engine's distribution is the trainer's, whoever draws; what is drawn follows from the seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.errors import RecipeError
from schemas.training import GspoRecipe
from tests.training.conftest import picture, text_rows, write_rows
from training import models as made
from training.batches import Collator
from training.heldout import BANNED, banned_of
from training.index import Named
from training.recipe import load_gspo_recipe
from training.rollouts import Drawn, open_engine, spoken
from training.sources import Picture
from training.tokens import Encoder, Sample
from training.weights import weights_of


class Rig:
    """A tiny policy with an engine."""

    def __init__(self, place: Path, folder: Path | None = None, model: dict[str, Any] | None = None, **rollout: Any):
        config = {"n": 4, "max_new_tokens": 12, "max_prompt_tokens": 100, "at_once": 2, "temperature": 0.8, **rollout}
        self.recipe = GspoRecipe.model_validate(
            {"name": "rig", "model": {"path": str(place), **(model or {})}, "data": [{"parquet": "x"}], "steps": 1, "rollout": config,
             "updates": 1}
        )  # fmt: skip
        self.encoder = Encoder(str(place))
        self.model = made.load_model(str(place), self.recipe.model, seed=0, device="cpu")
        self.policy = made.Policy(
            self.model, chunk=64, varlen=True, temperature=config["temperature"], banned=banned_of(self.model.config)
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3)
        self.engine = open_engine(self.recipe, self.policy, self.encoder, str(place), folder or place)

    def prompts(self, count: int = 3, pictures: bool = False) -> list[Sample]:
        asked = []
        for n in range(count):
            seen = [Picture(data=picture(n))] * (pictures and n % 2)
            text = f"What is {n}?" * (n + 1)
            content = [{"type": "image"}] * len(seen) + [{"type": "text", "text": text}] if pictures else text
            asked.append(self.encoder.prompt([{"role": "user", "content": content}], seen))
        return asked

    def mismatch(self, prompts: list[Sample], groups: list[list[Drawn]]) -> float:
        """The largest difference between the engine's log-probabilities and the trainer's."""
        named, logs = [], []
        for prompt, group in zip(prompts, groups, strict=True):
            for one in group:
                whole = [*prompt.ids, *one.ids]
                named.append(
                    Named(Sample(whole, [(len(prompt.ids), len(whole))], prompt.images, prompt.pictures), "r", "s")
                )
                logs += one.logp
        batch = Collator(self.encoder, packed=True, mrope=made.is_mrope(self.model.config))(named, {})
        with torch.no_grad():
            logp, _ = self.policy(batch)
        return (logp - torch.tensor(logs)).abs().max().item()

    def learn(self, prompts: list[Sample], groups: list[list[Drawn]]) -> None:
        """Moves the weights a good way."""
        named = [Named(Sample([*p.ids, *d.ids], [(len(p.ids), len(p.ids) + len(d.ids))], p.images, p.pictures), "r", "s")
                 for p, g in zip(prompts, groups, strict=True) for d in g]  # fmt: skip
        logp, _ = self.policy(Collator(self.encoder, packed=True, mrope=made.is_mrope(self.model.config))(named, {}))
        self.optimizer.zero_grad()
        (logp.mean() + logp[: len(logp) // 2].sum()).backward()
        self.optimizer.step()


@pytest.mark.parametrize("kind", ["qwen2", "qwen2_5_vl", "qwen3_vl"])
def test_what_generate_says_of_its_answers_is_what_the_trainer_says(models: Callable[[str], Path], kind: str) -> None:
    rig = Rig(models(kind))
    prompts = rig.prompts(pictures=kind != "qwen2")
    groups = rig.engine.sample(prompts, 1)
    assert [len(group) for group in groups] == [4, 4, 4]
    assert rig.mismatch(prompts, groups) < 1e-5
    assert rig.engine.sample(prompts, 1) == groups != rig.engine.sample(prompts, 2)
    banned = banned_of(rig.model.config)
    assert len(banned) == (0 if kind == "qwen2" else len(BANNED))
    assert not {token for group in groups for one in group for token in one.ids} & set(banned)
    for one in groups[0]:
        assert one.finished == (one.ids[-1] == rig.encoder.tokenizer.eos_token_id)
        assert len(one.ids) == len(one.logp) <= 12 and one.ids.count(rig.encoder.tokenizer.eos_token_id) <= 1
        assert "<|im_end|>" not in spoken(rig.encoder, one)


def test_another_temperature_in_scoring_would_be_seen(models: Callable[[str], Path]) -> None:
    rig = Rig(models("qwen2"))
    prompts = rig.prompts()
    groups = rig.engine.sample(prompts, 1)
    rig.policy._temperature = 1.0
    assert rig.mismatch(prompts, groups) > 1e-3


def test_the_whole_vocabulary_is_drawn_from(models: Callable[[str], Path]) -> None:
    rig = Rig(models("qwen2"), n=200, max_new_tokens=8, temperature=5.0)
    groups = rig.engine.sample(rig.prompts(1), 0)
    first = {one.ids[0] for one in groups[0]}
    assert len(first) > 60  # generate's own default takes the 50 likeliest


@pytest.mark.parametrize("kind", ["qwen2", "qwen2_5_vl"])
def test_an_adapter_is_merged_into_what_an_engine_gets(models: Callable[[str], Path], kind: str) -> None:
    """A model without adapters, loaded with these weights, says the same."""
    pytest.importorskip("peft", reason="peft is not installed: pip install 'winnow[train]'")
    rig = Rig(models(kind), model={"lora": {"rank": 4}})
    prompts = rig.prompts(pictures=kind != "qwen2")
    for name, value in rig.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.2)
    groups = rig.engine.sample(prompts, 1)
    plain = Rig(models(kind))
    assert plain.mismatch(prompts, groups) > 1e-2
    merged = weights_of(rig.policy)
    assert set(merged) == set(plain.model.state_dict())
    plain.model.load_state_dict(merged)
    assert plain.mismatch(prompts, groups) < 1e-4


def test_recipes_of_engines_that_cannot_be_are_refused() -> None:
    def complaint(**rollout: Any) -> str:
        with pytest.raises(ValueError, match="rollout") as found:
            GspoRecipe.model_validate({"name": "a", "model": {"path": "m"}, "data": [{"parquet": "x"}], "steps": 1,
                                       "loss": {"importance_cap": 2.0}, "rollout": rollout})  # fmt: skip
        return str(found.value)

    assert "goes with `rollout.engine: vllm_server`" in complaint(servers=["http://localhost:8000"])
    assert "goes with `rollout.engine: vllm`" in complaint(engine="vllm_server", sleep=True)
    assert "it never rests" in complaint(engine="vllm", sleep=True, ahead=True)


def test_vllm_in_the_processes_of_torchrun_is_refused_with_the_line(
    models: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "rows.parquet", text_rows(3))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"name: a\nmodel: {{path: {models('qwen2')}}}\ndata: [{{parquet: rows.parquet}}]\nsteps: 1\nrollout:\n  engine: vllm\n"
    )
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match=r"recipe\.yaml:6: .*runs with one process: .*vllm_server"):
        load_gspo_recipe(recipe, workspace=tmp_path)
    ahead = ["rollout.engine=vllm_server", "rollout.ahead=true", "loss.importance_cap=2.0"]
    with pytest.raises(RecipeError, match="`ahead` of `rollout` with `vllm_server` runs with one process"):
        load_gspo_recipe(recipe, workspace=tmp_path, overrides=ahead)
    for allowed in ("vllm_server", "transformers"):
        load_gspo_recipe(recipe, workspace=tmp_path, overrides=[f"rollout.engine={allowed}"])
