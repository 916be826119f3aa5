"""SFT: tokens per CPU second against TRL's SFTTrainer, in the same process on one thread, and how full packs are.

A Qwen2 of 0.6 million weights. Tokens are real ones: padding is work, not output. The first step of each run warms up
and is not counted. TRL pads batches of 8, or packs (`packing=True`, whose samples see each other on a CPU: it warns).

    python tests/benchmarks/bench_sft.py [repetitions]
"""

import math
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
warnings.filterwarnings("ignore")

import json  # noqa: E402

import datasets  # noqa: E402
import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
import trl  # noqa: E402
import yaml  # noqa: E402

from schemas.training import ModelChoice  # noqa: E402
from training import sft, tiny  # noqa: E402
from training.models import load_model  # noqa: E402
from training.packing import Order, Packer, Shape  # noqa: E402
from training.recipe import load_sft_recipe  # noqa: E402
from training.tokens import load_tokenizer  # noqa: E402

torch.set_num_threads(1)
datasets.disable_progress_bars()
CAP, BATCH = 2048, 8


def skewed(count: int, largest: int, mean: float = 675, median: float = 180) -> np.ndarray:
    """Log-normal lengths; by default those measured on OpenMMReasoner's SFT set."""
    sigma = math.sqrt(2 * math.log(mean / median))
    drawn = np.exp(np.random.default_rng(0).normal(math.log(median), sigma, count)).astype(int) + 1
    return drawn[drawn <= largest]


def rows_of(lengths: np.ndarray) -> list[dict]:
    """One conversation for each length, in tokens; nearly all of it is the answer."""
    made = []
    for n in lengths:
        said = "".join(chr(97 + i % 26) for i in range(max(1, int(n) - 30)))
        made.append([{"role": "user", "content": "Go."}, {"role": "assistant", "content": said}])
    return [{"messages": one} for one in made]


def ours(folder: Path, model: Path, rows: list[dict], steps: int, *, packing: bool) -> tuple[float, int]:
    """(CPU seconds, tokens) of all steps but the first."""
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    batch = {"max_tokens": CAP, "packs": 1, "packing": packing, "samples": BATCH, "workers": 0}
    recipe = {
        "name": "bench", "model": {"path": str(model)}, "data": [{"parquet": "rows.parquet"}], "steps": steps,
        "batch": batch, "optimizer": {"lr": 1e-4}, "log": {"to": []}, "save": {"every": 10_000},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    marks: list[float] = []
    rate = sft.learning_rate

    def marked(*arguments):
        marks.append(time.process_time())
        return rate(*arguments)

    sft.learning_rate = marked
    try:
        plan = load_sft_recipe(folder / "recipe.yaml", workspace=folder / "w")
        run = sft.train(plan, workspace=folder / "w", fresh=True, quiet=True)
    finally:
        sft.learning_rate = rate
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return marks[-1] - marks[0], sum(line["tokens"] for line in lines[1:])


def theirs(folder: Path, model: Path, rows: list[dict], steps: int, *, packing: bool) -> tuple[float, int]:
    marks: list[tuple[float, float]] = []

    class Watch(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **more):
            marks.append((time.process_time(), trainer._total_train_tokens))

    learner = load_model(str(model), ModelChoice(path=str(model), attention="sdpa"), seed=0, device="cpu")
    config = trl.SFTConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=1 if packing else BATCH, max_steps=steps,
        learning_rate=1e-4, save_strategy="no", report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False,
        max_length=CAP, packing=packing, disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    words = load_tokenizer(str(model))
    trainer = trl.SFTTrainer(
        model=learner, args=config, train_dataset=datasets.Dataset.from_list(rows), processing_class=words,
        callbacks=[Watch()],
    )  # fmt: skip
    trainer.train()
    return marks[-1][0] - marks[0][0], int(marks[-1][1] - marks[0][1])


def race(name: str, folder: Path, model: Path, rows: list[dict], repeats: int, runs: dict) -> None:
    speeds: dict[str, list[float]] = {label: [] for label in runs}
    for _ in range(repeats):
        for label, (trainer, steps, packing) in runs.items():
            seconds, tokens = trainer(folder, model, rows, steps, packing=packing)
            speeds[label].append(tokens / seconds)
    print(f"\n{name}")
    base = statistics.median(speeds["TRL, padded"])
    for label, found in speeds.items():
        middle = statistics.median(found)
        print(
            f"  {label:<16} {middle:>9,.0f} tokens/s   {middle / base:>5.2f}x   (of {', '.join(f'{s:,.0f}' for s in found)})"
        )


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    for largest in (8192, 61_440):
        lengths = skewed(200_000, largest)
        began = time.process_time()
        packs = list(
            Packer(
                Order(len(lengths), seed=0, shuffle=True, epochs=1),
                lambda n, lengths=lengths: Shape(int(lengths[n]), 1, 0),
                max_tokens=largest,
            )
        )
        took = (time.process_time() - began) / len(lengths)
        full = lengths.sum() / (len(packs) * largest)
        print(
            f"packing at {largest:>6,}: {100 * full:.2f} % full, {took * 1e6:.0f} microseconds per sample, mean {lengths.mean():.0f}"
        )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = tiny.make(folder / "model", weights=0, hidden=128)
        even = rows_of(np.random.default_rng(1).integers(200, 256, 400))
        race("even lengths, 200 to 256 tokens", folder, model, even, repeats, {
            "TRL, padded": (theirs, 12, False), "ours, padded": (ours, 12, False), "ours, packed": (ours, 12, True),
        })  # fmt: skip
        uneven = rows_of(skewed(900, CAP, mean=340, median=90))
        race("skewed lengths, half below 90, the longest 2,048 tokens", folder, model, uneven, repeats, {
            "TRL, padded": (theirs, 12, False), "TRL, packed": (theirs, 12, True),
            "ours, padded": (ours, 12, False), "ours, packed": (ours, 16, True),
        })  # fmt: skip


if __name__ == "__main__":
    main()
