"""Teachers: who writes traces. One file each; `AnyTeacher` is what stands under `teacher:` in a recipe."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from curation.teachers.base import Answer, Asked, Held, Message, Request, Sampling, Teacher, trace_key
from curation.teachers.recorded import Recorded
from curation.teachers.transformers_local import TransformersLocal

AnyTeacher = Annotated[Recorded | TransformersLocal, Field(discriminator="kind")]

__all__ = [
    "Answer",
    "AnyTeacher",
    "Asked",
    "Held",
    "Message",
    "Recorded",
    "Request",
    "Sampling",
    "Teacher",
    "TransformersLocal",
    "trace_key",
]
