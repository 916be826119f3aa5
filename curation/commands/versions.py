"""Commands that look at versions: versions, show, why, sql, diff, tag."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from curation.commands.app import (
    Json,
    Reference,
    Workspace,
    app,
    example,
    print_built,
    print_json,
    print_table,
)


@app.command(
    rich_help_panel="Versions",
    epilog=example("""
winnow versions
winnow versions --json
"""),
)
def versions(workspace: Workspace = None, as_json: Json = False) -> None:
    """List all versions, the newest of each name first."""
    from curation.console import size
    from curation.versions import list_versions

    found = list_versions(workspace)
    if as_json:
        print_json(found)
        return
    lines = [
        (
            v["name"],
            v["id"],
            f"{v['rows']:,}",
            size(v["bytes"]),
            ", ".join([*(["latest"] if v["latest"] else []), *v["tags"]]),
            v["created"],
        )
        for v in found
    ]
    print_table(("name", "id", "rows", "size", "tags", "created"), lines, right=("rows", "size"))


@app.command(
    rich_help_panel="Versions",
    epilog=example("""
winnow show quickstart
winnow show quickstart@stable --recipe
winnow show quickstart --json
"""),
)
def show(
    version: Reference,
    recipe: Annotated[bool, typer.Option("--recipe", help="Print the whole recipe that it was built from.")] = False,
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:
    """Show what is in a version, and where the rows went that are not.

    --json prints the manifest: recipe, counts, inputs with their hashes, licences, libraries, files.
    """
    from curation.versions import open_version

    opened = open_version(version, workspace)
    if as_json:
        print_json(opened.manifest)
    elif recipe:
        print(opened.manifest["recipe"], end="")
    else:
        _print_version(opened)


def _print_version(version: Any) -> None:
    manifest = version.manifest
    print_built(version)
    limit = f", with at most {manifest['limit']:,} rows per source" if manifest["limit"] is not None else ""
    print(f"  built {manifest['run']['created']} in {manifest['run']['seconds']:.1f} s{limit}")
    if manifest["description"]:
        print(f"  {manifest['description']}")
    print()
    lines = [(s["name"], s["kind"], f"{s['rows_in']:,}", f"{s['dropped']:,}") for s in manifest["stages"]]
    print_table(("stage", "kind", "rows in", "taken out"), lines, right=("rows in", "taken out"))
    licences = [(s, n, f"{rows:,}") for s, of in manifest["licenses"].items() for n, rows in of.items()]
    if licences:
        print()
        print_table(("source", "licence", "rows"), licences, right=("rows",))


@app.command(
    rich_help_panel="Versions",
    epilog=example("""
winnow why quickstart 3f2a9c
winnow why quickstart gsm8k-17 --json
"""),
)
def why(
    version: Reference,
    row: Annotated[
        str, typer.Argument(metavar="ROW_ID", help="Its row_id, the beginning of one, or upstream's own id.")
    ],
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:
    """Tell the story of one row.

    Where it came from, what each stage said of it, its traces and their verdicts, and where it ended.
    """
    from curation.versions import open_version

    story = open_version(version, workspace).why(row)
    if as_json:
        print_json(story.to_dict())
    else:
        print(story)


@app.command(
    rich_help_panel="Versions",
    epilog=example("""
winnow sql "select stage, reason, count(*) from quickstart.ledger group by all"
winnow sql "select * from quickstart.rows" -o rows.parquet
winnow sql "select * from versions" --format json
winnow sql --in quickstart@v1 "select source, count(*) from rows group by all"
"""),
)
def sql(
    query: Annotated[
        str, typer.Argument(metavar="QUERY", help="One SELECT; `select * from versions` lists what there is.")
    ],
    inside: Annotated[
        str | None, typer.Option("--in", metavar="NAME[@ID|TAG]", help="Ask one version: its tables without its name.")
    ] = None,
    format: Annotated[
        str | None, typer.Option("--format", "-f", help="table, csv, json, jsonl or parquet.", show_default="table")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to a file; its ending is the format.")
    ] = None,
    safe_csv: Annotated[
        bool, typer.Option("--safe-csv", help="Put a ' before CSV cells that a spreadsheet would run as a formula.")
    ] = False,
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:
    """Ask all versions of a workspace a question in SQL (DuckDB's).

    The tables of a version are rows, ledger, decisions, traces, verdicts and data_<output>, as in quickstart.rows, or
    "quickstart@TAG".rows for a version that has a tag. With --in they are rows, ledger, …, as the queries of reports name
    them, and there is also `images`. Those of a training run are "run:NAME".difficulty, .rollouts (RL) and .answers (held-out
    questions).

    CSV holds values as they are. A cell that begins with = + - or @ runs as a formula in spreadsheets: --safe-csv
    prevents that, and so changes such values.
    """
    from curation import output as outputs
    from curation.catalog import query as ask
    from curation.reporting import query as ask_one
    from curation.versions import open_version

    chosen = outputs.format_of("json" if as_json else format, output)
    table = ask(workspace, query) if inside is None else ask_one(open_version(inside, workspace), query)
    outputs.write(table, chosen, output, safe_csv=safe_csv)
    if output is not None:
        print(f"{output}: {len(table):,} rows", file=sys.stderr)


@app.command(
    rich_help_panel="Versions",
    epilog=example("""
winnow diff quickstart@stable quickstart
winnow diff quickstart@4be1 quickstart --json
"""),
)
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="The earlier version.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The later version.")],
    rows: Annotated[
        int | None, typer.Option(min=0, show_default="10; 1000 as JSON", help="Differing rows to show.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print it for a changelog.")] = False,
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:
    """Compare two versions: rows added, removed and changed, and by which stage."""
    from curation.comparison import diff as compare

    found = compare(a, b, workspace)
    if as_json:
        print_json(found.to_dict(1000 if rows is None else rows))
    else:
        print(found.markdown() if markdown else found.text(10 if rows is None else rows))


@app.command(
    rich_help_panel="Versions", epilog=example("winnow tag quickstart stable\nwinnow tag quickstart@4be1 v1 --move")
)
def tag(
    version: Reference,
    name: Annotated[str, typer.Argument(metavar="TAG", help="The tag.")],
    move: Annotated[bool, typer.Option("--move", help="Move a tag that names another version.")] = False,
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:
    """Give a version a name that stays, like stable or v1."""
    from curation.versions import tag as give

    tagged = give(version, name, workspace, move=move)
    if as_json:
        print_json({"name": tagged.name, "id": tagged.id, "tag": name})
    else:
        print(f"{tagged.name}@{name} is {tagged.id}")
