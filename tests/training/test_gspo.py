"""The RL trainer: what a step learns from, that no split or interruption changes it, and that rewards rise."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from schemas.errors import RecipeError, WinnowError
from tests.training.conftest import PICTURE, furthest, lines, picture, same, weights
from training import groups
from training.gspo import objective_of, train
from training.losses import ALGORITHMS
from training.recipe import GspoPlan, load_gspo_recipe

ROOT = Path(__file__).parents[2]
HERE = "tests.training.functions"
LETTERS = {"format": "none", "functions": [{"path": f"{HERE}:small_letters"}], "workers": 1}
DIGITS = {"format": "none", "functions": [{"path": f"{HERE}:by_digit"}], "workers": 1}
Make = Callable[..., GspoPlan]


def asked(count: int, pictures: bool = False, **columns: Any) -> list[dict[str, Any]]:
    """Questions of two sources, as the layout `rl` has them."""
    rows = []
    for n in range(count):
        seen = pictures and n % 2 == 0
        parts = [{"type": "image", "text": None}] * seen + [{"type": "text", "text": f"What is {n}?" * (1 + n % 3)}]
        rows.append({
            "prompt": [{"role": "user", "content": parts}],
            "images": [{"bytes": picture(n), "path": None}] if seen else [],
            "reward_model": {"ground_truth": str(n)}, "row_id": f"row{n:03d}", "source": "even" if n % 2 == 0 else "odd",
            **{name: values[n] for name, values in columns.items()},
        })  # fmt: skip
    return rows


def write_questions(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = pa.struct([("type", pa.string()), ("text", pa.string())])
    turns = pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(part))]))
    known = {"prompt": turns, "images": pa.list_(PICTURE), "pass_rate": pa.float64()}
    gold = pa.struct([("ground_truth", pa.string())])
    known["reward_model"] = gold
    fields = [(name, known.get(name, pa.string())) for name in rows[0]]
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(fields)), path)
    return path


def plan_in(folder: Path, models: Callable[[str], Path]) -> Make:
    def make(rows: list[dict[str, Any]], kind: str = "qwen2", name: str = "run", **changes: Any) -> GspoPlan:
        data = write_questions(folder / f"{name}.parquet", rows)
        recipe: dict[str, Any] = {
            "name": name, "model": {"path": str(models(kind))}, "data": [{"parquet": data.name}],
            "rollout": {"prompts": 4, "n": 4, "max_new_tokens": 8, "at_once": 2, "truncated": "penalise"},
            "reward": DIGITS, "optimizer": {"lr": 1e-3, "warmup": 0}, "updates": 2, "steps": 3, "log": {"to": []},
        }  # fmt: skip
        for key, value in changes.items():
            known = recipe.get(key)
            recipe[key] = {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value
        place = folder / f"{name}.yaml"
        place.write_text(yaml.safe_dump(recipe, sort_keys=False))
        return load_gspo_recipe(place, workspace=folder / ".winnow")

    return make


@pytest.fixture
def plan(tmp_path: Path, models: Callable[[str], Path]) -> Make:
    return plan_in(tmp_path, models)


@pytest.fixture
def space(tmp_path: Path) -> Path:
    return tmp_path / ".winnow"


def steps_of(folder: Path) -> list[dict[str, Any]]:
    return [line for line in lines(folder / "metrics.jsonl") if "loss" in line]


def rollouts_of(folder: Path, step: int) -> list[dict[str, Any]]:
    return list(pq.read_table(groups.place_of(folder, step)).to_pylist())


# ------------------------------------------------------------------------------------------------------ what is learned


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_reward_rises(plan: Make, space: Path, algorithm: str) -> None:
    """One question whose best answers are known: small letters only."""
    done = train(
        plan(asked(1), algorithm=algorithm, reward=LETTERS, rollout={"prompts": 1, "n": 32, "max_new_tokens": 6},
             loss={"clip_low": 0.2, "clip_high": 0.2, "scale": "group"}, optimizer={"lr": 1e-2}, updates=1, steps=40),
        workspace=space, quiet=True,
    )  # fmt: skip
    rewards = [line["reward"] for line in steps_of(done.folder)]
    assert sum(rewards[:3]) / 3 < 0.2 and sum(rewards[-3:]) / 3 > 0.8, rewards


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_a_constant_reward_teaches_nothing_at_all(plan: Make, space: Path, scale: str) -> None:
    reward = {"format": "none", "functions": [{"path": f"{HERE}:always_one"}], "workers": 1}
    made = plan(asked(8), reward=reward, loss={"scale": scale}, save={"dtype": "float32"})
    done = train(made, workspace=space, quiet=True)
    assert [line["grad_norm"] for line in steps_of(done.folder)] == [0.0, 0.0, 0.0]
    assert same(weights(done.checkpoint), weights(Path(made.recipe.model.path)))
    assert all(
        line["groups"] == {"signal": 0, "format": 0, "equal": 4, "unscored": 0} for line in steps_of(done.folder)
    )


def test_the_first_update_of_a_step_is_on_policy_and_the_later_ones_are_not(plan: Make, space: Path) -> None:
    done = train(plan(asked(8), updates=2, steps=1, rollout={"n": 8}), workspace=space, quiet=True)
    first, second = ([r for r in rollouts_of(done.folder, 1) if r["group"] in part] for part in ((0, 1), (2, 3)))
    assert {row["ratio"] for row in first} == {1.0} and {row["clipped"] for row in first} == {0.0}
    assert all(row["ratio"] != 1.0 for row in second) and any(row["clipped"] > 0 for row in second)
    once = train(plan(asked(8), name="once", updates=1), workspace=space, quiet=True)
    assert all(line["clipped"] == 0 for line in steps_of(once.folder))


def test_what_cannot_be_judged_is_neither_paid_nor_learned_from(plan: Make, space: Path) -> None:
    reward = {"format": "none", "functions": [{"path": f"{HERE}:not_of_one"}], "workers": 1}
    done = train(plan(asked(4), steps=1, updates=1, reward=reward), workspace=space, quiet=True)
    table = rollouts_of(done.folder, 1)
    bad = [row for row in table if row["row_id"] == "row001"]
    assert {row["problem"] for row in bad} == {f"{HERE}:not_of_one: no value"}
    assert {row["kind"] for row in bad} == {"unscored"} and len(bad) == 4
    assert not any(row["used"] or row["reward"] is not None or row["advantage"] for row in bad)
    (line,) = steps_of(done.folder)
    assert line["groups"]["unscored"] == 1 and line["used"] == pytest.approx(0.75)
    assert line["reward"] == pytest.approx(sum(r["reward"] for r in table if r["used"]) / 12)
    assert set(line["by_source"]) == {"even", "odd"} and line["by_source"]["odd"]["reward"] > 0


@pytest.mark.parametrize(("policy", "used"), [("mask", False), ("penalise", True)])
def test_answers_that_were_cut_off(plan: Make, space: Path, policy: str, used: bool) -> None:
    made = plan(asked(4), steps=1, updates=1, rollout={"truncated": policy, "max_new_tokens": 4})
    table = rollouts_of(train(made, workspace=space, quiet=True).folder, 1)
    cut = [row for row in table if not row["finished"]]
    assert len(cut) > 8 and {row["state"] for row in cut} == {"truncated"}
    assert {row["used"] for row in cut} == {used} and {row["reward"] is not None for row in cut} == {used}


def test_groups_that_teach_nothing_are_made_up_for_in_bounded_rounds(plan: Make, space: Path) -> None:
    """With a constant reward no question ever helps: the bound ends the asking, and everything asked is on disk."""
    reward = {"format": "none", "functions": [{"path": f"{HERE}:always_one"}], "workers": 1}
    rollout = {"zero_variance": "resample", "max_rounds": 3}
    done = train(plan(asked(30), reward=reward, rollout=rollout, steps=2), workspace=space, quiet=True)
    for step, line in enumerate(steps_of(done.folder), 1):
        assert (line["rounds"], line["answers"], line["position"]) == (3, 48, 12 * step)
        assert (line["used"], line["loss"], line["grad_norm"], line["updates"]) == (0, 0, 0, 0)
        assert len({row["row_id"] for row in rollouts_of(done.folder, step)}) == 12
    good = train(plan(asked(30), name="good", rollout=rollout, steps=1), workspace=space, quiet=True)
    assert steps_of(good.folder)[0]["rounds"] == 1 and steps_of(good.folder)[0]["used"] == 1


def test_zero_variance_groups_count_in_the_mean_or_not(plan: Make, space: Path) -> None:
    """`skip` leaves equal groups out of the denominator: the gradient grows by groups / groups that teach."""
    rows, norms = asked(4), {}
    for how in ("keep", "skip"):
        made = plan(
            rows, name=how, rollout={"zero_variance": how, "max_new_tokens": 2}, updates=1, steps=1,
            reward={"format": "none", "functions": [{"path": f"{HERE}:small_letters"}], "workers": 1},
        )  # fmt: skip
        (line,) = steps_of(train(made, workspace=space, quiet=True).folder)
        norms[how] = (line["grad_norm"], line["groups"]["equal"])
    equal = norms["keep"][1]
    assert 0 < equal < 4
    assert norms["skip"][0] == pytest.approx(norms["keep"][0] * 4 / (4 - equal), rel=1e-4)


def test_kl_holds_to_the_model_of_the_beginning(plan: Make, space: Path) -> None:
    drift = {}
    for kl in (0.0, 10.0):
        made = plan(asked(8), name=f"kl{kl:.0f}", loss={"kl": kl}, steps=6, save={"dtype": "float32"})
        done = train(made, workspace=space, quiet=True)
        drift[kl] = furthest(weights(done.checkpoint), weights(Path(made.recipe.model.path)))
        first, last = steps_of(done.folder)[0], steps_of(done.folder)[-1]
        assert ("kl" in first) == (kl > 0)
        if kl:
            assert 0 <= first["kl"] < last["kl"]
    assert drift[10.0] < drift[0.0]


# ------------------------------------------------------------------------------------------------- which questions, when


def test_curriculum_orders_and_bounds_questions(plan: Make, space: Path) -> None:
    rows = asked(9, pass_rate=[n / 8 for n in range(9)])
    made = plan(
        rows, rollout={"prompts": 2, "n": 2}, steps=3, updates=1, curriculum={"order": "descending", "band": [0.125, 0.875]}
    )  # fmt: skip
    done = train(made, workspace=space, quiet=True)
    order = [row["row_id"] for step in (1, 2, 3) for row in rollouts_of(done.folder, step) if row["k"] == 0]
    assert order == [f"row{n:03d}" for n in range(7, 1, -1)]
    assert json.loads((done.folder / "manifest.json").read_text())["counts"]["left_out"] == {"outside_band": 2}
    with pytest.raises(WinnowError, match="needs pass rates, and row row000"):
        train(plan(asked(4), name="none", curriculum={"order": "ascending"}), workspace=space, quiet=True)


def test_every_question_comes_once_in_an_epoch(plan: Make, space: Path) -> None:
    done = train(plan(asked(6), rollout={"prompts": 3, "n": 2}, steps=4, updates=1), workspace=space, quiet=True)
    order = [row["row_id"] for step in (1, 2, 3, 4) for row in rollouts_of(done.folder, step) if row["k"] == 0]
    assert len(set(order[:6])) == len(set(order[6:])) == 6 and order[:6] != order[6:]


def test_what_cannot_be_asked_is_left_out_and_told(plan: Make, space: Path) -> None:
    rows = asked(6, pictures=True)
    rows[3]["prompt"][0]["content"][0]["text"] = "far too long " * 40
    rows[4]["images"] = [{"bytes": b"no picture", "path": None}]
    made = plan(rows, "qwen2_5_vl", rollout={"prompts": 4, "max_prompt_tokens": 200}, steps=2)
    done = train(made, workspace=space, quiet=True)
    assert done.left_out == {"image_broken": 1, "overlong": 1}
    told = {line["row_id"]: line["sentence"] for line in lines(done.folder / "ledger.jsonl")}
    assert "max_prompt_tokens is 200" in told["row003"] and "picture" in told["row004"]
    seen = {row["row_id"] for step in (1, 2) for row in rollouts_of(done.folder, step)}
    assert seen == {"row000", "row001", "row002", "row005"}
    with pytest.raises(WinnowError, match="No question can be asked"):
        train(plan(asked(3), name="none", rollout={"max_prompt_tokens": 5}), workspace=space, quiet=True)


# ------------------------------------------------------------------------------------------- splits, processes, deaths


@pytest.mark.parametrize("kind", ["qwen2", "qwen2_5_vl", "qwen3_vl"])
def test_passes_change_nothing(plan: Make, space: Path, kind: str) -> None:
    """One pass over all answers of an update, or a pass for each."""
    rows = asked(8, pictures=kind != "qwen2")
    found = []
    for size in (100_000, 8):
        made = plan(rows, kind, f"max{size}", batch={"max_tokens": size}, steps=2, save={"dtype": "float32"})
        found.append(train(made, workspace=space, quiet=True))
    assert furthest(*(weights(one.checkpoint) for one in found)) < 2e-5
    assert [row["text"] for row in rollouts_of(found[0].folder, 1)] == [row["text"] for row in rollouts_of(found[1].folder, 1)]  # fmt: skip


def test_a_run_goes_on_bit_for_bit(plan: Make, space: Path) -> None:
    """Six steps at once, or two and four: with the answers that were kept, and with answers drawn anew."""
    options: dict[str, Any] = {"steps": 6, "save": {"every": 2, "keep": 9, "dtype": "float32"}}
    done = train(plan(asked(12), **options), workspace=space, quiet=True)
    whole, said = weights(done.checkpoint), steps_of(done.folder)
    for kept in (True, False):
        for step in (4, 6):
            shutil.rmtree(done.folder / "checkpoints" / f"step-{step:06d}")
        if not kept:
            for step in (3, 4, 5, 6):
                groups.place_of(done.folder, step).unlink()
        began = time.time()
        again = train(plan(asked(12), **options), workspace=space, quiet=True)
        assert same(weights(again.checkpoint), whole)
        told = steps_of(again.folder)
        for key in ("loss", "reward", "grad_norm", "position", "ratios"):
            assert [line[key] for line in told] == [line[key] for line in said]
        drawn_anew = json.loads((again.folder / "manifest.json").read_text())["state"] == "finished"
        assert drawn_anew and all(groups.place_of(done.folder, step).stat().st_mtime >= began for step in (3, 4, 5, 6))


@pytest.mark.faults
def test_a_killed_run_ends_as_if_it_had_not_been(plan: Make, space: Path) -> None:
    changes: dict[str, Any] = {"steps": 30, "save": {"every": 4, "dtype": "float32"}}
    whole = train(plan(asked(20), name="whole", **changes), workspace=space, quiet=True)
    killed = plan(asked(20), name="killed", **changes)
    folder = space / "runs" / "killed"
    command = [sys.executable, "-m", "training.gspo", str(killed.path), "-w", str(space)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for moment in range(3):
        began, before = time.monotonic(), len(list(folder.glob("checkpoints/step-*")))
        started = subprocess.Popen(
            command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True, env=environment
        )
        while time.monotonic() - began < 120 and len(steps_of(folder) if (folder / "metrics.jsonl").exists() else []) < 5 * (moment + 1):  # fmt: skip
            time.sleep(0.02)
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
        assert len(list(folder.glob("checkpoints/step-*"))) >= before
    assert not (folder / "checkpoints" / "step-000030").exists(), "it was too fast to be killed"
    again = train(killed, workspace=space, quiet=True)
    assert same(weights(whole.checkpoint), weights(again.checkpoint))
    assert [line["reward"] for line in steps_of(whole.folder)] == [line["reward"] for line in steps_of(again.folder)]
    assert len(list((again.folder / "rollouts").iterdir())) == 30


RUN_ALL = """
import sys
from training.recipe import load_gspo_recipe
from training import gspo
from training.processes import leave
import torch
torch.set_num_threads(1)
for path in sys.argv[2:]:
    gspo.train(load_gspo_recipe(path, workspace=sys.argv[1]), workspace=sys.argv[1], quiet=True)
leave()
"""
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gspo": ("qwen2", {}),
    "dapo": ("qwen2_5_vl", {"algorithm": "dapo", "loss": {"kl": 0.1}, "batch": {"max_tokens": 60}}),
    "odd": ("qwen2", {"rollout": {"prompts": 3, "n": 3, "at_once": 1}, "updates": 3}),  # fewer packs than processes
}


def case(name: str, make: Make, run: str) -> GspoPlan:
    kind, changes = CASES[name]
    return make(asked(9, pictures=kind != "qwen2"), kind, run, steps=2, save={"dtype": "float32"}, **changes)


def test_two_processes_with_fsdp_learn_as_one(tmp_path: Path, space: Path, models: Callable[[str], Path]) -> None:
    """Sampling, rewards and updates are shared; results are judged, not the exit code: gloo aborts now and then."""
    make = plan_in(tmp_path, models)
    script = tmp_path / "run_all.py"
    script.write_text(RUN_ALL)
    paths = [str(case(name, make, f"two-{name}").path) for name in CASES]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(_port())]
    done = subprocess.run(
        [*command, str(script), str(space), *paths], cwd=ROOT, capture_output=True, text=True, timeout=400,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    for name in CASES:
        one = train(case(name, make, name), workspace=space, quiet=True)
        two = space / "runs" / f"two-{name}"
        assert (two / "report.html").exists(), done.stderr[-4000:]
        assert [r["text"] for r in rollouts_of(one.folder, 2)] == [r["text"] for r in rollouts_of(two, 2)]
        assert furthest(weights(one.checkpoint), weights(two / "checkpoints" / one.checkpoint.name)) < 2e-5
        for a, b in zip(steps_of(one.folder), steps_of(two), strict=True):
            assert a["loss"] == pytest.approx(b["loss"], abs=1e-5) and a["ratios"] == b["ratios"]
            assert a["grad_norm"] == pytest.approx(b["grad_norm"], abs=1e-4)
            assert a["entropy"] == pytest.approx(b["entropy"], abs=1e-5)


def _port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_answers_drawn_ahead_are_of_the_weights_before(plan: Make, space: Path) -> None:
    options: dict[str, Any] = {"steps": 3, "optimizer": {"lr": 1e-2, "warmup": 0}}
    now = train(plan(asked(12), name="now", **options), workspace=space, quiet=True)
    ahead = train(
        plan(asked(12), name="ahead", rollout={"ahead": True}, loss={"importance_cap": 2.0}, **options),
        workspace=space, quiet=True,
    )  # fmt: skip
    off = [[line["mismatch"] for line in steps_of(run.folder)] for run in (now, ahead)]
    assert max(off[0]) < 1e-5 and off[1][0] < 1e-5 and min(off[1][1:]) > 1e-3
    assert [r["ids"] for r in rollouts_of(now.folder, 1)] == [r["ids"] for r in rollouts_of(ahead.folder, 1)]
    with pytest.raises(RecipeError, match=r"set loss\.importance_cap"):
        plan(asked(2), name="uncorrected", rollout={"ahead": True})


# ------------------------------------------------------------------------------------------------- as a person meets it


def test_a_run_begins_where_another_ended(plan: Make, space: Path) -> None:
    train(plan(asked(4), name="first", steps=1), workspace=space, quiet=True)
    made = plan(asked(4), name="second", steps=1, model={"path": "run:first"})
    assert made.model_place == str(space / "runs" / "first" / "checkpoints" / "step-000001")
    assert train(made, workspace=space, quiet=True).step == 1
    with pytest.raises(RecipeError, match="no checkpoint of a run nowhere"):
        plan(asked(4), name="third", model={"path": "run:nowhere"})


def test_another_recipe_under_the_same_name_is_refused(plan: Make, space: Path) -> None:
    train(plan(asked(4), steps=1), workspace=space, quiet=True)
    with pytest.raises(WinnowError, match=r"rollout\.temperature: None -> 0\.5"):
        train(plan(asked(4), steps=1, rollout={"temperature": 0.5}), workspace=space, quiet=True)


def test_the_command(plan: Make, space: Path) -> None:
    made = plan(asked(6), evaluation={"data": {"parquet": "run.parquet"}, "every": 2, "limit": 3, "max_new_tokens": 4})
    words = [sys.executable, "-m", "curation.cli", "train", "gspo", str(made.path), "--workspace", str(space)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def say(*more: str) -> str:
        done = subprocess.run([*words, *more], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "nothing is wrong" in say("--check")
    told = json.loads(say("--json"))
    assert told["step"] == 3 and set(told["evaluation"]) >= {"accuracy", "finished"}
    asked_at = [line["step"] for line in lines(Path(told["folder"]) / "metrics.jsonl") if "evaluation" in line]
    assert asked_at == [0, 2, 3]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"updates": 9}, "9 updates cannot share 4 prompts"),
        ({"loss": {"aggregation": "token_mean"}}, "goes with `aggregation: seq_mean` only"),
        ({"rollout": {"n": 1}}, "`n` should be at least 2"),
        ({"algorithm": "ppo"}, "`algorithm`"),
    ],
)
def test_recipes_that_make_no_sense(plan: Make, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        plan(asked(2), **changes)


@pytest.mark.parametrize("name", ["tiny_gspo", "openmmreasoner_gspo", "openmmreasoner_grpo", "openmmreasoner_dapo"])
def test_shipped_recipes_are_valid(name: str) -> None:
    load_gspo_recipe(ROOT / "recipes" / f"train_{name}.yaml", check_world=False)


def test_the_paper_run_is_the_papers() -> None:
    recipe = load_gspo_recipe(ROOT / "recipes" / "train_openmmreasoner_gspo.yaml", check_world=False).recipe
    asked = recipe.rollout
    assert (asked.prompts, asked.n, asked.temperature, asked.max_prompt_tokens, asked.max_new_tokens) == (
        128, 16, 1.0, 4096, 28_696,
    )  # fmt: skip
    objective, chosen = objective_of(recipe), recipe.optimizer
    assert (objective.ratio, objective.aggregation, objective.clip_low, objective.clip_high) == (
        "sequence", "seq_mean", 3e-4, 4e-4,
    )  # fmt: skip
    assert (chosen.lr, chosen.schedule, chosen.warmup, chosen.weight_decay, chosen.clip) == (
        1e-6,
        "constant",
        25,
        0.1,
        1.0,
    )
    assert (recipe.steps, recipe.reward.format_weight, recipe.loss.kl, recipe.loss.scale) == (1232, 0.1, 0.0, "group")
