"""The `winnow` command. Each command parses, calls one documented Python function and prints what it returns.

Nothing heavy is imported until a command needs it: `winnow --help` has to answer at once. Results go to standard
output, everything said on the way to standard error. Exit codes: 0 done, 1 something that the user can put right, 2 a
wrong recipe or command line, 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from schemas.errors import WinnowError

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


def main() -> None:
    """Entry point of the `winnow` command."""
    app(prog_name="winnow")


def _example(text: str) -> str:
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


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2, default=str))


# --------------------------------------------------------------------------------------------------------------- build


@app.command(
    rich_help_panel="Build",
    epilog=_example("""
winnow build recipes/quickstart.yaml
winnow build recipes/quickstart.yaml --plan
winnow build recipes/quickstart.yaml --limit 100 --set stages.filter.enabled=false
"""),
)
def build(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.")],
    plan: Annotated[bool, typer.Option("--plan", help="Show what would run and what is cached; run nothing.")] = False,
    set: Sets = None,
    workspace: Workspace = None,
    engine: Annotated[str, typer.Option(help="Where it runs: local, or ray.")] = "local",
    workers: Workers = None,
    memory_limit: Annotated[
        str | None, typer.Option(metavar="SIZE", show_default="60 %", help="Memory to use, like 8GB or 50%.")
    ] = None,
    limit: Limit = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Fail if the recipe is being built already.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:
    """Build the version that a recipe describes.

    An interrupted build goes on where it stopped when the command is run again. Building once more what is built
    already gives the same version, at once.
    """
    from curation import builder
    from curation.console import reporter

    overrides = set or []
    if plan:
        report = builder.plan(recipe, set=overrides, workspace=workspace, limit=limit)
        if as_json:
            _print_json(report.to_dict())
        else:
            _print_plan(report)
        return
    said = reporter(quiet=quiet, log_json=log_json)
    try:
        version = builder.build(
            recipe,
            set=overrides,
            workspace=workspace,
            engine=engine,
            workers=workers,
            memory_limit=_memory(memory_limit),
            limit=limit,
            wait=not no_wait,
            reporter=said,
        )
    finally:
        said.close()
    if as_json:
        _print_json({"name": version.name, "id": version.id, "path": str(version.path), "rows": version.kept})
    else:
        _print_built(version)


def _memory(text: str | None) -> int | None:
    """`8GB`, `500M` or `50%` as bytes."""
    if text is None:
        return None
    number = text.strip().upper().removesuffix("B").rstrip()
    units = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
    unit = number.lstrip("0123456789.").strip()
    try:
        value = float(number.removesuffix(unit).strip())
    except ValueError:
        value = -1.0
    if unit == "%" and 0 < value <= 100:
        from curation.engines.local import machine_memory

        return int(machine_memory() * value / 100)
    if unit not in units or value <= 0:
        raise typer.BadParameter(f"{text!r} is not a size. Write 8GB, 500MB or 50%.", param_hint="--memory-limit")
    return int(value * units[unit])


def _print_plan(report: Any) -> None:
    lines = []
    for step in report.steps:
        word = {True: "cached", False: "to run", None: "to run, after the above"}[step["cached"]]
        rows = "" if step.get("rows") is None else f"{step['rows']:,}"
        more = [f"{step[key]:,} {key}" for key in ("requests", "tokens") if step.get(key) is not None]
        lines.append((step["name"], step["kind"], rows, word, ", ".join(more)))
    _print_table(("step", "kind", "rows", "state", "new"), lines, right=("rows",))


def _print_built(version: Any) -> None:
    counts = version.manifest["counts"]
    gone = ", ".join(f"{counts[fate]:,} {fate}" for fate in ("dropped", "merged", "quarantined") if counts.get(fate))
    print(f"{version}: {counts['kept']:,} of {counts['input']:,} rows kept{f' ({gone})' if gone else ''}")
    for name, splits in version.manifest["splits"].items():
        print(f"  {name}: " + ", ".join(f"{split} {rows:,}" for split, rows in splits.items()))
    print(f"  {version.path}")


@app.command(
    rich_help_panel="Build",
    epilog=_example("""
winnow run recipes/chain.yaml
winnow run recipes/chain.yaml --json
"""),
)
def run(
    chain: Annotated[Path, typer.Argument(metavar="CHAIN", help="A YAML list of steps, like - build: recipe.yaml.")],
    workspace: Workspace = None,
    as_json: Json = False,
    quiet: Quiet = False,
    log_json: LogJson = False,
) -> None:
    """Run a chain of steps, one after the other.

    Every step can be resumed, so a chain can: run it again, and what is done is passed over.
    """
    from curation import chain as chains
    from curation.console import reporter

    _load_steps()
    said = reporter(quiet=quiet, log_json=log_json)
    try:
        for done in chains.run_chain(chain, workspace=workspace, reporter=said):
            print(json.dumps(done, ensure_ascii=False, default=str) if as_json else f"{done['step']}: {done['said']}")
    finally:
        said.close()


@app.command(rich_help_panel="Build", epilog=_example("winnow quickstart"))
def quickstart(
    workspace: Workspace = None, as_json: Json = False, quiet: Quiet = False, log_json: LogJson = False
) -> None:
    """Build the sample recipes, and say what to try next."""
    from curation import quickstart as first
    from curation.console import reporter

    said = reporter(quiet=quiet, log_json=log_json)
    try:
        built = first.quickstart(workspace, said)
    finally:
        said.close()
    steps = first.next_steps(built, workspace)
    if as_json:
        versions = [{"name": v.name, "id": v.id, "path": str(v.path), "rows": v.kept} for v in built]
        _print_json({"versions": versions, "next": steps})
        return
    for version in built:
        print()
        _print_built(version)
    print("\nTry next:\n" + "\n".join(f"  {step}" for step in steps))


def _load_steps() -> None:
    """Import the modules above curation that add steps to chains."""
    import importlib
    import importlib.util

    if importlib.util.find_spec("training.steps") is not None:
        importlib.import_module("training.steps")


# ------------------------------------------------------------------------------------------------------------- versions


@app.command(
    rich_help_panel="Versions",
    epilog=_example("""
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
        _print_json(found)
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
    _print_table(("name", "id", "rows", "size", "tags", "created"), lines, right=("rows", "size"))


@app.command(
    rich_help_panel="Versions",
    epilog=_example("""
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
        _print_json(opened.manifest)
    elif recipe:
        print(opened.manifest["recipe"], end="")
    else:
        _print_version(opened)


def _print_version(version: Any) -> None:
    manifest = version.manifest
    _print_built(version)
    limit = f", with at most {manifest['limit']:,} rows per source" if manifest["limit"] is not None else ""
    print(f"  built {manifest['run']['created']} in {manifest['run']['seconds']:.1f} s{limit}")
    if manifest["description"]:
        print(f"  {manifest['description']}")
    print()
    lines = [(s["name"], s["kind"], f"{s['rows_in']:,}", f"{s['dropped']:,}") for s in manifest["stages"]]
    _print_table(("stage", "kind", "rows in", "taken out"), lines, right=("rows in", "taken out"))
    licences = [(s, n, f"{rows:,}") for s, of in manifest["licenses"].items() for n, rows in of.items()]
    if licences:
        print()
        _print_table(("source", "licence", "rows"), licences, right=("rows",))


@app.command(
    rich_help_panel="Versions",
    epilog=_example("""
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
        _print_json(story.to_dict())
    else:
        print(story)


@app.command(
    rich_help_panel="Versions",
    epilog=_example("""
winnow sql "select stage, reason, count(*) from quickstart.ledger group by all"
winnow sql "select * from quickstart.rows" -o rows.parquet
winnow sql "select * from versions" --format json
"""),
)
def sql(
    query: Annotated[
        str, typer.Argument(metavar="QUERY", help="One SELECT; `select * from versions` lists what there is.")
    ],
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
    "quickstart@TAG".rows for a version that has a tag.

    CSV holds values as they are. A cell that begins with = + - or @ runs as a formula in spreadsheets: --safe-csv
    prevents that, and so changes such values.
    """
    from curation import output as outputs
    from curation.catalog import query as ask

    chosen = outputs.format_of("json" if as_json else format, output)
    table = ask(workspace, query)
    outputs.write(table, chosen, output, safe_csv=safe_csv)
    if output is not None:
        print(f"{output}: {len(table):,} rows", file=sys.stderr)


@app.command(
    rich_help_panel="Versions",
    epilog=_example("""
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
        _print_json(found.to_dict(1000 if rows is None else rows))
    else:
        print(found.markdown() if markdown else found.text(10 if rows is None else rows))


@app.command(
    rich_help_panel="Versions", epilog=_example("winnow tag quickstart stable\nwinnow tag quickstart@4be1 v1 --move")
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
        _print_json({"name": tagged.name, "id": tagged.id, "tag": name})
    else:
        print(f"{tagged.name}@{name} is {tagged.id}")


# ---------------------------------------------------------------------------------------------------------- maintenance


@app.command(rich_help_panel="Workspace", epilog=_example("winnow fsck\nwinnow fsck quickstart --json"))
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
        _print_json([vars(one) for one in damage])
    elif damage:
        print("\n".join(map(str, damage)))
    else:
        print("Nothing is damaged.")
    if damage:
        raise typer.Exit(1)


@app.command(rich_help_panel="Workspace", epilog=_example("winnow gc --dry-run\nwinnow gc --versions --yes"))
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
            _print_table(("what", "size", "path", "why"), lines, right=("size",))
    sure = yes and not dry_run
    if report.items and not (dry_run or yes or as_json) and sys.stdin.isatty():
        sure = typer.confirm(f"Remove {len(report.items):,} things, {size(report.bytes)}?")
    if sure and report.items:
        report = collect(workspace, dry_run=False, versions=versions)
    if as_json:
        _print_json(report.to_dict())
    elif not report.items:
        print("There is nothing to remove.")
    elif report.done:
        print(f"Removed {len(report.items):,} things, {size(report.bytes)}.")
    else:
        print(f"Nothing was removed; {size(report.bytes)} could be. `winnow gc --yes` does it without asking.")


@app.command(rich_help_panel="Workspace", epilog=_example("winnow doctor\nwinnow doctor --json"))
def doctor(workspace: Workspace = None, as_json: Json = False) -> None:
    """Say what this machine can do: packages, engines, teachers, and the command that installs what is missing."""
    from curation.doctor import examine

    report = examine(workspace)
    if as_json:
        _print_json(report.to_dict())
    else:
        print(report.text())


# -------------------------------------------------------------------------------------------------------------- helpers


@app.command(
    rich_help_panel="More",
    epilog=_example("""
winnow schema recipe > recipe.schema.json
winnow schema stages
winnow schema ledger
"""),
)
def schema(
    kind: Annotated[
        str, typer.Argument(metavar="[KIND]", help="recipe, stages, exports, rows, images, traces, verdicts or ledger.")
    ] = "recipe",
    as_json: Json = False,
) -> None:
    """Print the JSON Schema of recipes, what stages and exports there are, or the columns of a table.

    For editors, put this line on top of a recipe: # yaml-language-server: $schema=recipe.schema.json
    """
    from curation import schema as described

    found = described.describe(kind)
    if as_json or kind == "recipe":
        _print_json(found)
    else:
        _print_table(tuple(found[0]), [tuple(line.values()) for line in found])


@app.command(
    rich_help_panel="More",
    epilog=_example(r"""
winnow check "\frac{1}{2}" "So the answer is 0.5."
winnow check B "It must be the second one: (B)." --choice cat --choice dog
winnow check --file pairs.jsonl --json
"""),
)
def check(
    gold: Annotated[str | None, typer.Argument(metavar="[GOLD]", help="The right answer.")] = None,
    response: Annotated[str | None, typer.Argument(metavar="[RESPONSE]", help="What a model said.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="JSON Lines of {gold, response, …}; `expected` measures the checker.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="What the gold is: choice, number, math, text, …")] = None,
    choice: Annotated[list[str] | None, typer.Option(help="An option of a multiple-choice question, in order.")] = None,
    question: Annotated[str | None, typer.Option(help="The question, where its options stand in it.")] = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Ask the checker whether a response gives the right answer, and why."""
    if file is not None and gold is None:
        from curation.answers import check_file

        report = check_file(file, workers=workers or 1)
        print(report.json() if as_json else report.summary)
        return
    if gold is None or response is None or file is not None:
        raise typer.BadParameter("Give GOLD and RESPONSE, or --file FILE.")
    from curation import answers

    if as_json:
        from dataclasses import asdict

        _print_json(asdict(answers.check(gold, response, kind=kind, choices=choice, question=question)))
    else:
        print(answers.explain(gold, response, kind=kind, choices=choice, question=question))


def _print_table(columns: tuple[str, ...], lines: list[tuple[Any, ...]], right: tuple[str, ...] = ()) -> None:
    from curation.output import print_table

    print_table(columns, lines, right=right)


if __name__ == "__main__":
    main()
