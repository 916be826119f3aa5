"""Tokens and targets: what the template says, loss on the assistant's turns alone, placeholders as the processors do."""

from __future__ import annotations

import io
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from schemas.errors import WinnowError
from tests.training.conftest import conversation, image_rows, picture
from training.sources import BadRow, Picture, messages_of
from training.tokens import Encoder, Sample

Models = Callable[[str], Path]
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FORGETS = (  # as Qwen3's: thoughts of earlier turns are dropped
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and not loop.last %}"
    "{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TALK = conversation(
    ("system", "Be brief."),
    ("user", "1+1?"),
    ("assistant", "<think>easy</think>2"),
    ("user", "2+2?"),
    ("assistant", "4"),
)


@pytest.fixture
def encoder(models: Models, tmp_path: Path) -> Callable[..., Encoder]:
    def make(template: str | None = None, kind: str = "qwen2", **options: Any) -> Encoder:
        folder = tmp_path / "model"
        shutil.copytree(models(kind), folder, dirs_exist_ok=True)
        if template is not None:
            (folder / "chat_template.jinja").write_text(template)
        return Encoder(str(folder), **options)

    return make


def targets(encoder: Encoder, sample: Sample) -> list[str]:
    return [encoder.tokenizer.decode(list(sample.ids)[start:end]) for start, end in sample.spans]


@pytest.mark.parametrize("template", [None, MARKED], ids=["found by prefixes", "marked by the template"])
def test_the_assistants_turns_are_targets_up_to_the_token_that_ends_them(encoder: Any, template: str | None) -> None:
    made = encoder(template)
    sample = made.sample(TALK, [])
    assert targets(made, sample) == ["<think>easy</think>2<|im_end|>", "4<|im_end|>"]
    assert sample.targets == sum(end - start for start, end in sample.spans)
    assert list(sample.ids) == made.tokenizer.apply_chat_template(TALK, tokenize=True, return_dict=True)["input_ids"]


def test_repeated_text_is_not_mistaken_for_the_answer(encoder: Any) -> None:
    made = encoder()
    talk = conversation(("user", "Say: the answer"), ("assistant", "the answer"))
    sample = made.sample(talk, [])
    assert targets(made, sample) == ["the answer<|im_end|>"]
    assert made.tokenizer.decode(list(sample.ids)[: sample.spans[0][0]]).endswith("assistant\n")


def test_a_prompt_ends_where_the_answer_begins(encoder: Any) -> None:
    made = encoder()
    sample, prompt = made.sample(TALK[:3], []), made.prompt(TALK[:2], [])
    assert list(sample.ids)[: sample.spans[0][0]] == list(prompt.ids) and prompt.spans == []


def test_a_template_that_is_not_prefix_stable_is_refused_with_an_example(encoder: Any) -> None:
    made = encoder(FORGETS)
    assert targets(made, made.sample(TALK[:3], [])) == ["<think>easy</think>2<|im_end|>"]
    with pytest.raises(WinnowError, match="not prefix-stable") as told:
        made.sample(TALK, [])
    assert "<think>easy" in str(told.value) and "{% generation %}" in str(told.value)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}", "not learn to stop"),
        (MARKED.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>"), "generation marks"),
    ],
)  # fmt: skip
def test_a_template_that_would_not_teach_to_stop_is_refused(encoder: Any, template: str, said: str) -> None:
    with pytest.raises(WinnowError, match=said):
        encoder(template).sample(TALK, [])


def test_what_cannot_be_trained_on_is_a_bad_row(encoder: Any) -> None:
    made, said = encoder(), {}
    for name, talk in {
        "no_target": TALK[:2],
        "image_marks": conversation(("user", "<|image_pad|>"), ("assistant", "a cat")),
    }.items():
        with pytest.raises(BadRow) as told:
            encoder(kind="qwen2_5_vl" if name == "image_marks" else "qwen2").sample(talk, [])
        said[name] = told.value.reason
    assert said == {"no_target": "no_target", "image_marks": "image_marks"}
    with pytest.raises(BadRow) as told:
        made.sample(TALK, [Picture(data=picture(0))])
    assert told.value.reason == "no_vision"


def test_no_template_and_no_model_are_said(models: Models, tmp_path: Path) -> None:
    shutil.copytree(models("qwen2"), tmp_path / "plain")
    (tmp_path / "plain" / "chat_template.jinja").unlink()
    with pytest.raises(WinnowError, match="no chat template"):
        Encoder(str(tmp_path / "plain"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(WinnowError, match="cannot be loaded"):
        Encoder(str(tmp_path / "empty"))


def test_a_tokenizer_saved_as_plain_is_not_read_as_qwens(models: Models, tmp_path: Path) -> None:
    """transformers reads any tokenizer beside a Qwen2 config as Qwen2's, which splits digits that were trained whole."""
    import transformers
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers import models as kinds

    words = Tokenizer(kinds.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.train_from_iterator(
        ["2024 2024 2024"] * 20, trainers.BpeTrainer(vocab_size=300, special_tokens=["<|im_end|>"])
    )
    shutil.copytree(models("qwen2"), tmp_path / "own")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "own" / name).unlink()
    saved = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|im_end|>")
    saved.chat_template = "x"
    saved.save_pretrained(tmp_path / "own")
    assert Encoder(str(tmp_path / "own")).tokenizer("2024")["input_ids"] == saved("2024")["input_ids"]


def test_an_encoder_travels_to_other_processes_and_has_a_digest_of_what_decides(encoder: Any) -> None:
    first = encoder(kind="qwen2_5_vl")
    again = pickle.loads(pickle.dumps(first))
    row = image_rows(1)[0]
    talk = messages_of(row, Path())
    assert again.sample(*talk) == first.sample(*talk) and again.digest == first.digest
    assert encoder(kind="qwen2_5_vl", max_pixels=64 * 64).digest != first.digest
    assert encoder(MARKED, kind="qwen2_5_vl").digest != first.digest


# ------------------------------------------------------------------------------------------------------------- pictures


def test_a_placeholder_becomes_one_token_for_each_merged_patch(encoder: Any) -> None:
    made = encoder(kind="qwen2_5_vl")
    messages, pictures = messages_of(image_rows(3)[2], Path())
    sample = made.sample(messages, pictures)
    ((at, height, width),) = sample.images
    pixels, grid = made.pixels(pictures[0].read())
    assert grid == (height, width) and len(pixels) == height * width
    assert list(sample.ids)[at : at + height * width // 4] == [made.image_token] * (height * width // 4)
    assert list(sample.ids).count(made.image_token) == height * width // 4
    assert targets(made, sample) == ["It is 2.It is 2.It is 2.<|im_end|>"]


@pytest.mark.parametrize("size", [(32, 32), (100, 37), (640, 480), (33, 200), (1, 60), (300, 16)])
def test_sizes_from_headers_are_those_of_decoded_pictures(encoder: Any, size: tuple[int, int]) -> None:
    made = encoder(kind="qwen2_5_vl")
    data = picture(0, *size)
    assert made.grid(data) == made.pixels(data)[1]


def test_a_turned_picture_is_seen_upright(encoder: Any) -> None:
    made, sink = encoder(kind="qwen2_5_vl"), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(io.BytesIO(picture(0, 96, 32))).save(sink, "JPEG", exif=exif)
    assert made.grid(sink.getvalue()) == made.pixels(sink.getvalue())[1] == (12, 4)


def test_limits_on_pixels_are_kept_and_must_agree(encoder: Any) -> None:
    data = picture(0, 160, 160)
    height, width = encoder(kind="qwen2_5_vl", max_pixels=32 * 32).grid(data)
    assert height * width * 64 <= 32 * 32
    with pytest.raises(WinnowError, match="above max_pixels"):
        encoder(kind="qwen2_5_vl", min_pixels=5000, max_pixels=100)


def test_broken_pictures_are_bad_rows(encoder: Any) -> None:
    made = encoder(kind="qwen2_5_vl")
    for data in (b"", b"not a picture", picture(0)[:40]):
        with pytest.raises(BadRow, match="picture"):
            made.pixels(data)


PROCESSORS = """
import os, sys, torch
sys.path += [os.environ["WINNOW_TORCHVISION"]] if "WINNOW_TORCHVISION" in os.environ else []
lib = torch.library.Library("torchvision", "FRAGMENT")  # a CUDA build of torchvision, beside a CPU torch
for op in ("nms", "qnms"):
    try: lib.define(op + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except RuntimeError: pass
try: import torchvision
except (ImportError, RuntimeError) as error: print("SKIP", error); sys.exit()
import transformers as tf
from pathlib import Path
from tests.training.conftest import picture
from training.sources import Picture
from training.tokens import Encoder
place, kind = sys.argv[1:]
encoder = Encoder(place)
made = {"qwen2_5_vl": (tf.Qwen2_5_VLProcessor, tf.Qwen2VLVideoProcessor), "qwen3_vl": (tf.Qwen3VLProcessor, tf.Qwen3VLVideoProcessor)}[kind]
processor = made[0](image_processor=encoder.processor, tokenizer=encoder.tokenizer, video_processor=made[1](), chat_template=encoder.tokenizer.chat_template)
from PIL import Image
import io
for seed, sizes in enumerate([[(32, 32)], [(100, 37), (64, 64)], [(33, 200), (40, 40), (500, 300)], []]):
    data = [picture(seed * 10 + n, *size) for n, size in enumerate(sizes)]
    parts = [{"type": "image"} for _ in data]
    talk = [{"role": "user", "content": [*parts, {"type": "text", "text": "What?"}]}, {"role": "assistant", "content": [{"type": "text", "text": "That."}]}]
    text = processor.apply_chat_template(talk, tokenize=False)
    theirs = processor(text=[text], images=[Image.open(io.BytesIO(d)).convert("RGB") for d in data] or None, return_tensors="pt")
    ours = encoder.sample(talk, [Picture(data=d) for d in data])
    assert theirs["input_ids"][0].tolist() == list(ours.ids), (sizes, theirs["input_ids"][0].tolist(), ours.ids)
    if data:
        assert torch.equal(theirs["pixel_values"], torch.cat([encoder.pixels(d)[0] for d in data]))
        assert theirs["image_grid_thw"].tolist() == [[1, h, w] for _, h, w in ours.images]
print("SAME")
"""


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_tokens_and_pixels_are_those_of_the_hugging_face_processor(models: Models, kind: str) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", PROCESSORS, str(models(kind)), kind]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    if done.stdout.startswith("SKIP"):
        where = "pip install --no-deps --target FOLDER torchvision, and WINNOW_TORCHVISION=FOLDER"
        pytest.skip(f"the processors need torchvision ({done.stdout[5:].strip()}): {where}")
    assert done.stdout.strip().endswith("SAME")
