"""Teachers with a real vLLM engine: in this process's hands, and behind HTTP. The models are tiny, random, made on the spot.

Each build runs in a process of its own, as a person's would: the engine takes threads and memory that tests beside it
should not miss.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from PIL import Image

from curation import open_version
from curation.teachers.local import state_of
from curation.teachers.serve import command, shared_by

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

ENGINE = {"enforce_eager": True, "max_model_len": 512, "engine": {"distributed_executor_backend": "uni"}}
SMALL = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "OMP_NUM_THREADS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


def offline(model: Path, **options: Any) -> dict:
    config = {"kind": "vllm_offline", "model": str(model), "dtype": "float32", **ENGINE, **options}
    config["engine"] = {**ENGINE["engine"], "enforce_eager": config.pop("enforce_eager")}
    return config


def build(
    folder: Path, name: str, teacher: dict, *, pictures: bool = False, further: str = "", **options: Any
) -> pl.DataFrame:
    """The traces of a recipe over eight questions, built in a process of its own."""
    records = [{"id": f"q{i}", "question": f"What is {i} + {i}?{further}", "answer": str(2 * i)} for i in range(8)]
    if pictures:
        for i, record in enumerate(records):
            sink = io.BytesIO()
            Image.new("RGB", (56, 56), (30 * i, 10, 200 - 20 * i)).save(sink, "PNG")
            (folder / f"{i}.png").write_bytes(sink.getvalue())
            record.update(question="Which colour is <image>?", image=f"{i}.png")
    (folder / "rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    source = {"jsonl": "rows.jsonl", **({"columns": {"images": "image"}} if pictures else {})}
    recipe = {
        "name": name,
        "sources": [source],
        "stages": [{"stage": "fanout", "teacher": teacher, "max_tokens": 24, **options}, {"stage": "verify"}],
        "outputs": [{"export": "sft", "traces": "all"}, {"export": "rl"}],
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    words = [sys.executable, "-m", "curation.cli", "build", f"{name}.yaml", "--workspace", "ws", "--quiet"]
    done = subprocess.run(words, cwd=folder, env={**os.environ, **SMALL}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return open_version(name, folder / "ws").traces()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def four(home: Path, tiny: Path) -> pl.DataFrame:
    """The traces of an offline fan-out of four."""
    return build(home, "four", offline(tiny), n=4)


def test_the_engine_answers_every_row(four: pl.DataFrame, tiny: Path) -> None:
    assert len(four) == 32 and set(four["teacher"]) == {"vllm_offline"}
    assert set(four["finish"]) <= {"finished", "truncated"}
    assert four.filter(finish="truncated")["output_tokens"].unique().to_list() == [24]
    assert four["text"].n_unique() > 24  # they are drawn, each on its own
    assert four["prompt_tokens"].null_count() == 0


def test_four_become_eight_by_asking_for_four_more(four: pl.DataFrame, home: Path, tiny: Path) -> None:
    """And a fan-out of eight at once, elsewhere, says the same: every answer has the seed of its k."""
    eight = build(home, "eight", offline(tiny), n=8)
    manifest = open_version("eight", home / "ws").manifest
    (stage,) = [s for s in manifest["stages"] if s["kind"] == "fanout"]
    assert (stage["notes"]["asked"], stage["notes"]["reused"]) == (32, 32)
    columns = ["row_id", "k", "text", "finish", "output_tokens"]
    assert eight.filter(pl.col("k") < 4).select(columns).equals(four.select(columns))
    fresh = home / "fresh"
    fresh.mkdir()
    at_once = build(fresh, "eight", offline(tiny), n=8)
    assert at_once.select(columns).equals(eight.select(columns))


def test_more_prompts_than_fit_one_step(home: Path, tiny: Path) -> None:
    """64 answers to prompts of 200 tokens are more than the 4,096 tokens that vLLM reads in a step."""
    told = build(home, "long", offline(tiny), n=8, further=" Think about it well." * 10)
    assert len(told) == 64 and told["prompt_tokens"].min() > 100
    assert set(told["finish"]) <= {"finished", "truncated"}


def test_logprobs_agree_with_transformers(home: Path, tiny: Path) -> None:
    """The same tokens under the same model: log-probabilities of both engines agree to 1e-3."""
    import torch
    import transformers

    told = build(home, "logprobs", offline(tiny), n=1, logprobs=True, temperature=0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()
    questions = {
        r["row_id"]: r["question"]
        for r in pl.read_parquet(open_version("logprobs", home / "ws").files("decisions")).to_dicts()
    }
    compared = 0
    for line in told.to_dicts():
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": questions[line["row_id"]]}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )["input_ids"]
        assert prompt.shape[1] == line["prompt_tokens"]
        with torch.inference_mode():
            made = model.generate(
                prompt,
                generation_config=transformers.GenerationConfig(
                    max_new_tokens=24, do_sample=False, repetition_penalty=1.0, eos_token_id=1, pad_token_id=2
                ),
                output_logits=True,
                return_dict_in_generate=True,
            )
        want = [float(made.logits[i][0].log_softmax(-1).max()) for i in range(len(made.logits))]
        assert line["logprobs"] == pytest.approx(want, abs=1e-3)
        compared += len(want)
    assert compared > 100


def test_pictures_reach_the_engine(home: Path, tiny_vision: Path) -> None:
    folder = home / "seen"
    folder.mkdir()
    teacher = offline(tiny_vision, max_pixels=56 * 56)
    teacher["engine"]["limit_mm_per_prompt"] = {"image": 1, "video": 0}
    seen = build(folder, "seen", teacher, pictures=True, n=2)
    assert len(seen) == 16 and set(seen["finish"]) <= {"finished", "truncated"}
    # The prompts differ in their picture alone, and so do the answers.
    assert seen.filter(k=0)["text"].n_unique() == 8


@pytest.fixture(scope="module")
def served(home: Path, tiny: Path):
    """A real vLLM server, as `winnow serve-teacher` starts it: (url, name of the model)."""
    yield from serving(home, tiny)


@pytest.fixture(scope="module")
def served_vision(home: Path, tiny_vision: Path):
    yield from serving(home, tiny_vision)


def serving(home: Path, tiny: Path):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["serve-teacher", str(tiny), "--port", str(port), "--max-model-len", "512", "--dtype", "float32"]
    log = (home / "server.log").open("w")
    environment = {**os.environ, **SMALL, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "curation.cli", *words],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}/v1"
    deadline = time.monotonic() + 600
    while True:
        try:
            with urllib.request.urlopen(f"{url}/models", timeout=5):
                break
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, (home / "server.log").read_text()[-3000:]
            time.sleep(1)
    yield url, str(tiny)
    os.killpg(process.pid, 9)
    process.wait()
    log.close()


def test_a_served_model_says_what_the_engine_in_hand_says(served: Any, four: pl.DataFrame, home: Path) -> None:
    """With the same revision the keys are the same, and so are the seeds: the same answers, in a store of its own."""
    url, model = served
    folder = home / "http"
    folder.mkdir()
    revision = state_of(model, None, folder)
    asked = build(folder, "served", {"kind": "openai_server", "url": url, "model": model, "revision": revision}, n=4)
    columns = ["row_id", "k", "key", "text", "finish", "prompt_tokens", "output_tokens"]
    assert set(asked["teacher"]) == {"openai_server"}
    assert asked.select(columns).equals(four.select(columns))


def test_what_is_too_long_for_the_server_is_rejected_and_said(served: Any, home: Path) -> None:
    url, model = served
    folder = home / "long"
    folder.mkdir()
    system = "word " * 2000
    long = build(folder, "long", {"kind": "openai_server", "url": url, "model": model}, n=1, system=system)
    assert set(long["finish"]) == {"failed"}
    assert all(reason.startswith("rejected: 400") for reason in long["finish_reason"])


ASKED = """
import io, json, sys
from pathlib import Path
from pydantic import TypeAdapter
from PIL import Image
from curation.teachers import AnyModel, Message, Request, Sampling, Want

def picture(name):
    sink = io.BytesIO()
    Image.new("RGB", (56, 56), {"red": (250, 0, 0), "blue": (0, 0, 250)}[name]).save(sink, "PNG")
    return sink.getvalue()

config, conversations = json.loads(sys.argv[1])
teacher = TypeAdapter(AnyModel).validate_python(config).open(lambda names: {n: picture(n) for n in names}, Path())
asked = [
    Request((Message("system", "Be brief."), Message("user", question)), tuple(images), (Want(str(n), 0),), 0, 1, answer)
    for n, (question, images, answer) in enumerate(conversations)
]
found = sorted(teacher.ask(asked, Sampling()), key=lambda a: int(a.key))
print("SAID", json.dumps([[a.logprobs, a.prompt_tokens, a.finish_reason] for a in found]))
teacher.close()
"""
CONVERSATIONS = [
    ["What is 1 + 1?", [], "It is 2.\nI am sure."],
    ["Why?", [], "zq\u00a7 \u7b54\u6848 #@~"],
    ["word " * 60, [], "a b a b"],
]
SEEN = [["Which colour is <image>?", ["red"], "red, a b"], ["Which colour is <image>?", ["blue"], "red, a b"]]


def given(config: dict, conversations: list) -> list:
    """[log-probabilities, prompt's tokens, reason] of each answer, by a teacher in a process of its own."""
    words = [sys.executable, "-c", ASKED, json.dumps([config, conversations])]
    done = subprocess.run(words, env={**os.environ, **SMALL}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    (said,) = [line for line in done.stdout.splitlines() if line.startswith("SAID ")]
    return json.loads(said[5:])


def agree(found: list, wanted: list) -> None:
    assert len(found) == len(wanted) > 1
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine[0] == pytest.approx(theirs[0], abs=1e-3) and mine[1:] == theirs[1:]


def test_all_teachers_score_a_given_answer_alike(served: Any, tiny: Path) -> None:
    """Prompt and answer are tokenised each by itself, so the very same tokens count."""
    url, model = served
    wanted = given({"kind": "transformers_local", "model": str(tiny), "device": "cpu"}, CONVERSATIONS)
    assert all(len(line[0]) >= 5 for line in wanted)
    agree(given({"kind": "openai_server", "url": url, "model": model}, CONVERSATIONS), wanted)
    agree(given(offline(tiny), CONVERSATIONS), wanted)
    (long,) = given({"kind": "openai_server", "url": url, "model": model}, [["word " * 600, [], "a"]])
    assert long[0] is None and long[2].startswith("rejected: 400")


def test_they_do_so_behind_a_picture(served_vision: Any, tiny_vision: Path) -> None:
    url, model = served_vision
    wanted = given({"kind": "transformers_local", "model": str(tiny_vision), "device": "cpu"}, SEEN)
    assert wanted[0][0] != wanted[1][0]
    agree(given({"kind": "openai_server", "url": url, "model": model}, SEEN), wanted)
    teacher = offline(tiny_vision)
    teacher["engine"]["limit_mm_per_prompt"] = {"image": 1, "video": 0}
    agree(given(teacher, SEEN), wanted)


def test_how_many_gpus_share_a_model() -> None:
    gb = 10**9
    assert shared_by(15 * gb, [80 * gb] * 8) == 1
    assert shared_by(60 * gb, [80 * gb] * 8) == 2
    assert shared_by(470 * gb, [80 * gb] * 8) == 8
    assert shared_by(None, [80 * gb] * 6) == 4
    assert command("org/model", port=81, further=["--dtype", "bfloat16"]).text().endswith("--dtype bfloat16")
