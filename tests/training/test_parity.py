"""TRL's SFTTrainer, on the same batches: the same loss to 1e-5 and the same gradients to 1e-4, for 20 steps.

Text goes through TRL's own tokenisation and collation (its template marks the answers, ours finds them). Pictures are
handed to it as padded batches, since its processors need torchvision; tests/training/test_tokens.py holds our tokens
and pixels against those. What is compared then is all that follows: positions, attention, loss, normalisation,
accumulation, schedule and optimizer.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.training import ModelChoice
from tests.training.conftest import Plan, image_rows, lines, text_rows
from training import sft
from training.models import load_model
from training.sft import train
from training.sources import messages_of
from training.tokens import Encoder

pytestmark = pytest.mark.parity
trl = pytest.importorskip("trl", reason="trl is not installed: pip install 'winnow[dev]'")

STEPS, SAMPLES = 20, 3
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

Step = tuple[float, dict[str, torch.Tensor]]


@pytest.fixture
def ours(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, list[Step]]]:
    """Train with our trainer, unpacked and unshuffled; (plan, loss and gradients of each step)."""

    def run(rows: list[dict], kind: str, packs: int) -> tuple[Any, list[Step]]:
        size = {"max_tokens": 100_000, "packs": packs, "samples": SAMPLES, "shuffle": False, "packing": False}
        made = plan(rows, kind, steps=STEPS, batch=size, optimizer={"lr": 1e-3, "warmup": 0, "clip": None})
        grads: list[dict[str, torch.Tensor]] = []

        def clip(trainee: Any, limit: float | None) -> float:
            grads.append({n: p.grad.clone() for n, p in trainee.model.named_parameters()})
            return 1.0

        monkeypatch.setattr(sft, "clip_gradient", clip)
        folder = train(made, workspace=tmp_path / ".winnow", quiet=True, fresh=True).folder
        return made, list(zip([line["loss"] for line in lines(folder / "metrics.jsonl")], grads, strict=True))

    return run


def theirs(made: Any, dataset: Any, folder: Path, accumulate: int, **more: Any) -> list[Step]:
    """The same with TRL."""
    import transformers

    found: list[Step] = []

    class Watch(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            self.grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in logs:
                found.append((logs["loss"], self.grads))

    choice = ModelChoice(path=made.model_place, attention="eager")
    model = load_model(made.model_place, choice, seed=0, device="cpu")
    config = trl.SFTConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=SAMPLES, gradient_accumulation_steps=accumulate,
        max_steps=STEPS, learning_rate=1e-3, lr_scheduler_type="cosine", warmup_steps=0, max_grad_norm=0.0,
        weight_decay=0.0, logging_steps=1, logging_first_step=True, save_strategy="no", report_to=[], use_cpu=True,
        bf16=False, gradient_checkpointing=False, max_length=None, train_sampling_strategy="sequential",
        disable_tqdm=True, dataset_num_proc=None, optim="adamw_torch", **more.pop("config", {}),
    )  # fmt: skip
    trainer = trl.SFTTrainer(model=model, args=config, train_dataset=dataset, callbacks=[Watch()], **more)
    trainer.train()
    return found


def compare(a: list[Step], b: list[Step]) -> None:
    assert len(a) == len(b) == STEPS
    for (loss, grads), (wanted, expected) in zip(a, b, strict=True):
        assert abs(loss - wanted) < 1e-5
        assert grads.keys() == expected.keys()
        assert max((grads[n] - expected[n]).abs().max().item() for n in grads) < 1e-4


def test_text_is_trained_as_by_trl(ours: Any, tmp_path: Path) -> None:
    import datasets
    import transformers

    rows = text_rows(STEPS * SAMPLES * 2, longest=20)
    made, mine = ours(rows, "qwen2", 2)
    shutil.copytree(made.model_place, tmp_path / "words")
    (tmp_path / "words" / "chat_template.jinja").write_text(MARKED)
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "words")
    dataset = datasets.Dataset.from_list([{"messages": row["messages"]} for row in rows])
    other = theirs(made, dataset, tmp_path, 2, processing_class=words, config={"assistant_only_loss": True})
    compare(mine, other)


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_pictures_are_trained_as_by_trl(ours: Any, tmp_path: Path, kind: str) -> None:
    import datasets

    # One micro-batch a step: for these models TRL hands no count of the step's tokens to its loss, so with accumulation
    # it takes a mean of means, which ours does not (tests/training/test_exact.py).
    rows = image_rows(STEPS * SAMPLES)
    made, mine = ours(rows, kind, 1)
    encoder = Encoder(made.model_place)

    def collate(examples: list[dict]) -> dict[str, torch.Tensor]:
        samples = [encoder.sample(*messages_of(rows[e["number"]], Path())) for e in examples]
        width = max(len(s.ids) for s in samples)
        ids, labels = torch.zeros(len(samples), width).long(), torch.full((len(samples), width), -100)
        mask = torch.zeros_like(ids)
        pixels, grids = [], []
        for n, sample in enumerate(samples):
            own = torch.tensor(list(sample.ids))
            ids[n, : len(own)], mask[n, : len(own)] = own, 1
            for start, end in sample.spans:
                labels[n, start:end] = own[start:end]
            for picture in sample.pictures:
                patches, grid = encoder.pixels(picture.read())
                pixels.append(patches)
                grids.append([1, *grid])
        return {
            "input_ids": ids, "attention_mask": mask, "labels": labels, "pixel_values": torch.cat(pixels),
            "image_grid_thw": torch.tensor(grids), "mm_token_type_ids": (ids == encoder.image_token).int(),
        }  # fmt: skip

    dataset = datasets.Dataset.from_list([{"number": n, "input_ids": [1], "labels": [1]} for n in range(len(rows))])
    more = {"dataset_kwargs": {"skip_prepare_dataset": True}, "remove_unused_columns": False}
    other = theirs(made, dataset, tmp_path, 1, processing_class=encoder.tokenizer, data_collator=collate, config=more)
    compare(mine, other)
