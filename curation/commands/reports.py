"""Commands that show versions and runs to people: report, explore."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from curation.commands.app import Workspace, app, example
from schemas.errors import WinnowError


@app.command(
    rich_help_panel="Versions",
    epilog=example("""
winnow report quickstart
winnow report quickstart@v1 quickstart -o both.html
winnow report quickstart --questions ./my_questions --tables ./tables
winnow report quickstart --markdown
winnow report run:tiny-gspo
"""),
)
def report(
    version: Annotated[
        str,
        typer.Argument(
            metavar="NAME[@ID|TAG]", help="A version; or a training run: run:NAME, its folder, or its name alone."
        ),
    ],
    other: Annotated[
        str | None, typer.Argument(metavar="[OTHER]", help="A second version: the same questions side by side.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The file to write.", show_default="NAME-ID.html; a run's: report.html in its folder"
        ),
    ] = None,
    questions: Annotated[
        list[Path] | None, typer.Option(metavar="FOLDER", help="A folder of further .sql files; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the rows that are drawn to look at.")] = 0,
    tables: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also write the table of every question here.")
    ] = None,
    format: Annotated[str, typer.Option("--format", "-f", help="Of --tables: csv or parquet.")] = "csv",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown instead of writing HTML.")] = False,
    no_benchmarks: Annotated[
        bool,
        typer.Option("--no-benchmarks", help="Leave out the texts of benchmark items, so that it may be published."),
    ] = False,
    workspace: Workspace = None,
) -> None:
    """Write a report: charts, tables, and rows to look at, in one HTML file that needs no network.

    Every build leaves one in the version's folder, without the texts of benchmarks. A question is a .sql file; your own
    go into a folder. Charts need: pip install 'winnow[report]'

    Of a training run: its curves, its alarms and its answers; it may still be running. Such a report takes only --output.
    """
    from curation import reporting
    from curation.versions import open_version

    if (run := _run_of(version, workspace)) is not None:
        if other is not None or questions or tables is not None or markdown or no_benchmarks:
            raise WinnowError("The report of a training run takes only --output; the other options are for versions.")
        _report_run(run, output)
        return
    if format not in ("csv", "parquet"):
        raise WinnowError(f"There is no format {format!r} for tables. There are: csv, parquet.")
    opened = open_version(version, workspace)
    folders = questions or []
    if markdown:
        from reports.markdown import section

        subject = reporting.answers(opened, folders)
        print("\n\n".join(text for answer in subject.answers if (text := section(answer))))
        subjects = [subject]
    elif other is not None:
        second = open_version(other, workspace)
        target = output or Path(f"{opened.name}-{opened.id}-{second.id}.html")
        subjects = reporting.write_pair(opened, second, target, folders)
        print(target)
    else:
        target = output or Path(f"{opened.name}-{opened.id}.html")
        subjects = [reporting.write(opened, target, folders, seed=seed, items=not no_benchmarks)]
        print(target)
    if tables is not None:
        for subject in subjects:
            folder = tables if len(subjects) == 1 else tables / subject.label
            print(f"{folder}: {len(reporting.write_tables(subject, folder, format))} tables", file=sys.stderr)
    for answer in subjects[0].answers:
        if answer.error:
            print(f"The question {answer.question.name} was not answered: {answer.error}", file=sys.stderr)


def _run_of(reference: str, workspace: Path | None) -> Path | None:
    """The folder of the run that `run:NAME`, a path or a name stands for; None where it is not a run. Of a version and a
    run with one name, the name alone is the version."""
    from curation import store

    if "/" in reference or reference in (".", ".."):
        folder = Path(reference)
        return folder if (folder / "metrics.jsonl").exists() and (folder / "manifest.json").exists() else None
    root = store.open_workspace(workspace, create=False).root
    name = reference.removeprefix("run:")
    found = (root / "runs" / name / "manifest.json").exists()
    if reference.startswith("run:") and not found:
        there = sorted(path.parent.name for path in (root / "runs").glob("*/manifest.json"))
        said = f"There are: {', '.join(there)}." if there else "None was begun here."
        raise WinnowError(f"There is no training run {name!r} in {root}. {said}")
    if found and not reference.startswith("run:") and (root / "versions" / name).exists():
        print(f"{name} is a version and a training run. The run's report: winnow report run:{name}", file=sys.stderr)
        return None
    return root / "runs" / name if found else None


def _report_run(folder: Path, output: Path | None) -> None:
    try:
        from training.report import write_report
    except ImportError as error:
        raise WinnowError(
            f"The report of a training run needs torch, and {error.name} is not here.\nInstall it: pip install 'winnow[train]'"
        ) from error
    print(write_report(folder, output))


@app.command(
    rich_help_panel="Versions",
    epilog=example("""
winnow explore
winnow explore quickstart
winnow explore quickstart@v1 --port 0 --open
"""),
)
def explore(
    version: Annotated[
        str | None,
        typer.Argument(metavar="[NAME[@ID|TAG]]", help="The version to begin with; a list of all otherwise."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes any that is free.")] = 8766,
    time_limit: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Of each query.")] = 10.0,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in your browser.")] = False,
    workspace: Workspace = None,
) -> None:
    """Look at whole versions in a browser: filter rows, read traces, ask in SQL.

    The page is for this machine alone: it listens at 127.0.0.1 and writes nothing. It ends with Ctrl-C.
    """
    from curation.explore import serve

    def started(url: str) -> None:
        print(url, flush=True)
        if open_browser:
            import webbrowser

            webbrowser.open(url)

    serve(version, workspace=workspace, port=port, seconds=time_limit, started=started)
