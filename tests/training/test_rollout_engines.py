"""vLLM engines of rollouts, in this process and behind HTTP: they follow the policy, survive, and say when they do not.

The models are tiny, with heads of a size that vLLM's CPU build knows.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.errors import WinnowError
from tests.training.test_rollouts import Rig
from training import tiny, weights
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
