"""The three exports: which rows and traces they take, what they write, and what they say of the rest."""

from __future__ import annotations

import pyarrow as pa
import pytest
from pydantic import ValidationError

from curation import exports


@pytest.fixture
def data(make):
    """Rows with a picture, without, without gold, with a mark too many, and without traces."""
    rows = make.rows(
        [
            {
                "question": "Left <image> or right <image>?",
                "images": ["h0", "h1"],
                "answer": "1",
                "choices": ["p", "q"],
                "license": "MIT",
            },
            {"question": "plain", "images": [], "answer": "2", "solution": "Because."},
            {"question": "open", "images": ["h2"], "answer": None},
            {"question": "odd <image>", "images": None, "answer": "4"},
            {"question": "silent", "answer": " "},
        ],
        pass_rate=[0.5, 1.0, None, 0.0, None],
        split=["train", "held_out", "train", "train", "train"],
    )
    traces = make.traces(rows, [["a0", "a1", "a2"], ["b0", None], ["c0"], ["d0"], []])
    states = ["correct", "incorrect", "correct", "correct", "checker_error", "undecided", "correct"]
    return rows, traces, make.verdicts(traces, states)


def built(kind, rows, traces=None, verdicts=None, /, *, pictures=True, **options):
    export = exports.load()[kind]
    config = export.settle(export.config.model_validate({"export": kind, **options}), pictures)
    made = export.build(config, rows, traces, verdicts)
    features = export.features(config, made.table.drop_columns(["split"]).schema)
    assert set(features) <= set(made.table.column_names)
    return made, features


def reasons(made):
    return [(line["row_id"][:3], line["k"], line["reason"]) for line in made.trace_reasons.to_pylist()]


def chosen(made):
    return [(line["row_id"][:3], line["k"]) for line in made.table.select(["row_id", "k"]).to_pylist()]


def test_sft_takes_correct_traces_and_says_why_not_the_others(data):
    made, features = built("sft", *data)
    # Sorted by split first: held_out comes before train.
    assert chosen(made) == [("001", 0), ("000", 0), ("000", 2)]
    assert reasons(made) == [
        ("000", 1, "not_correct:incorrect"),
        ("001", 1, "failed"),
        ("002", 0, "not_correct:undecided"),
    ]
    assert {row_id[:3]: reason for row_id, (reason, _) in made.row_reasons.items()} == {
        "003": "image_marks",
        "002": "no_chosen_trace",
        "004": "no_trace",
    }
    first = made.table.to_pylist()[1]
    assert first["messages"][0]["content"][-1] == {"type": "text", "text": "?\nA. p\nB. q"}
    assert first["messages"][1] == {"role": "assistant", "content": [{"type": "text", "text": "a0"}]}
    assert (first["images"], first["license"], first["pass_rate"]) == (["h0", "h1"], "MIT", 0.5)
    assert made.table["images"][0].as_py() == []
    assert list(features) == ["row_id", "k", "messages", "images", "source", "license", "language", "pass_rate"]


NOT_CORRECT = {"failed", "not_correct:incorrect", "not_correct:undecided"}
ALL = [("001", 0), ("000", 0), ("000", 1), ("000", 2), ("002", 0)]


@pytest.mark.parametrize(
    ("options", "expected", "left"),
    [
        ({"traces": "all"}, ALL, {"failed"}),
        ({"traces": "all", "max_per_row": 2}, ALL[:3] + ALL[4:], {"failed", "over_max_per_row"}),
        ({"traces": "correct", "max_per_row": 1}, ALL[:2], NOT_CORRECT | {"over_max_per_row"}),
        ({"traces": "state = 'incorrect' or k >= 2"}, ALL[2:4], {"failed", "not_selected"}),
    ],
)
def test_sft_choices_of_traces(data, options, expected, left):
    made, _ = built("sft", *data, **options)
    assert chosen(made) == expected
    assert {reason for _, _, reason in reasons(made)} == left
    exported = {(row_id, k) for row_id, k in chosen(made)}
    told = {(row_id, k) for row_id, k, _ in reasons(made)}
    assert not exported & told
    assert len(exported | told) == 6  # every trace of a row that can be shown: exported, or with a reason


def test_a_trace_without_a_verdict_is_not_correct(data, make):
    rows, traces, verdicts = data
    made, _ = built("sft", rows, traces, verdicts.slice(1))
    assert ("000", 0, "not_verified") in reasons(made)
    assert ("000", 2) in chosen(made)


def test_truncated_traces_are_not_finished(make):
    rows = make.rows([{"question": "q"}])
    cut = make.traces(rows, [["half"]], finish="truncated")
    made, _ = built("sft", rows, cut, traces="finished", pictures=False)
    assert len(made.table) == 0
    assert reasons(made) == [("000", 0, "truncated")]
    assert next(iter(made.row_reasons.values()))[0] == "no_chosen_trace"


def test_sft_from_solutions_is_plain_text_without_pictures(data):
    rows, *_ = data
    made, features = built(
        "sft",
        rows.slice(1, 1),
        responses="solution",
        pictures=False,
        system="Think.",
        response="{response}\n#### {answer}",
    )
    assert made.table["messages"].to_pylist() == [
        [
            {"role": "system", "content": "Think."},
            {"role": "user", "content": "plain"},
            {"role": "assistant", "content": "Because.\n#### 2"},
        ]
    ]
    assert "images" not in features
    assert "k" not in features


def test_openai_layout_names_pictures(data):
    made, features = built("sft", *data, layout="openai")
    line = made.table.to_pylist()[1]
    assert line["id"] == line["row_id"] + "-0"
    parts = line["messages"][0]["content"]
    assert [p["type"] for p in parts] == ["text", "image_url", "text", "image_url", "text"]
    assert [p["image_url"]["url"] for p in parts if p["type"] == "image_url"] == ["h0", "h1"]
    assert "images" not in features
    export = exports.load()["sft"]
    assert export.linked(export.config(layout="openai")) == ("messages.content.image_url.url",)


def test_rl_is_what_verl_reads(data):
    rows, *_ = data
    made, features = built("rl", rows, system="Solve.")
    assert {row_id[:3]: reason for row_id, (reason, _) in made.row_reasons.items()} == {
        "002": "no_gold",
        "004": "no_gold",
        "003": "image_marks",
    }
    line = made.table.to_pylist()[1]
    assert line["data_source"] == "made"
    assert line["prompt"] == [
        {"role": "system", "content": "Solve."},
        {"role": "user", "content": "Left <image> or right <image>?\nA. p\nB. q"},
    ]
    assert line["images"] == ["h0", "h1"]
    assert line["reward_model"] == {"ground_truth": "1", "style": "rule"}
    assert line["extra_info"] == {
        "index": 0,
        "question": "Left <image> or right <image>?",
        "split": "train",
        "answer": "1",
        "row_id": "0" * 20,
        "choices": ["p", "q"],
    }
    assert line["pass_rate"] == 0.5
    assert made.table.to_pylist()[0]["extra_info"]["index"] == int("001" + "0" * 12, 16)
    assert list(features)[:7] == ["row_id", "data_source", "prompt", "images", "ability", "reward_model", "extra_info"]


def test_a_text_only_set_has_no_images_column(make):
    rows = make.rows([{"question": "q", "answer": "1"}])
    assert "images" not in built("rl", rows, pictures=False)[1]
    assert "images" not in built("rows", rows, pictures=False)[1]


def test_rows_are_exported_as_they_are(data):
    rows, *_ = data
    made, features = built("rows", rows)
    assert len(made.table) == 5
    assert made.row_reasons == {}
    assert made.table["question"].to_pylist()[1] == "Left <image> or right <image>?"
    assert "pass_rate" in features
    made, features = built("rows", rows, columns=["answer", "row_id"])
    assert list(features) == ["row_id", "answer"]


@pytest.mark.parametrize("kind", ["sft", "rl", "rows"])
def test_no_rows_give_no_examples(make, kind):
    rows = make.rows([])
    made, features = built(kind, rows, make.traces(rows, []), make.verdicts(make.traces(rows, []), []))
    assert len(made.table) == 0
    assert features


def test_every_cut_into_shards_gives_the_same_examples(data):
    rows, traces, verdicts = data
    whole, _ = built("sft", rows, traces, verdicts, traces="all")

    def of(table, part):
        return table.filter(pa.compute.is_in(table["row_id"], part["row_id"].combine_chunks()))

    pieces = [rows.slice(i, 1) for i in range(len(rows))]
    parts = [built("sft", p, of(traces, p), of(verdicts, p), traces="all")[0].table for p in pieces]
    joined = pa.concat_tables(parts).sort_by([("split", "ascending"), ("row_id", "ascending"), ("k", "ascending")])
    assert joined.to_pylist() == whole.table.to_pylist()
    assert all(part.schema == whole.table.schema for part in parts)


@pytest.mark.parametrize(
    "wrong",
    [
        {"export": "sft", "traces": "state = "},
        {"export": "sft", "traces": "random() < 0.5"},
        {"export": "sft", "prompt": "{nothing}"},
        {"export": "sft", "system": "see <image>"},
        {"export": "sft", "max_per_row": 0},
        {"export": "rl", "prompt": "{answer}"},
        {"export": "rows", "colums": []},
    ],
)
def test_wrong_configs_are_refused_before_any_work(wrong):
    with pytest.raises(ValidationError):
        exports.load()[wrong["export"]].config.model_validate(wrong)


def test_unknown_columns_are_problems(make):
    registry = exports.load()
    schema = make.rows([]).schema
    sft = registry["sft"]
    (problem,) = sft.check(sft.config(traces="stat = 'correct'"), schema)
    assert "stat" in str(problem)
    assert "state" in str(problem)
    (problem,) = sft.check(sft.config(keep=["licence"]), schema)
    assert "'license'" in str(problem)
    assert list(sft.check(sft.config(), schema)) == []
    assert list(registry["rl"].check(registry["rl"].config(keep=["sorce"]), schema))


def test_what_a_recipe_must_have_made_before():
    sft = exports.load()["sft"]
    assert sft.needs(sft.config()) == "verdicts"
    assert sft.needs(sft.config(traces="finished")) == "traces"
    assert sft.needs(sft.config(traces="output_tokens < 9")) == "traces"
    assert sft.needs(sft.config(traces="method = 'choice'")) == "verdicts"
    assert sft.needs(sft.config(responses="solution")) == "rows"
