"""A synthetic version of any size, written by DuckDB: 8 sources, every fate, eight judged traces a row, some pictures."""

from __future__ import annotations

import io
import json
from pathlib import Path

import duckdb
from PIL import Image

from curation import store
from curation.images import ImageWriter

SOURCES = 8
WORDS = "['triangle', 'integer', 'apples', 'train', 'sum', 'probability', 'circle', 'root', 'matrix', 'graph', 'less', 'average', 'digit', 'speed', 'price']"


def write_large(workspace: Path, rows: int, traces: int = 8, pictures: int = 200) -> Path:
    """Write versions/large/000000000001 of `rows` input rows with `traces` traces each; return its folder."""
    store.open_workspace(workspace)
    folder = workspace / "versions" / "large" / "000000000001"
    for part in ("decisions", "traces", "verdicts", "data/sft"):
        (folder / part).mkdir(parents=True)
    with ImageWriter(workspace) as writer:
        hashes = []
        for n in range(pictures):
            sink = io.BytesIO()
            Image.new("RGB", (320, 200), (n % 256, 40, 200 - n % 200)).save(sink, "PNG")
            hashes.append(writer.add(sink.getvalue()))
    with duckdb.connect(str(workspace / "large.duckdb")) as db:
        db.execute(f"set memory_limit = '4GB'; set temp_directory = '{workspace / 'spill'}'")
        db.execute(f"create macro id(n) as left(md5('row ' || n), 20); create macro word(n) as ({WORDS})[1 + n % 15]")
        db.execute(f"""
            create table base as
            select id(i) as row_id, i, 'source_' || (i % {SOURCES}) as source,
                case when i % 20 = 1 then 'merged' when i % 25 = 2 then 'dropped' when i % 100 = 3 then 'quarantined' else 'kept' end as fate
            from range({rows}) t(i) order by row_id""")
        copy = "(format parquet, compression zstd, row_group_size 65536)"
        db.execute(f"""
            copy (select row_id, row_id as content_id, source || ':' || i as origin_key, source, 'train' as split, fate,
                case fate when 'merged' then 'dedup' when 'dropped' then 'filter' when 'quarantined' then 'source:' || source else 'export' end as stage,
                case fate when 'merged' then 'duplicate' when 'dropped' then 'too_long' when 'quarantined' then 'no_answer' else 'kept' end as reason,
                case fate when 'kept' then null else 'It has a reason.' end as sentence,
                case fate when 'merged' then '{{"similarity": 0.97}}' end as evidence,
                case fate when 'merged' then id(i - 1) end as "into", 1 as repeat, 'in.parquet' as file, i as "index" from base)
            to '{folder}/ledger.parquet' {copy}""")
        names = "[" + ", ".join(f"'{name}'" for name in hashes) + "]"
        db.execute(f"""
            copy (select row_id, row_id as content_id, source || ':' || i as origin_key, source, i::varchar as id,
                'Question ' || i || ': a ' || word(i) || ' and a ' || word(i // 15) || ' of ' || word(i // 225) || ' with $x_{{' || i || '}}^2 + ' || (i % 977) || '$ are given. '
                    || repeat('How many of them are there after ' || (i % 31) || ' steps? ', 1 + i % 4) as question,
                null::varchar as question_raw, (i % 1000)::varchar as answer, null::varchar as answer_raw, null::varchar[] as choices,
                'It is so.' as solution, case when i % 10 = 0 then [({names})[1 + i % {pictures}]] else []::varchar[] end as images,
                case when i % 8 = 7 then 'CC-BY-NC-4.0' else 'MIT' end as license, null::varchar as meta, 'en' as language, (20 + i % 90)::int as n_tokens,
                'train' as split, null::varchar as label_conflict, case when i % 500 = 0 then 'suspect_gold' end as label_problem, null::varchar as family,
                {traces}::int as n_traces, {traces}::int as n_judged, (i % ({traces} + 1))::int as n_correct, (i % ({traces} + 1)) / {traces}::double as pass_rate
                from base where fate <> 'quarantined')
            to '{folder}/decisions/part-00000-of-00001.parquet' {copy}""")
        each = f"(select row_id, i, unnest(range({traces})) as k from base)"
        db.execute(f"""
            copy (select row_id, k::int as k, 'fanout' as stage, 0::int as attempt, left(md5(row_id), 12) as key, 'openai_server' as teacher, 'synthetic' as model,
                '<think>' || repeat('First I look at step ' || k || ' of ' || i || '. ', 4 + (i + k) % 5) || '</think>The answer is \\boxed{{' || (i % 1000 + (k >= i % ({traces} + 1))::int) || '}}.' as text,
                case when (i + k) % 50 = 0 then 'truncated' else 'finished' end as finish, null::varchar as finish_reason, null::varchar as malformed, null::varchar as repair,
                60::int as prompt_tokens, (200 + (i * 7 + k * 131) % 3000)::int as output_tokens, null::float[] as logprobs,
                case when k < i % ({traces} + 1) then 'exported' else 'not_exported' end as fate,
                case when k < i % ({traces} + 1) then null else 'not_correct:incorrect' end as fate_reason from {each})
            to '{folder}/traces/part-00000-of-00001.parquet' {copy}""")
        db.execute(f"""
            copy (select row_id, k::int as k, case when k < i % ({traces} + 1) then 'correct' else 'incorrect' end as state, case when i % 3 = 0 then 'text' when i % 3 = 1 then 'number' else 'symbolic' end as method,
                'box' as rule, (i % 1000 + (k >= i % ({traces} + 1))::int)::varchar as extracted, 100::int as span_start, 110::int as span_end, (i % 1000)::varchar as gold_normal,
                (i % 1000 + (k >= i % ({traces} + 1))::int)::varchar as answer_normal, '{{}}' as evidence, 0.0::double as seconds from {each})
            to '{folder}/verdicts/part-00000-of-00001.parquet' {copy}""")
        db.execute(
            f"copy (select row_id from base where fate = 'kept') to '{folder}/data/sft/train-00000-of-00001.parquet' {copy}"
        )
        counted = db.execute("select source, fate, count(*) from base group by all order by all").fetchall()
    (workspace / "large.duckdb").unlink()
    by_source: dict[str, dict[str, int]] = {}
    for source, fate, n in counted:
        by_source.setdefault(source, {})[fate] = n
    fates = {
        fate: sum(of.get(fate, 0) for of in by_source.values()) for fate in ("kept", "dropped", "merged", "quarantined")
    }
    names_of_stages = [*(f"source:{s}" for s in by_source), "filter", "dedup", "fanout", "verify"]
    manifest = {
        "format": 1, "name": "large", "id": folder.name, "description": "A synthetic version.", "seed": 1, "limit": None, "shards": 1,
        "recipe": "name: large\n", "counts": {"input": rows, **fates, "sources": by_source, "examples": {"sft": fates["kept"]}, "traces": {}},
        "splits": {"sft": {"train": fates["kept"]}}, "outputs": [{"name": "sft", "export": "sft", "config": {}}],
        "stages": [{"name": n, "kind": n.partition(":")[0], "rows_in": rows, "rows_out": rows, "notes": {}} for n in names_of_stages],
        "inputs": {s: [{"path": "in.parquet", "bytes": 1, "sha256": ""}] for s in by_source}, "licenses": {}, "libraries": {"winnow": "0.1.0"},
        "files": {}, "run": {"created": "2026-01-02T03:04:05+00:00", "seconds": 1.0}, "entry_files": {},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
