"""The commands of `winnow`. Importing this package registers them, in the order in which the help lists them."""

from curation.commands import build, train, evaluate, versions, reports, publishing, teachers, upkeep, more  # noqa: I001 (the order of the help)
from curation.commands.app import app

__all__ = ["app", "build", "evaluate", "more", "publishing", "reports", "teachers", "train", "upkeep", "versions"]
