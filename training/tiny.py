"""Models of a few hundred thousand weights, made on the spot: for tests, for trying a recipe, for a first run.

python -m training.tiny recipes/data/tiny_text              config and tokenizer; weights are drawn by the recipe
python -m training.tiny recipes/data/tiny_vision --kind qwen2_5_vl
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

KINDS = ("qwen2", "qwen2_5_vl", "qwen3_vl")
MARKS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML, as Qwen2.5-VL writes it."""


def tokenizer() -> Any:
    """One token per byte, and tags for thoughts and answers; Qwen2's own class, so every loader splits alike."""
    import transformers
    from tokenizers import AddedToken, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = transformers.Qwen2Tokenizer(
        vocab={letter: n for n, letter in enumerate(letters)},
        merges=[],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        extra_special_tokens={**MARKS, "im_start": "<|im_start|>"},
    )
    made.add_tokens([AddedToken(f"<{end}{tag}>", special=False) for tag in ("think", "answer") for end in ("", "/")])
    made.chat_template = TEMPLATE
    return made


def config(kind: str, words: Any, *, hidden: int = 64, layers: int = 2, vision: int = 32) -> Any:
    """The config of a tiny model of one of KINDS for a tokenizer. Pictures of 32 pixels have 2 x 2 image tokens."""
    import transformers

    text: dict[str, Any] = {
        "vocab_size": len(words), "hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
        "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id, "bos_token_id": None,
        "tie_word_embeddings": kind == "qwen2",
    }  # fmt: skip
    if kind == "qwen2":
        return transformers.Qwen2Config(**text)
    text |= {"head_dim": hidden // 4} if kind == "qwen3_vl" else {}
    half = hidden // 8
    sections = [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8]
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": sections}
    seen: dict[str, Any] = {
        "depth": 2, "hidden_size": vision, "intermediate_size": 2 * vision, "num_heads": 2, "out_hidden_size": hidden,
        "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2,
    }  # fmt: skip
    ids = {f"{name}_id": words.convert_tokens_to_ids(mark) for name, mark in MARKS.items()}
    if kind == "qwen2_5_vl":
        seen |= {"fullatt_block_indexes": [1], "window_size": 32}
        return transformers.Qwen2_5_VLConfig(text_config=text, vision_config=seen, tie_word_embeddings=False, **ids)
    seen |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
    return transformers.Qwen3VLConfig(text_config=text, vision_config=seen, tie_word_embeddings=False, **ids)


def make(folder: Path | str, kind: str = "qwen2", *, weights: int | None = None, **sizes: int) -> Path:
    """Write a tiny model: tokenizer, config and, drawn by the seed `weights`, its weights."""
    import torch
    import transformers
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    place, words = Path(folder), tokenizer()
    made = config(kind, words, **sizes)
    words.save_pretrained(place)
    if kind != "qwen2":
        Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, min_pixels=16 * 16, max_pixels=128 * 128).save_pretrained(
            place
        )
    if weights is None:
        made.architectures = [_class_of(kind)]
        made.save_pretrained(place)
    else:
        torch.manual_seed(weights)
        getattr(transformers, _class_of(kind))(made).save_pretrained(place)
    return place


def _class_of(kind: str) -> str:
    return {
        "qwen2": "Qwen2ForCausalLM",
        "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
        "qwen3_vl": "Qwen3VLForConditionalGeneration",
    }[kind]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the config and tokenizer of a tiny model.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=KINDS, default="qwen2")
    given = parser.parse_args()
    print(make(given.folder, given.kind))
