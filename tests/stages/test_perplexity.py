"""perplexity: a real tiny model scores answers; what counts, what is asked once, and what an outage leaves behind."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from curation import build, plan
from curation.teachers import Message, Request, Sampling, TransformersLocal, Want
from curation.versions import Version
from schemas.errors import RecipeError, WinnowError
from tests.teachers import tiny_models

torch = pytest.importorskip("torch", reason="pip install 'winnow[train]'")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.text(tmp_path_factory.mktemp("model"))


def given(messages: tuple[Message, ...], text: str, images: tuple[str, ...] = ()) -> Request:
    return Request(messages, images, (Want("k", 0),), 0, 1, text)


def by_hand(folder: Path, prompt: str, answer: str) -> list[float]:
    """Token by token: the model reads all that stands before a token, and nothing else."""
    import transformers

    words = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = words(prompt)["input_ids"]
    said = []
    for token in words(answer)["input_ids"]:
        with torch.inference_mode():
            said.append(float(model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[token]))
        ids = [*ids, token]
    return said


def count(folder: Path, text: str) -> int:
    import transformers

    return len(transformers.AutoTokenizer.from_pretrained(folder)(text)["input_ids"])


def test_only_the_tokens_of_the_answer_count(tiny: Path) -> None:
    model = TransformersLocal(model=str(tiny), device="cpu").open(lambda hashes: {}, tiny)
    ask = [
        given((Message("system", "Be brief."), Message("user", question)), "It is a b.")
        for question in ("x", "why " * 40)
    ]
    found = list(model.ask(ask, Sampling()))
    for question, answer in zip(("x", "why " * 40), found, strict=True):
        prompt = (
            f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        )
        assert answer.logprobs == pytest.approx(by_hand(tiny, prompt, "It is a b."), abs=1e-5)
        assert answer.output_tokens == count(tiny, "It is a b.") and answer.finish == "finished"
    again = list(model.ask(reversed(ask), Sampling()))
    assert [a.logprobs for a in reversed(again)] == [a.logprobs for a in found]  # to the last digit, in any company


def test_a_picture_is_read_before_the_answer(tmp_path: Path) -> None:
    import io

    from PIL import Image

    shown = {}
    for name, colour in (("red", (250, 0, 0)), ("blue", (0, 0, 250))):
        sink = io.BytesIO()
        Image.new("RGB", (56, 56), colour).save(sink, "PNG")
        shown[name] = sink.getvalue()
    folder = tiny_models.vision(tmp_path / "model")
    model = TransformersLocal(model=str(folder), device="cpu").open(lambda names: {n: shown[n] for n in names}, folder)
    ask = [given((Message("user", "Which colour is <image>?"),), "red", (name,)) for name in ("red", "blue", "red")]
    red, blue, same = list(model.ask(ask, Sampling()))
    assert red.logprobs == same.logprobs != blue.logprobs and len(red.logprobs or ()) == 3
    assert red.prompt_tokens is not None and red.prompt_tokens > 20


ROWS = [
    {"id": "plain", "question": "What is 1 + 1?", "answer": "2", "solution": "aaaaaaaaaaaaaaaa", "said": ["The answer is \\boxed{2}.", "The answer is \\boxed{3}."]},
    {"id": "other", "question": "What is 2 + 2?", "answer": "4", "solution": "zq§x#\\@~ü", "said": ["So \\boxed{4}", "It is \\boxed{4}, I think. "]},
    {"id": "none", "question": "What is 3 + 3?", "answer": "6", "solution": None, "said": ["\\boxed{7}"]},
]  # fmt: skip


@pytest.fixture
def made(tmp_path: Path, tiny: Path) -> Any:
    """made(perplexity options, further stages) builds a version of ROWS with recorded traces."""
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({k: v for k, v in row.items() if k != "said"}) + "\n" for row in ROWS)
    )
    lines = [{"id": row["id"], "response": text, "sample": k} for row in ROWS for k, text in enumerate(row["said"])]  # type: ignore[arg-type]
    (tmp_path / "traces.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def make(further: tuple[dict[str, Any], ...] = (), workers: int = 1, **options: Any) -> Version:
        teacher = {"kind": "transformers_local", "model": str(tiny), "device": "cpu"}
        recipe = {
            "name": "made",
            "sources": [{"jsonl": "rows.jsonl"}],
            "stages": [
                {"stage": "fanout", "n": 2, "system": "Be brief.", "teacher": {"kind": "recorded", "path": "traces.jsonl", "k": "sample"}},
                {"stage": "verify"},
                {"stage": "perplexity", "teacher": teacher, **options},
                *further,
            ],
            "outputs": [{"export": "rows"}],
        }  # fmt: skip
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        return build(tmp_path / "recipe.yaml", workspace=tmp_path / "ws", workers=workers)

    return make


def told(version: Version) -> dict[str, tuple[float | None, int]]:
    rows = pl.read_parquet(version.files("decisions"))
    return {i: (p, n) for i, p, n in rows.select("id", "perplexity", "perplexity_tokens").iter_rows()}


def notes(version: Version) -> dict[str, Any]:
    return next(stage["notes"] for stage in version.manifest["stages"] if stage["kind"] == "perplexity")


def test_correct_traces_of_a_row_are_taken_together(made: Any, tiny: Path) -> None:
    found = told(made())
    head = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    )
    said = by_hand(tiny, head, "So \\boxed{4}") + by_hand(tiny, head, "It is \\boxed{4}, I think.")
    assert found["other"] == (pytest.approx(math.exp(-sum(said) / len(said)), rel=1e-5), len(said))
    assert found["plain"][1] == count(tiny, "The answer is \\boxed{2}.")
    assert found["none"] == (None, 0)  # none of its traces is correct
    assert told(made(max_per_row=1))["other"][1] == count(tiny, "So \\boxed{4}")
    assert told(made(of="finished"))["plain"][1] == 2 * found["plain"][1]


def test_nothing_is_scored_twice_and_workers_change_nothing(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made(of="finished")
    assert (notes(first)["scored"], notes(first)["answers"]) == (5, 5)
    import shutil

    shutil.rmtree(tmp_path / "ws" / "stages")  # all cached stages
    with monkeypatch.context() as patch:
        patch.setattr(TransformersLocal, "open", lambda *_: pytest.fail("the model is not needed"))
        again = made(of="finished", workers=2)
    assert again.id == first.id
    third = made()  # its answers are among those
    assert "scored" not in notes(third) and notes(third)["answers"] == 3


def test_difficulty_goes_by_it(made: Any) -> None:
    last = {"stage": "difficulty", "keep": "perplexity is not null", "rank_by": "perplexity", "curriculum": "easy_first",
            "quantiles": {"perplexity": [0.0, 1.0]}, "quantiles_by": None, "buckets": {"likely": 100, "unlikely": 1e9}}  # fmt: skip
    version = made((last,), of="solution")
    rows = {row["id"]: row for row in pl.read_parquet(version.files("decisions")).to_dicts()}
    assert rows["other"]["perplexity"] != rows["plain"]["perplexity"]
    low, high = sorted(("plain", "other"), key=lambda i: rows[i]["perplexity"])
    assert (rows[low]["curriculum"], rows[high]["curriculum"]) == (0, 1)
    (gone,) = version.ledger().filter(pl.col("fate") == "dropped").to_dicts()
    assert gone["reason"] == "outside_band" and json.loads(gone["evidence"])["perplexity"] is None
    assert notes(version) == {"scored": 2, "missed": 0, "model": notes(version)["model"], "answers": 2, "unscored": 0}


def test_an_outage_leaves_rows_open_and_the_next_build_asks_again(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from curation.teachers import transformers_local
    from curation.teachers.base import failed

    real = transformers_local.LocalModel._score
    with monkeypatch.context() as patch:
        patch.setattr(
            transformers_local.LocalModel, "_score",
            lambda self, request: failed(request, "out of memory") if "4" in (request.given or "") else real(self, request),
        )  # fmt: skip
        version = made()
    assert told(version)["other"] == (None, 0) and told(version)["plain"][0] is not None
    assert (notes(version)["missed"], notes(version)["unscored"]) == (2, 2)
    mended = made()
    assert told(mended)["other"][0] is not None and (notes(mended)["scored"], notes(mended)["unscored"]) == (2, 0)
    monkeypatch.setattr(
        transformers_local.LocalModel,
        "_score",
        lambda self, request: failed(request, "rejected: too long for this model"),
    )
    refused = made(of="solution")
    assert told(refused)["plain"] == (None, 0)
    assert notes(refused)["refused"] == {"answers": 2, "reasons": ["too long for this model"]}


def test_a_build_that_stops_keeps_what_was_scored(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from curation.teachers import transformers_local

    real, asked = transformers_local.LocalModel._score, []

    def stops(self: Any, request: Request) -> Any:
        asked.append(request.given)
        if len(asked) == 3:
            raise WinnowError("No endpoint of the teacher answers")
        return real(self, request)

    with monkeypatch.context() as patch:
        patch.setattr(transformers_local.LocalModel, "_score", stops)
        with pytest.raises(WinnowError, match="No endpoint"):
            made(of="finished")
    assert notes(made(of="finished"))["scored"] == 3  # of five


def test_who_cannot_score_is_told_before_the_build(made: Any, tmp_path: Path) -> None:
    made()
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    recipe["stages"][2]["teacher"] = {"kind": "recorded", "path": "traces.jsonl"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(RecipeError, match=r"`teacher`: `kind` can't be `recorded`.*\n.*\n.*`vllm_offline`"):
        plan(tmp_path / "recipe.yaml", workspace=tmp_path / "ws")
    recipe["stages"][2]["teacher"] = {"model": "some/model"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(RecipeError, match=r"`kind` is missing in `teacher`.*\n.*\n.*`vllm_offline`"):
        plan(tmp_path / "recipe.yaml", workspace=tmp_path / "ws")
    recipe["stages"][2] = {"stage": "perplexity", "teacher": {"kind": "transformers_local", "model": "no/such-model"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(WinnowError, match="no/such-model"):
        build(tmp_path / "recipe.yaml", workspace=tmp_path / "ws", workers=1)
