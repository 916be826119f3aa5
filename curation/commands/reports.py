"""Commands that show versions to people: report, explore."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from curation.commands.app import Reference, Workspace, app, example
from schemas.errors import WinnowError


@app.command(
    rich_help_panel="Versions",
    epilog=example("""
winnow report quickstart
winnow report quickstart@v1 quickstart -o both.html
winnow report quickstart --questions ./my_questions --tables ./tables
winnow report quickstart --markdown
"""),
)
def report(
    version: Reference,
    other: Annotated[
        str | None, typer.Argument(metavar="[OTHER]", help="A second version: the same questions side by side.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write.", show_default="NAME-ID.html")
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
    """
    from curation import reporting
    from curation.versions import open_version

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
