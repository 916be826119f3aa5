"""The transformers teacher with a real model: tiny, random, made on the spot."""

from __future__ import annotations

import hashlib
import io
import sys

import pytest

from curation.stages import fanout
from curation.teachers import Message, Request, Sampling, TransformersLocal, trace_key
from schemas.errors import WinnowError

INSTALL = "pip install 'winnow[train]'"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Folder of a two-layer Qwen2 with a byte-level tokenizer."""
    torch = pytest.importorskip("torch", reason=f"torch is not installed: {INSTALL}")
    transformers = pytest.importorskip("transformers", reason=f"transformers is not installed: {INSTALL}")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(
        ["a b"], trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|im_end|>", pad_token="<pad>")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, eos_token_id=1, bos_token_id=0, pad_token_id=2, initializer_range=0.2,
    )  # fmt: skip
    model = transformers.Qwen2ForCausalLM(config)
    # What a model brings along must not shape answers: only what stands in the recipe, and so in the key, may.
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.do_sample = True
    model.generation_config.top_k = 3
    folder = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def teacher(tiny):
    return TransformersLocal(model=str(tiny), batch_size=4, device="cpu").open(lambda hashes: {}, tiny)


def requests(teacher, sampling, n=4, texts=("hello", "a rather longer question, to be padded against")):
    made = []
    for text in texts:
        messages = (Message("system", "Be brief."), Message("user", text))
        for k in range(n):
            key = trace_key(messages, (), model=teacher.model, revision=teacher.revision, sampling=sampling, k=k)
            made.append(Request(key, messages, (), k))
    return made


def by_key(answers):
    return {a.key: (a.text, a.finish, a.output_tokens) for a in answers}


def test_an_answer_does_not_depend_on_its_batch(teacher):
    sampling = Sampling(max_tokens=12)
    wanted = requests(teacher, sampling)
    together = by_key(teacher.ask(wanted, sampling))
    alone = by_key(a for r in reversed(wanted) for a in teacher.ask([r], sampling))
    assert together == alone
    assert len({text for text, _, _ in together.values()}) > 4  # they are drawn, each on its own


def test_truncation_is_told_by_the_missing_end(teacher):
    sampling = Sampling(max_tokens=400)
    answers = list(teacher.ask(requests(teacher, sampling, n=6, texts=("x",)), sampling))
    ended = [a for a in answers if a.finish == "finished"]
    assert ended  # a random model of 259 tokens ends within 400 draws now and then
    assert all(a.finish_reason == "stop" and a.output_tokens <= 400 and "<|im_end|>" not in a.text for a in ended)
    short = Sampling(max_tokens=min(a.output_tokens for a in ended) - 1)
    cut = list(teacher.ask(requests(teacher, sampling, n=6, texts=("x",)), short))
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
        (answer,) = teacher.ask(one[:1], Sampling(max_tokens=6, **narrow))
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


def test_the_stage_asks_only_for_what_is_missing(tiny, rows_of, context):
    rows = rows_of([{"question": "one"}, {"question": "two"}])
    teacher = {"kind": "transformers_local", "model": str(tiny), "device": "cpu"}

    def run(n):
        return fanout.run(fanout.Fanout(teacher=teacher, n=n, max_tokens=5), rows, context())

    first, second = run(1), run(3)
    assert (first.notes["asked"], second.notes["asked"], second.notes["reused"]) == (2, 4, 2)
    assert [t for t in second.traces.to_pylist() if t["k"] == 0] == first.traces.to_pylist()
    assert second.notes["traces"]["failed"] == 0


def test_another_state_of_the_model_is_another_key(tiny, teacher, tmp_path):
    import shutil

    changed = tmp_path / "changed"
    shutil.copytree(tiny, changed)
    (changed / "generation_config.json").write_text("{}")
    other = TransformersLocal(model=str(changed), device="cpu").open(lambda hashes: {}, tmp_path)
    assert other.revision != teacher.revision


def test_pictures_go_through_the_processor(tmp_path):
    """A tiny Qwen2.5-VL: two requests that differ in their picture alone get other answers."""
    torch = pytest.importorskip("torch", reason=f"torch is not installed: {INSTALL}")
    pytest.importorskip("transformers", reason=f"transformers is not installed: {INSTALL}")
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"vision processors need a torchvision that fits torch ({error}): pip install torchvision")
    from PIL import Image

    make_vision_model(torch, tmp_path)
    pictures = {}
    for colour in ((250, 10, 10), (10, 10, 250)):
        sink = io.BytesIO()
        Image.new("RGB", (60, 40), colour).save(sink, "PNG")
        pictures[hashlib.sha256(sink.getvalue()).hexdigest()] = sink.getvalue()
    config = TransformersLocal(model=str(tmp_path), batch_size=4, device="cpu")
    teacher = config.open(lambda hashes: {name: pictures[name] for name in hashes}, tmp_path)
    sampling = Sampling(max_tokens=8)
    first, second = pictures
    shown = [
        (f"{i}", (Message("user", "See <image> and <image>."),), pair)
        for i, pair in enumerate([(first, second), (second, first)])
    ]
    wanted = [Request(key, messages, images, 0) for key, messages, images in shown]
    wanted.append(Request("2", (Message("user", "No picture."),), (), 0))
    answers = {a.key: a for a in teacher.ask(wanted, sampling)}
    assert set(answers) == {"0", "1", "2"}
    assert answers["0"].prompt_tokens == answers["1"].prompt_tokens > answers["2"].prompt_tokens
    pixels = [teacher._inputs([request])["pixel_values"] for request in wanted[:2]]
    assert not torch.equal(*pixels)
    half = len(pixels[0]) // 2
    assert torch.equal(pixels[0][:half], pixels[1][half:])


def make_vision_model(torch, folder):
    import transformers as tf
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    marks = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    marks |= {"vision_start_token": "<|vision_start|>", "vision_end_token": "<|vision_end|>"}
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", "<pad>", *marks.values()]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(
        ["a b"], trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = tf.PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<|im_end|>", pad_token="<pad>", extra_special_tokens=marks
    )
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'image' %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in marks.items()}
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 2,
        "rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0},
    }  # fmt: skip
    vision = {"depth": 2, "hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 64, "num_heads": 2}
    torch.manual_seed(0)
    model = tf.Qwen2_5_VLForConditionalGeneration(
        tf.Qwen2_5_VLConfig(text_config=text, vision_config={**vision, "fullatt_block_indexes": [1]}, **ids)
    )
    model.generation_config.eos_token_id = 1
    model.save_pretrained(folder)
    tf.Qwen2_5_VLProcessor(
        image_processor=tf.Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=56 * 56),
        tokenizer=tokenizer,
        video_processor=tf.Qwen2VLVideoProcessor(),
        chat_template=template,
    ).save_pretrained(folder)


def test_without_torch_the_error_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(WinnowError, match=r"pip install 'winnow\[train\]'"):
        TransformersLocal(model=str(tmp_path / "none")).open(lambda hashes: {}, tmp_path)


def test_what_cannot_be_loaded_is_said(tiny, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(WinnowError, match="cannot be loaded"):
        TransformersLocal(model="empty").open(lambda hashes: {}, tmp_path)
