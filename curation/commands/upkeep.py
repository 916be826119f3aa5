"""Commands for a workspace and a machine: fsck, gc, doctor."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from curation.commands.app import (
    Json,
    Quiet,
    Workspace,
    app,
    example,
    print_json,
    print_table,
)


@app.command(rich_help_panel="Workspace", epilog=example("winnow fsck\nwinnow fsck quickstart --json"))
def fsck(
    name: Annotated[str | None, typer.Argument(metavar="[NAME[@ID|TAG]]", help="A version; all by default.")] = None,
    workspace: Workspace = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Recompute every hash and name what is damaged. Exit code 1 if anything is."""
    from curation.maintenance import fsck as look

    silent = quiet or as_json
    damage = look(name, workspace, progress=lambda text: None if silent else print(text, file=sys.stderr))
    if as_json:
        print_json([vars(one) for one in damage])
    elif damage:
        print("\n".join(map(str, damage)))
    else:
        print("Nothing is damaged.")
    if damage:
        raise typer.Exit(1)


@app.command(rich_help_panel="Workspace", epilog=example("winnow gc --dry-run\nwinnow gc --versions --yes"))
def gc(
    versions: Annotated[
        bool, typer.Option("--versions", help="Also versions that are neither tagged nor latest.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:
    """Remove what no version needs, after showing it. What teachers said is never removed."""
    from curation.console import size
    from curation.maintenance import gc as collect

    report = collect(workspace, dry_run=True, versions=versions)
    if not as_json:
        lines = [(item["what"], size(item["bytes"]), item["path"], item["why"]) for item in report.items]
        if lines:
            print_table(("what", "size", "path", "why"), lines, right=("size",))
    sure = yes and not dry_run
    if report.items and not (dry_run or yes or as_json) and sys.stdin.isatty():
        sure = typer.confirm(f"Remove {len(report.items):,} things, {size(report.bytes)}?")
    if sure and report.items:
        report = collect(workspace, dry_run=False, versions=versions)
    if as_json:
        print_json(report.to_dict())
    elif not report.items:
        print("There is nothing to remove.")
    elif report.done:
        print(f"Removed {len(report.items):,} things, {size(report.bytes)}.")
    else:
        print(f"Nothing was removed; {size(report.bytes)} could be. `winnow gc --yes` does it without asking.")


@app.command(rich_help_panel="Workspace", epilog=example("winnow doctor\nwinnow doctor --json"))
def doctor(workspace: Workspace = None, as_json: Json = False) -> None:
    """Say what this machine can do: packages, engines, teachers, and the command that installs what is missing."""
    from curation.doctor import examine

    report = examine(workspace)
    if as_json:
        print_json(report.to_dict())
    else:
        print(report.text())
