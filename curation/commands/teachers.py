"""Commands about teachers: serve-teacher, traces, teacher-compare."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from curation.commands.app import Json, Reference, Workspace, app, example, print_json, print_table


@app.command(
    "serve-teacher",
    rich_help_panel="Teachers",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog=example("""
winnow serve-teacher Qwen/Qwen2.5-VL-7B-Instruct
winnow serve-teacher ./models/teacher --port 8001 --max-model-len 32768
winnow serve-teacher ./models/start --rollouts --dtype bfloat16
winnow serve-teacher ./models/teacher --print
"""),
)
def serve_teacher(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder of a model, or its repo id.")],
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 8000,
    tensor_parallel: Annotated[
        int | None, typer.Option(min=1, show_default="what the weights need", help="GPUs that share one copy.")
    ] = None,
    data_parallel: Annotated[
        int | None, typer.Option(min=1, show_default="the other GPUs", help="Copies of the model.")
    ] = None,
    max_model_len: Annotated[
        int | None, typer.Option(min=1, show_default="what the model can", help="Tokens of prompt and answer together.")
    ] = None,
    rollouts: Annotated[
        bool, typer.Option("--rollouts", help="For a trainer's `rollout.engine: vllm_server`: takes new weights.")
    ] = False,
    show: Annotated[bool, typer.Option("--print", help="Print the command; start nothing.")] = False,
) -> None:
    """Serve a model with vLLM, for recipes whose teacher is an openai_server.

    Settings fit the GPUs that are there. Further options are handed to vLLM as they are.
    """
    from curation.teachers import serve

    made = serve.command(
        model,
        host=host,
        port=port,
        tensor_parallel=tensor_parallel,
        data_parallel=data_parallel,
        max_model_len=max_model_len,
        rollouts=rollouts,
        further=ctx.args,
    )
    if show:
        print(made.text())
        return
    told = (
        f"rollout: {{engine: vllm_server, servers: [{made.url.removesuffix('/v1')}]}}"
        if rollouts
        else made.recipe(model)
    )
    print(f"Serving {model} at {made.url}. In a recipe:\n  {told}", file=sys.stderr, flush=True)
    made.become()


@app.command(
    rich_help_panel="Teachers",
    epilog=example("""
winnow traces quickstart 3f2a9c
winnow traces quickstart math_cot_100/0 --full
winnow traces quickstart 3f2a9c --images ./pictures --json
"""),
)
def traces(
    version: Reference,
    row: Annotated[
        str, typer.Argument(metavar="ROW_ID", help="Its row_id, the beginning of one, or upstream's own id.")
    ],
    full: Annotated[bool, typer.Option("--full", help="Whole texts, not their beginnings and ends.")] = False,
    images: Annotated[
        Path | None, typer.Option("--images", metavar="FOLDER", help="Where to put the row's pictures.")
    ] = None,
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:
    """Show the traces of a row side by side, each with its verdict.

    Pictures of the row are written as files, by default into the workspace, and their paths are shown.
    """
    from curation.sidebyside import look
    from curation.versions import open_version

    found = look(open_version(version, workspace), row, images)
    if as_json:
        print_json(found.to_dict())
    else:
        print(found.text(full=full))


@app.command(
    "teacher-compare",
    rich_help_panel="Teachers",
    epilog=example("""
winnow teacher-compare candidates
winnow teacher-compare candidates --price big=0.6,2.4 --price small=0.1,0.3
winnow teacher-compare candidates --json
"""),
)
def teacher_compare(
    version: Reference,
    price: Annotated[
        list[str] | None,
        typer.Option(metavar="STAGE=IN,OUT", help="Price of a million tokens, read and written; may be repeated."),
    ] = None,
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:
    """Compare the teachers of a version: its fan-outs, each with what its traces were worth.

    Give a recipe one fanout for each teacher, with a name, and verify: all are asked about the same rows.
    """
    from curation.teachers.compare import compare, prices
    from curation.versions import open_version

    lines = compare(open_version(version, workspace), prices(price or ()))
    if as_json:
        print_json([line.to_dict() for line in lines])
        return
    rows = [line.cells() for line in lines]
    print_table(tuple(rows[0]), [tuple(cells.values()) for cells in rows], right=tuple(rows[0])[2:])
