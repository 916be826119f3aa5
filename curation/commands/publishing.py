"""Commands that bring versions to others: publish, export."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from curation.commands.app import Json, Quiet, Reference, Workspace, app, example, print_json
from schemas.errors import WinnowError


@app.command(
    rich_help_panel="Versions",
    epilog=example("""
winnow publish mine@v1 --check
winnow publish mine@v1 ORG/mine --tag v1 --dry-run
winnow publish mine@v1 ORG/mine --tag v1 --private
winnow publish mine ORG/mine --license webdump=CC-BY-4.0 --no-traces
"""),
)
def publish(
    version: Reference,
    repo: Annotated[str | None, typer.Argument(metavar="ORG/REPO", help="The dataset repo on the Hub.")] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Its tag there.", show_default="the version's id")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repo private, and refuse a public one.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, and say what would be sent.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only check; the network is not used.")] = False,
    traces: Annotated[bool, typer.Option("--traces/--no-traces", help="Publish the traces and verdicts too.")] = True,
    license: Annotated[
        list[str] | None,
        typer.Option("--license", metavar="SOURCE=NAME", help="State a source's licence; may be repeated."),
    ] = None,
    accept: Annotated[
        list[str] | None, typer.Option("--accept", metavar="KIND", help="Let findings pass: secret or path.")
    ] = None,
    workspace: Workspace = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Publish a version on the Hugging Face Hub: blobs first, then one commit and a tag.

    Licences, card, schema, secrets and paths are checked before anything leaves. If it is interrupted, the same command
    sends only what is missing. The token comes from `hf auth login` or HF_TOKEN.
    """
    from curation import hub
    from curation.console import size

    stated = _stated(license or [])
    if check:
        _check(version, workspace, traces, stated, accept or [], as_json)
        return
    if repo is None:
        raise WinnowError("Name the repo: winnow publish NAME ORG/REPO. (--check alone needs none.)")
    show = _Progress(quiet or as_json)
    note = (lambda text: None) if quiet or as_json else show.note
    try:
        done = hub.publish(
            version, repo, tag=tag, private=private, dry_run=dry_run, traces=traces, licenses=stated,
            accept=accept or [], workspace=workspace, hub=hub.this_hub(note=note), progress=show,
        )  # fmt: skip
    finally:
        show.close()
    if as_json:
        print_json(done.to_dict())
        return
    if dry_run:
        print(f"{done.version} would be {done.repo}@{done.tag}: {done.files:,} files, {size(done.bytes)}")
        print(f"  to send    {len(done.new):,} files, {size(done.new_bytes)} at most")
        print(f"  to remove  {len(done.removed):,} files of the version before")
        return
    print(
        f"{done.version} is {done.repo}@{done.tag}, commit {done.commit[:12]}: {done.files:,} files, {size(done.bytes)}"
    )
    print(f"  sent       {size(done.sent_bytes)}; {done.files - len(done.new):,} files were there already")
    print(f'  read it    datasets.load_dataset("{done.repo}", revision="{done.tag}")')


def _stated(words: list[str]) -> dict[str, str]:
    pairs = {}
    for word in words:
        source, is_pair, name = word.partition("=")
        if not is_pair or not source or not name:
            raise WinnowError(f"--license {word}: write SOURCE=NAME, like --license webdump=CC-BY-4.0.")
        pairs[source] = name
    return pairs


def _check(
    version: str, workspace: Any, traces: bool, stated: dict[str, str], accept: list[str], as_json: bool
) -> None:
    from huggingface_hub import get_token

    from curation.publication import prepare
    from curation.publishcheck import check, describe, refusal
    from curation.versions import open_version

    opened = open_version(version, workspace)
    token = get_token()
    publication = prepare(opened, traces=traces, licenses=stated, accepted=accept)
    findings = check(publication, accept=accept, secrets=[token] if token else [])
    if as_json:
        print_json(describe(findings))
    elif findings:
        raise refusal(opened, findings)
    else:
        print(f"{opened} may be published: {len(publication.items):,} files. Nothing was found.")
    if findings:
        raise typer.Exit(1)


class _Progress:
    """A bar on a terminal; elsewhere a line every ten seconds."""

    def __init__(self, silent: bool):
        self._silent = silent
        self._bar: Any = None
        self._task: Any = None
        self._spoken = time.monotonic()
        if not silent and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("checking", total=None)
            self._bar.start()

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=what, completed=done, total=total)
        elif not self._silent and time.monotonic() - self._spoken > 10:
            from curation.console import size

            self._spoken = time.monotonic()
            print(f"{what}: {size(done)} of {size(total)}", file=sys.stderr)

    def note(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False)
        else:
            print(text, file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


@app.command(
    rich_help_panel="Versions",
    epilog=example("""
winnow export mine@v1 llamafactory data/mine
winnow export hub:ORG/mine@v1 webdataset tars --config sft
"""),
)
def export(
    version: Reference,
    layout: Annotated[str, typer.Argument(metavar="LAYOUT", help="llamafactory, lmms-engine or webdataset.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new or empty folder.")],
    config: Annotated[str | None, typer.Option("--config", help="The output to write.", show_default="sft")] = None,
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:
    """Write a version in another program's own layout.

    TRL, verl and `datasets` need no export: they read data/sft and data/rl of the version as they are.
    """
    from curation.handover import hand_over
    from curation.hub import is_published, open_published
    from curation.versions import open_version

    opened = open_published(version, data=True) if is_published(version) else open_version(version, workspace)
    done = hand_over(opened, layout, folder, config=config)
    if as_json:
        print_json({"folder": str(done.folder), "layout": layout, "examples": done.examples, "files": done.files})
        return
    print(
        f"{done.folder}: {', '.join(f'{split} {n:,}' for split, n in done.examples.items())}; {len(done.files):,} files"
    )
