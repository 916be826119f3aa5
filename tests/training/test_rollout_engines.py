"""vLLM engines of rollouts, in this process and behind HTTP: they follow the policy, survive, and say when they do not.

The models are tiny, with heads of a size that vLLM's CPU build knows.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.errors import WinnowError
from tests.training.conftest import lines
from tests.training.test_gspo import ROOT, asked, plan_in
from tests.training.test_rollouts import Rig
from training import rollout_servers, tiny, weights
from training.heldout import banned_of

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """vLLM takes its cache's size and its manners from here, servers that we start too."""
    changed = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "VLLM_NO_USAGE_STATS": "1"}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in changed.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with eyes whose head is tied to its embeddings."""
    import transformers

    place = tiny.make(tmp_path_factory.mktemp("seeing"), "qwen2_5_vl", hidden=128)
    config = transformers.AutoConfig.from_pretrained(place)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    torch.manual_seed(7)
    transformers.Qwen2_5_VLForConditionalGeneration(config).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def served(seeing: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A policy with a real server of its own."""
    rig = Rig(seeing, tmp_path_factory.mktemp("run"), engine="vllm_server", n=6, patience=300)
    yield rig
    rig.engine.close()


def agree(rig: Rig, steps: int = 3) -> None:
    """Through some updates, the engine says of its answers what the trainer says."""
    prompts = rig.prompts(pictures=hasattr(rig.model.config, "vision_config"))
    assert rig.model.get_input_embeddings().weight is rig.model.get_output_embeddings().weight  # tied
    for step in range(steps):
        groups = rig.engine.sample(prompts, step)
        assert [len(group) for group in groups] == [6, 6, 6]
        assert rig.mismatch(prompts, groups) < 1e-3
        rig.learn(prompts, groups)
        stale = rig.mismatch(prompts, rig.engine.sample(prompts, 9))
        rig.engine.push()
        groups = rig.engine.sample(prompts, 9)
        assert rig.mismatch(prompts, groups) < 1e-3 < stale
    assert rig.engine.sample(prompts, 9) == groups != rig.engine.sample(prompts, 8)
    ends = rig.encoder.tokenizer.eos_token_id
    for one in (one for group in groups for one in group):
        assert len(one.ids) == len(one.logp) <= 12 and one.finished == (one.ids[-1] == ends)
        assert not set(one.ids) & set(banned_of(rig.model.config))


def test_a_server_follows_the_policy(served: Rig) -> None:
    agree(served)


def test_a_server_that_is_killed_while_it_draws_comes_back_with_the_weights_of_the_step(
    served: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No answer is missing, none is there twice, and none is of the model that the server began with."""
    prompts = served.prompts(4, pictures=True) * 6
    server = served.engine.servers[0]
    calls, asked, once, before = [], served.engine._answers, threading.Lock(), server.process.pid

    def watched(*given: Any) -> Any:
        with once:
            calls.append(server.process.pid)
            if len(calls) == 10:  # by now three others wait for their answers
                os.kill(before, signal.SIGKILL)
        return asked(*given)

    with monkeypatch.context() as patch:
        patch.setattr(rollout_servers, "AT_ONCE", 4)
        patch.setattr(served.engine, "_answers", watched)
        groups = served.engine.sample(prompts, 3)
    assert server.process.pid != before and len(calls) > 24
    assert [len(group) for group in groups] == [6] * 24
    assert served.mismatch(prompts, groups) < 1e-3
    ids = [[one.ids for one in group] for group in groups]
    assert ids == [[one.ids for one in group] for group in served.engine.sample(prompts, 3)]


def test_a_server_that_forgot_its_weights_is_given_them_before_it_counts(served: Rig) -> None:
    """Another may have started it anew between two steps, and it would answer as if nothing was."""
    server = served.engine.servers[0]
    server.post("/update_weight_version", {"new_version": "as at its start"})
    loads = server._loads
    prompts = served.prompts(3)
    assert served.mismatch(prompts, served.engine.sample(prompts, 5)) < 1e-3
    assert server._loads == loads + 1


def test_a_head_that_is_left_out_of_a_push_is_noticed(served: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server says that all is well; the numbers do not."""
    whole = weights.weights_of

    def headless(policy: Any) -> dict[str, torch.Tensor]:
        return {name: value for name, value in whole(policy).items() if name != "lm_head.weight"}

    kept = served.model.get_output_embeddings().weight.detach().clone()
    prompt = served.prompts(1)[0]
    with monkeypatch.context() as patch:
        patch.setattr(weights, "weights_of", headless)
        with pytest.raises(WinnowError, match=r"has not taken the new weights: .* changed as a test"):
            weights.prove(served.engine, served.policy, served.encoder, prompt, 0.05)
        assert torch.equal(served.model.get_output_embeddings().weight, kept)
        with torch.no_grad():
            served.model.get_output_embeddings().weight.mul_(40)
        with pytest.raises(WinnowError, match=r"rounding explains 0\.200 at most \(4 x alarms\.mismatch\)"):
            served.engine.push()
    served.engine.push()
    assert served.mismatch([prompt], served.engine.sample([prompt], 1)) < 1e-3


def test_a_server_that_never_comes_is_waited_for_a_bounded_time(seeing: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(WinnowError, match=r"http://127\.0\.0\.1:9 did not answer within 1 s .*\n.*--rollouts"):
        Rig(seeing, tmp_path, engine="vllm_server", servers=["http://127.0.0.1:9/v1"], patience=1)
    assert time.monotonic() - began < 20


def test_the_servers_that_are_there_answer_for_one_that_is_not(served: Rig, seeing: Path, tmp_path: Path) -> None:
    rig = Rig(
        seeing, tmp_path, engine="vllm_server", servers=["http://127.0.0.1:9", served.engine.servers[0].url], n=3,
        patience=1,
    )  # fmt: skip
    prompts = rig.prompts(4) * 3
    groups = rig.engine.sample(prompts, 1)
    assert [len(group) for group in groups] == [3] * 12 and rig.mismatch(prompts, groups) < 1e-3
    with pytest.raises(WinnowError, match=r"refuses /inference/v1/generate \(400\): .* maximum model length"):
        rig.engine.sample(rig.prompts(20), 1)  # too long for the server: no other could do it either
    rig.engine.close()


def test_a_run_of_two_processes_learns_from_a_server(served: Rig, seeing: Path, tmp_path: Path) -> None:
    """FSDP, a server that is not the run's own and has other weights at first, and one-step updates in between."""
    make = plan_in(tmp_path, lambda _: seeing)
    rollout = {"engine": "vllm_server", "servers": [served.engine.servers[0].url], "max_prompt_tokens": 90, "max_new_tokens": 12}  # fmt: skip
    plan = make(asked(8, pictures=True), rollout=rollout, optimizer={"lr": 3e-3})
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "training.gspo", str(plan.path), "--workspace", str(tmp_path / ".winnow")], cwd=ROOT,
        capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    folder = tmp_path / ".winnow" / "runs" / "run"
    steps = [one for one in lines(folder / "metrics.jsonl") if "loss" in one]
    assert [one["answers"] for one in steps] == [16] * 3, done.stderr[-4000:]
    assert all(one["mismatch"] < 1e-4 for one in steps)
    assert not (folder / "rollout_weights").exists()
    prompts = served.prompts()
    assert served.mismatch(prompts, served.engine.sample(prompts, 1)) < 1e-3  # the run's weights are not ours


@pytest.fixture(scope="module")
def within(seeing: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A policy with an engine in this process."""
    rig = Rig(seeing, tmp_path_factory.mktemp("within"), engine="vllm", n=6, memory=0.05)
    yield rig
    rig.engine.close()


def test_vllm_in_this_process_follows_the_policy(within: Rig) -> None:
    agree(within)


class Forgetful:
    """A real engine that notes what is called, and whose weights are lost when it sleeps, as on a GPU."""

    def __init__(self, llm: Any, calls: list[str]):
        self._llm, self._calls = llm, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def sleep(self, level: int) -> None:
        self._calls.append(f"sleep {level}")
        lost = {name: torch.zeros_like(value) for name, value in self._weights.items()}
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(lost.items())})

    def wake_up(self, tags: list[str]) -> None:
        self._calls.append(f"wake {tags}")

    def collective_rpc(self, name: str, **given: Any) -> Any:
        self._calls.append(name)
        return self._llm.collective_rpc(name, **given)

    def generate(self, *given: Any, **named: Any) -> Any:
        self._calls.append("generate")
        return self._llm.generate(*given, **named)


def test_an_engine_that_sleeps_draws_from_pushed_weights_only(within: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    llm = Forgetful(within.engine.llm, calls)
    llm._weights = weights.weights_of(within.policy)
    monkeypatch.setattr(within.engine, "llm", llm)
    monkeypatch.setattr(within.engine, "_config", within.recipe.rollout.model_copy(update={"sleep": True}))
    prompts = within.prompts(pictures=True)
    drawn = within.engine.sample(prompts, 1)
    assert calls == ["generate", "sleep 2"] and within.mismatch(prompts, drawn) < 1e-3
    within.learn(prompts, drawn)
    within.engine.push()
    for seed in (2, 3):  # a second round of questions comes without a push before it
        calls.clear()
        assert within.mismatch(prompts, within.engine.sample(prompts, seed)) < 1e-3
        woken = ["wake ['weights']", "reload_weights", "wake ['kv_cache']"]
        assert calls == [*woken, "generate", "generate", "sleep 2"]  # once to check, once for the step
    monkeypatch.undo()
    within.engine.push()


def test_sleep_is_refused_without_a_gpu(seeing: Path) -> None:
    with pytest.raises(WinnowError, match=r"`rollout\.sleep` needs a GPU"):
        Rig(seeing, engine="vllm", sleep=True)
