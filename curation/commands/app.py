"""What all commands share: the app, its options, how errors end and how things are printed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from curation.output import print_table
from schemas.errors import WinnowError

__all__ = [
    "Json", "Limit", "LogJson", "Quiet", "Reference", "Sets", "Workers", "Workspace", "app", "example", "print_built",
    "print_json", "print_table",
]  # fmt: skip

RESUMES = "Interrupted. What is finished is kept: run the same command again and it goes on from there."


class _Commands(TyperGroup):
    """Turns errors that a person can put right into their message and exit code, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except WinnowError as error:
            print(error, file=sys.stderr)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            resumes = ctx.invoked_subcommand in ("build", "run", "quickstart")
            print(f"\n{RESUMES if resumes else 'Interrupted.'}", file=sys.stderr)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        print(f"winnow {metadata.version('winnow')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version of Winnow and exit."),
    ] = False,
) -> None:
    """Build, verify, version and explain training data.

    Start with: winnow build recipes/quickstart.yaml
    """


def example(text: str) -> str:
    """The examples at the end of a command's help."""
    return "[bold]Examples[/bold]\n\n" + "\n\n".join(f"  {line}" for line in text.strip().splitlines())


Workspace = Annotated[
    Path | None,
    typer.Option(
        "--workspace", "-w", envvar="WINNOW_WORKSPACE", show_default=".winnow", help="Folder of caches and versions."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override a value of the recipe; may be repeated."),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Read at most N rows of each source: a first try.")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, show_default="one per core", help="Processes that work at once.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing on the way.")]
LogJson = Annotated[bool, typer.Option("--log-json", help="Tell the progress as one JSON object a line.")]
Reference = Annotated[
    str, typer.Argument(metavar="NAME[@ID|TAG]", help="A version; the latest of its name by default.")
]


def print_json(value: Any) -> None:
    """Print a value as JSON; what JSON has no form for becomes text."""
    print(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def print_built(version: Any) -> None:
    """Print what a version holds, in a few lines."""
    counts = version.manifest["counts"]
    gone = ", ".join(f"{counts[fate]:,} {fate}" for fate in ("dropped", "merged", "quarantined") if counts.get(fate))
    print(f"{version}: {counts['kept']:,} of {counts['input']:,} rows kept{f' ({gone})' if gone else ''}")
    for name, splits in version.manifest["splits"].items():
        print(f"  {name}: " + ", ".join(f"{split} {rows:,}" for split, rows in splits.items()))
    print(f"  {version.path}")
