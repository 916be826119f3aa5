"""Every option of the stages and teachers stands in docs/teachers.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from curation.stages import fanout, verify
from curation.stages.judging import JudgeConfig
from curation.teachers import OpenAIServer, Recorded, TransformersLocal, VllmOffline, policy

DOCS = Path(__file__).parents[2] / "docs" / "teachers.md"


@pytest.mark.parametrize(
    "config",
    [
        fanout.Fanout,
        verify.Verify,
        JudgeConfig,
        Recorded,
        TransformersLocal,
        OpenAIServer,
        VllmOffline,
        policy.Retry,
        policy.Until,
    ],
)
def test_every_option_is_in_the_docs(config):
    text = DOCS.read_text(encoding="utf-8")
    for name in set(config.model_fields) - {"stage", "name", "enabled", "kind"}:
        assert f"`{name}`" in text, name
