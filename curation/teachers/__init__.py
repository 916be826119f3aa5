"""Teachers: who writes traces. One file each; `AnyTeacher` is what stands under `teacher:` in a recipe."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from curation.teachers.base import Answer, Asked, Held, Message, Request, Sampling, Teacher, Want, trace_key
from curation.teachers.openai_server import OpenAIServer
from curation.teachers.recorded import Recorded
from curation.teachers.transformers_local import TransformersLocal
from curation.teachers.vllm_offline import VllmOffline

AnyTeacher = Annotated[Recorded | TransformersLocal | VllmOffline | OpenAIServer, Field(discriminator="kind")]

AnyModel = Annotated[TransformersLocal | VllmOffline | OpenAIServer, Field(discriminator="kind")]
"""Teachers that are models, and can say how likely they hold an answer."""

__all__ = [
    "Answer",
    "AnyModel",
    "AnyTeacher",
    "Asked",
    "Held",
    "Message",
    "OpenAIServer",
    "Recorded",
    "Request",
    "Sampling",
    "Teacher",
    "TransformersLocal",
    "VllmOffline",
    "Want",
    "trace_key",
]
