"""RL: CPU time of a step with the same answers, against TRL's GRPOTrainer, and rewards of real responses.

    python tests/benchmarks/bench_gspo.py [repetitions] [rewards]

Both are handed the same answers and take the same updates (GSPO, 4 per rollout batch), on one thread; drawing is no part of it.
Ours reads the answers from its own files and writes them back with their figures, which is part of it. The first rollout
batch warms up and is not counted. Responses are those of ../shared/data where it is, else of recipes/data.
"""

import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
warnings.filterwarnings("ignore")

import datasets  # noqa: E402
import numpy as np  # noqa: E402
import polars as pl  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import torch  # noqa: E402
import trl  # noqa: E402
import yaml  # noqa: E402

from schemas.training import ModelChoice, Reward  # noqa: E402
from training import groups, gspo, tiny  # noqa: E402
from training.groups import Collected, Rollout  # noqa: E402
from training.models import load_model  # noqa: E402
from training.prompts import open_prompts  # noqa: E402
from training.recipe import load_gspo_recipe  # noqa: E402
from training.rewards import Answered, Rewarder, Scored  # noqa: E402
from training.rollouts import Drawn  # noqa: E402
from training.sources import open_data  # noqa: E402
from training.tokens import Encoder, load_tokenizer  # noqa: E402

torch.set_num_threads(1)
datasets.disable_progress_bars()
PROMPTS, N, STEPS, UPDATES, LONGEST = 16, 8, 4, 4, 512


def questions(folder: Path) -> list[dict]:
    rows = [
        {"prompt": [{"role": "user", "content": f"What is {n} and {n}?"}], "answer": str(n), "row_id": f"r{n:03d}", "source": "s"}
        for n in range(PROMPTS * STEPS)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    return rows


def answers(lengths: np.ndarray) -> list[list[int]]:
    draw = np.random.default_rng(1)
    return [draw.integers(0, 256, n).tolist() for n in lengths]


def ours(folder: Path, model: Path, rows: list[dict], said: list[list[int]], paid: np.ndarray) -> float:
    """CPU seconds of all steps but the first."""
    recipe = {
        "name": "bench", "model": {"path": str(model)}, "data": [{"parquet": "rows.parquet"}], "steps": STEPS,
        "rollout": {"prompts": PROMPTS, "n": N, "max_new_tokens": LONGEST}, "updates": UPDATES, "batch": {"max_tokens": 4096},
        "optimizer": {"lr": 1e-5}, "log": {"to": []}, "save": {"every": 10_000}, "reward": {"workers": 1},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    plan = load_gspo_recipe(folder / "recipe.yaml", workspace=folder / "w")
    run = folder / "w" / "runs" / "bench"
    encoder = Encoder(str(model))
    data = [open_data(one, plan.folder, folder / "w") for one in plan.recipe.data]
    prompts, _ = open_prompts(data, plan.recipe.curriculum, plan.recipe.seed)
    for step in range(STEPS):
        made = []
        for group in range(PROMPTS):
            number = prompts.at(step * PROMPTS + group)
            question = prompts.questions[number]
            sample = encoder.prompt(question.messages, question.pictures)
            for k in range(N):
                at = (step * PROMPTS + group) * N + k
                ids = said[at]
                worth = Scored("correct" if paid[at] else "incorrect", float(paid[at]), 1.0, 0.0, {}, float(paid[at]))
                made.append(Rollout(group, number, question, sample, Drawn(ids, [-5.0] * len(ids), True), "", worth))
        gspo.weigh(plan.recipe, made)
        groups.write(run, Collected(step + 1, (step + 1) * PROMPTS, 1, made))
    marks: list[float] = []
    rate = gspo.learning_rate

    def marked(*arguments):
        marks.append(time.process_time())
        return rate(*arguments)

    gspo.learning_rate = marked
    try:
        gspo.train(plan, workspace=folder / "w", quiet=True)
    finally:
        gspo.learning_rate = rate
    for what in ("checkpoints", "rollouts", "metrics.jsonl"):
        os.system(f"rm -rf {run / what}")
    return marks[-1] - marks[0]


def theirs(folder: Path, model: Path, rows: list[dict], said: list[list[int]], paid: np.ndarray) -> float:
    marks: list[float] = []
    order: list[int] = []
    words = load_tokenizer(str(model))

    def rollout(prompts, trainer):
        marks.append(time.process_time())
        first = (len(marks) - 1) * PROMPTS * N
        order[:] = range(first, first + len(prompts))
        ids = [words(words.apply_chat_template(p, tokenize=False, add_generation_prompt=True), add_special_tokens=False)["input_ids"] for p in prompts]  # fmt: skip
        return {"prompt_ids": ids, "completion_ids": [said[n] for n in order], "logprobs": [[-5.0] * len(said[n]) for n in order]}  # fmt: skip

    def worth(completions, **more):
        return [float(paid[n]) for n in order]

    learner = load_model(str(model), ModelChoice(path=str(model), attention="sdpa"), seed=0, device="cpu")
    config = trl.GRPOConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=PROMPTS * N // UPDATES, steps_per_generation=UPDATES,
        gradient_accumulation_steps=1, num_generations=N, max_completion_length=LONGEST, max_steps=STEPS * UPDATES,
        importance_sampling_level="sequence", loss_type="grpo", epsilon=3e-4, epsilon_high=4e-4, beta=0.0, learning_rate=1e-5,
        save_strategy="no", report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True,
        logging_strategy="no",
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=learner, args=config, reward_funcs=worth, rollout_func=rollout, processing_class=words,
        train_dataset=datasets.Dataset.from_list([{"prompt": row["prompt"]} for row in rows]),
    )  # fmt: skip
    trainer.train()
    return time.process_time() - marks[1]


def responses() -> list[Answered]:
    place = ROOT.parent / "shared" / "data" / "rollouts" / "gsm8k_test.parquet"
    if place.exists():
        table = pl.read_parquet(place).sample(2048, seed=0).to_dicts()
        return [Answered(r["response"], 100, True, r["answer"], question=r["question"]) for r in table]
    golds = {row["id"]: row["answer"] for row in pl.read_parquet(ROOT / "recipes/data/math.parquet").to_dicts()}
    table = pl.read_parquet(ROOT / "recipes/data/math_x8.parquet").to_dicts()
    return [Answered(r["response"], 100, True, golds[r["id"]]) for r in table if golds.get(r["id"])]


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    asked = responses()
    other = [Answered("2w+50/w=25", 10, True, "w(12.5-w)=25")] * 64  # a hard one: starts all processes
    first, again = [], []
    for _ in range(repeats):
        rewarder = Rewarder(Reward(workers=2), longest=1000)
        rewarder(other)
        for times in (first, again):
            began = time.perf_counter()
            scored = rewarder(asked)
            times.append(time.perf_counter() - began)
        rewarder.close()
    right = sum(one.accuracy == 1.0 for one in scored)
    print(
        f"rewards of {len(asked):,} responses by two workers: {statistics.median(first):.2f} s, and {statistics.median(again):.2f} s "
        f"where they were met before; {right:,} of them right"
    )
    if "rewards" in sys.argv[1:]:
        return
    draw = np.random.default_rng(0)
    count = PROMPTS * N * STEPS
    paid = draw.integers(0, 2, count)
    for name, lengths in (
        ("even lengths, 100 to 128 tokens", draw.integers(100, 129, count)),
        ("skewed lengths, half below 60, the longest 512", np.minimum(draw.lognormal(np.log(60), 1.0, count), LONGEST).astype(int) + 1),
    ):  # fmt: skip
        said = answers(lengths)
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            model = tiny.make(folder / "model", weights=0, hidden=128)
            rows = questions(folder)
            found = {label: [] for label in ("TRL", "ours")}
            for _ in range(repeats):
                found["TRL"].append(theirs(folder, model, rows, said, paid))
                found["ours"].append(ours(folder, model, rows, said, paid))
        middle = {label: statistics.median(times) for label, times in found.items()}
        print(f"{name}: " + ", ".join(f"{label} {middle[label] / (STEPS - 1):.2f} CPU s a step" for label in middle)
              + f", ours takes {middle['ours'] / middle['TRL']:.2f}x (of {json.dumps({k: [round(t, 2) for t in v] for k, v in found.items()})})")  # fmt: skip


if __name__ == "__main__":
    main()
