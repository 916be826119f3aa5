"""The transformers teacher with a real model: tiny, random, made on the spot."""

from __future__ import annotations

import hashlib
import io
import sys

import pytest

from curation.teachers import Message, Request, Sampling, TransformersLocal, Want
from curation.teachers.base import Prompt
from schemas.errors import WinnowError

INSTALL = "pip install 'winnow[train]'"


@pytest.fixture(scope="module")
def teacher(tiny):
    return TransformersLocal(model=str(tiny), batch_size=4, device="cpu").open(lambda hashes: {}, tiny)


def requests(teacher, sampling, n=4, texts=("hello", "a rather longer question, to be padded against")):
    made = []
    for text in texts:
        messages = (Message("system", "Be brief."), Message("user", text))
        prompt = Prompt(messages, (), model=teacher.model, revision=teacher.revision, sampling=sampling)
        wants = tuple(Want(prompt.key(k), k) for k in range(n))
        made.append(Request(messages, (), wants, prompt.seed(0), sampling.max_tokens))
    return made


def by_key(answers):
    return {a.key: (a.text, a.finish, a.output_tokens) for a in answers}


def test_an_answer_does_not_depend_on_its_batch(teacher):
    sampling = Sampling(max_tokens=12)
    wanted = requests(teacher, sampling)
    together = by_key(teacher.ask(wanted, sampling))
    alone = by_key(a for r in reversed(wanted) for i in range(4) for a in teacher.ask([r.part(i, i + 1)], sampling))
    assert together == alone
    assert len({text for text, _, _ in together.values()}) > 4  # they are drawn, each on its own


def test_truncation_is_told_by_the_missing_end(teacher):
    sampling = Sampling(max_tokens=400)
    answers = list(teacher.ask(requests(teacher, sampling, n=6, texts=("x",)), sampling))
    ended = [a for a in answers if a.finish == "finished"]
    assert ended  # a random model of 259 tokens ends within 400 draws now and then
    assert all(a.finish_reason == "stop" and a.output_tokens <= 400 and "<|im_end|>" not in a.text for a in ended)
    short = Sampling(max_tokens=min(a.output_tokens for a in ended) - 1)
    cut = list(teacher.ask(requests(teacher, short, n=6, texts=("x",)), short))
    assert {(a.finish, a.finish_reason, a.output_tokens) for a in cut} == {("truncated", "length", short.max_tokens)}
    assert all(a.prompt_tokens == answers[0].prompt_tokens for a in cut)
    # The same draws: the cut text is where the whole one begins.
    whole = {a.key: a.text for a in answers}
    assert all(whole[a.key].startswith(a.text.rstrip("\ufffd")) for a in cut)


def test_greedy_and_narrow_sampling(teacher):
    greedy = Sampling(temperature=0, max_tokens=6)
    one = requests(teacher, greedy, n=2, texts=("x",))
    first, second = teacher.ask(one, greedy)
    assert first.text == second.text
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-4}):
        (answer,) = teacher.ask([one[0].part(0, 1)], Sampling(max_tokens=6, **narrow))
        assert answer.text == first.text


def test_draws_follow_the_softmax():
    """2,000 draws from five known probabilities, by a chi-square test."""
    torch = pytest.importorskip("torch", reason=f"torch is not installed: {INSTALL}")
    pytest.importorskip("transformers", reason=f"transformers is not installed: {INSTALL}")
    from curation.teachers.transformers_local import _processors

    logits = torch.tensor([[2.0, 1.0, 0.5, 0.0, -1.0]]).repeat(2000, 1)
    chain = _processors(list(range(2000)), Sampling())
    drawn = chain(torch.zeros(2000, 1, dtype=torch.long), logits).argmax(dim=1)
    expected = torch.softmax(logits[0], 0) * 2000
    chi = (((torch.bincount(drawn, minlength=5) - expected) ** 2) / expected).sum().item()
    assert chi < 18.5  # 0.1 % point of chi-square with 4 degrees of freedom


def test_the_stage_asks_only_for_what_is_missing(tiny, rows_of, fan_out):
    rows = rows_of([{"question": "one", "images": []}, {"question": "two", "images": []}])
    teacher = {"kind": "transformers_local", "model": str(tiny), "device": "cpu"}
    first, second = (fan_out(rows, teacher, n=n, max_tokens=5) for n in (1, 3))
    assert (first.prepared["asked"], second.prepared["asked"], second.prepared["reused"]) == (2, 4, 2)
    assert [t for t in second.traces if t["k"] == 0] == first.traces
    assert second.notes["traces"]["failed"] == 0


def test_logprobs_are_those_of_the_model(teacher):
    """Their sum is what the model gives to prompt and answer together, less what it gives to the prompt."""
    import torch

    sampling = Sampling(max_tokens=8, logprobs=True)
    (request,) = requests(teacher, sampling, n=1, texts=("hello",))
    (answer,) = teacher.ask([request], sampling)
    assert len(answer.logprobs) == answer.output_tokens
    inputs = teacher._inputs([request])
    tokens = teacher._loaded.tokenizer.encode(answer.text, add_special_tokens=False)
    whole = torch.cat([inputs["input_ids"], torch.tensor([tokens])], dim=1)
    with torch.inference_mode():
        scores = teacher._loaded.model(whole).logits[0].float().log_softmax(-1)
    start = inputs["input_ids"].shape[1]
    want = [scores[start + i - 1, token].item() for i, token in enumerate(tokens)]
    if len(tokens) == answer.output_tokens:  # bytes that are no text decode to another text
        assert answer.logprobs[: len(tokens)] == pytest.approx(want, abs=1e-4)


def test_another_state_of_the_model_is_another_key(tiny, teacher, tmp_path):
    import shutil

    changed = tmp_path / "changed"
    shutil.copytree(tiny, changed)
    (changed / "generation_config.json").write_text("{}")
    other = TransformersLocal(model=str(changed), device="cpu").open(lambda hashes: {}, tmp_path)
    assert other.revision != teacher.revision


def test_pictures_go_through_the_processor(tiny_vision, tmp_path):
    """A tiny Qwen2.5-VL: two requests that differ in their picture alone get other answers."""
    import torch
    from PIL import Image

    pictures = {}
    for colour in ((250, 10, 10), (10, 10, 250)):
        sink = io.BytesIO()
        Image.new("RGB", (60, 40), colour).save(sink, "PNG")
        pictures[hashlib.sha256(sink.getvalue()).hexdigest()] = sink.getvalue()
    config = TransformersLocal(model=str(tiny_vision), batch_size=4, device="cpu")
    teacher = config.open(lambda hashes: {name: pictures[name] for name in hashes}, tmp_path)
    sampling = Sampling(max_tokens=8)
    first, second = pictures
    shown = [
        (f"{i}", (Message("user", "See <image> and <image>."),), pair)
        for i, pair in enumerate([(first, second), (second, first)])
    ]
    wanted = [Request(messages, images, (Want(key, 0),), 1, 8) for key, messages, images in shown]
    wanted.append(Request((Message("user", "No picture."),), (), (Want("2", 0),), 1, 8))
    answers = {a.key: a for a in teacher.ask(wanted, sampling)}
    assert set(answers) == {"0", "1", "2"}
    assert answers["0"].prompt_tokens == answers["1"].prompt_tokens > answers["2"].prompt_tokens
    pixels = [teacher._inputs([request])["pixel_values"] for request in wanted[:2]]
    assert not torch.equal(*pixels)
    half = len(pixels[0]) // 2
    assert torch.equal(pixels[0][:half], pixels[1][half:])


def test_without_torch_the_error_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(WinnowError, match=r"pip install 'winnow\[train\]'"):
        TransformersLocal(model=str(tmp_path / "none")).open(lambda hashes: {}, tmp_path)


def test_what_cannot_be_loaded_is_said(tiny, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(WinnowError, match="cannot be loaded"):
        TransformersLocal(model="empty").open(lambda hashes: {}, tmp_path)
