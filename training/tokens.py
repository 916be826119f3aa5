"""From a conversation to tokens: the model's own chat template, targets on assistant turns, image placeholders.

**Targets.** A template that marks what the assistant writes (`{% generation %}`) is believed. For any other, each
assistant turn is found by rendering the conversation up to it, with the generation prompt: those tokens must be exactly
how the whole conversation begins, because they are what the model will see when it has to answer. A template for which
that is not so (Qwen3's drops earlier thoughts) is refused with an example. A target ends with the token that ends the
turn, or the model would never learn to stop.

**Images.** A template writes one placeholder for a picture; it becomes as many as the picture has merged patches. The
size is read from the picture's header, by the resizing rule of the model's own image processor, so that nothing is
decoded before training. tests/training/test_tokens.py holds this against the Hugging Face processors.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curation.digests import json_digest
from curation.images import as_seen
from schemas.errors import WinnowError
from training.pictures import Patches, PictureCache
from training.sources import BadRow, Picture, Row

REVISION = 1
"""Of everything that decides on tokens: part of the key of a token index."""


@dataclass(frozen=True)
class Sample:
    """One conversation.

    ids     token ids, placeholders expanded
    spans   [start, end) of the targets, ascending; none begins at 0, since the first token follows nothing
    images  (position of the first placeholder, grid height, grid width in patches) of each picture, in order
    """

    ids: Sequence[int] | np.ndarray
    spans: list[tuple[int, int]]
    images: list[tuple[int, int, int]]
    pictures: list[Picture]

    @property
    def targets(self) -> int:
        return sum(end - start for start, end in self.spans)


class Encoder:
    """Tokenizer and image processor of a model; picklable by what it was made from. `keep`: bytes of patches that it
    holds on to, for pictures that are asked for again."""

    def __init__(
        self, place: str, revision: str | None = None, min_pixels: int | None = None, max_pixels: int | None = None,
        keep: int = 0,
    ):  # fmt: skip
        import transformers

        self._made_from = (place, revision, min_pixels, max_pixels, keep)
        self._pictures = PictureCache(keep)
        try:
            config = transformers.AutoConfig.from_pretrained(place, revision=revision)
            self.tokenizer = load_tokenizer(place, revision)
        except (OSError, ValueError, ImportError) as error:
            raise WinnowError(f"The model {place} cannot be loaded: {str(error).splitlines()[0]}") from error
        if not self.tokenizer.chat_template:
            raise WinnowError(f"The model {place} has no chat template; take its chat (Instruct) variant.")
        self.image_token: int | None = getattr(config, "image_token_id", None)
        self.processor = None
        if getattr(config, "vision_config", None) is not None:
            self.processor = _image_processor(place, revision, min_pixels, max_pixels)
            self.merge = int(self.processor.merge_size)
        self._marks = "{% generation" in str(self.tokenizer.chat_template).replace("{%-", "{%").replace("{%  ", "{% ")
        self._special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)

    def __reduce__(self) -> Any:
        return Encoder, self._made_from

    @property
    def pad(self) -> int:
        return self.tokenizer.pad_token_id or 0

    @property
    def digest(self) -> str:
        """Of all that decides on tokens: the tokenizer with its template, image sizes, and this code."""
        state = self.tokenizer.backend_tokenizer.to_str() if self.tokenizer.is_fast else self.tokenizer.get_vocab()
        sizes = self.processor.to_dict() if self.processor is not None else None
        return json_digest([REVISION, state, self.tokenizer.chat_template, sizes])

    # ------------------------------------------------------------------------------------------------------- encoding

    def sample(self, messages: Sequence[Row], pictures: Sequence[Picture]) -> Sample:
        """Tokens and targets of a whole conversation. Raises BadRow, and WinnowError for a template that will not do."""
        turns = self._turns(messages, pictures)
        text = self._render(turns)
        ids = self._ids(text)
        spans = self._marked_spans(turns, ids) if self._marks else self._prefix_spans(turns, text, ids)
        if not spans:
            raise BadRow("no_target", "The conversation has no turn of an assistant to learn from.")
        return self._expanded(ids, spans, pictures)

    def prompt(self, messages: Sequence[Row], pictures: Sequence[Picture]) -> Sample:
        """Tokens of a conversation that the model has to go on with."""
        ids = self._ids(self._render(self._turns(messages, pictures), generation=True))
        return self._expanded(ids, [], pictures)

    def _turns(self, messages: Sequence[Row], pictures: Sequence[Picture]) -> list[Row]:
        """Contents as the model's template wants them: parts for models with eyes, text for the others."""
        if pictures and self.processor is None:
            raise BadRow("no_vision", "The row has pictures, and the model sees none.")
        if self.processor is not None:
            return list(messages)
        joined = {
            n: "".join(part.get("text", "") for part in m["content"])
            for n, m in enumerate(messages)
            if isinstance(m["content"], list)
        }
        return [{**m, "content": joined[n]} if n in joined else m for n, m in enumerate(messages)]

    def _render(self, turns: Sequence[Row], generation: bool = False) -> str:
        try:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generation))
        except Exception as error:  # jinja raises what a template wants to say: roles must alternate, and the like
            raise BadRow("template", f"The chat template refuses it: {str(error).splitlines()[0]}") from error

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _prefix_spans(self, turns: Sequence[Row], text: str, ids: Sequence[int]) -> list[tuple[int, int]]:
        spans = []
        for n, turn in enumerate(turns):
            if turn["role"] != "assistant":
                continue
            before, through = self._render(turns[:n], generation=True), self._render(turns[: n + 1])
            for part in (before, through):
                if not text.startswith(part):
                    raise WinnowError(_unstable(text, part, n))
            begin, end = self._ids(before), self._ids(through)
            if ids[: len(begin)] != begin or ids[: len(end)] != end:
                raise BadRow(
                    "boundary", f"The tokenizer merges turn {n} with what stands beside it: {_around(text, before)!r}."
                )
            spans.append((len(begin), self._end_of_turn(ids, len(begin), len(end), n)))
        return spans

    def _end_of_turn(self, ids: Sequence[int], start: int, end: int, turn: int) -> int:
        """Behind the last special token of a turn: what templates write after it is no word of the model's."""
        while end > start and ids[end - 1] not in self._special:
            end -= 1
        if end == start:
            raise WinnowError(
                f"The chat template ends turn {turn} of the assistant with no special token, so the model would not "
                "learn to stop.\nGive the tokenizer a template that closes each turn (as <|im_end|> does)."
            )
        return end

    def _marked_spans(self, turns: Sequence[Row], ids: Sequence[int]) -> list[tuple[int, int]]:
        encoded = self.tokenizer.apply_chat_template(
            turns, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        mask = encoded["assistant_masks"]
        if list(encoded["input_ids"]) != list(ids):
            raise BadRow("boundary", "The template's tokens are not those of its text.")
        edges = [n for n in range(1, len(mask) + 1) if mask[n - 1] != (mask[n] if n < len(mask) else 0)]
        if mask and mask[0]:
            edges.insert(0, 0)
        spans = list(zip(edges[::2], edges[1::2], strict=True))
        said = sum(turn["role"] == "assistant" for turn in turns)
        if said and (not spans or ids[spans[-1][1] - 1] not in self._special or spans[0][0] == 0):
            raise WinnowError(
                "The generation marks of the chat template do not hold the assistant's turns up to the token that "
                "ends them.\nPut {% generation %} before the content and {% endgeneration %} behind its end token."
            )
        return spans

    # --------------------------------------------------------------------------------------------------------- images

    def _expanded(self, ids: list[int], spans: list[tuple[int, int]], pictures: Sequence[Picture]) -> Sample:
        places = [n for n, token in enumerate(ids) if token == self.image_token] if self.image_token is not None else []
        if len(places) != len(pictures):
            raise BadRow(
                "image_marks", f"The text has {len(places)} image placeholders, and there are {len(pictures)} pictures."
            )
        if not pictures:
            return Sample(ids, spans, [], [])
        grids = [self.grid(picture.read()) for picture in pictures]
        counts = [height * width // self.merge**2 for height, width in grids]
        out: list[int] = []
        shift = [0] * (len(ids) + 1)  # how far each position moves
        images, done, moved = [], 0, 0
        for place, count, (height, width) in zip(places, counts, grids, strict=True):
            shift[done : place + 1] = [moved] * (place + 1 - done)
            out += ids[done:place]
            images.append((len(out), height, width))
            out += [ids[place]] * count
            done, moved = place + 1, moved + count - 1
        shift[done:] = [moved] * (len(shift) - done)
        out += ids[done:]
        return Sample(out, [(a + shift[a], b + shift[b]) for a, b in spans], images, list(pictures))

    def grid(self, data: bytes) -> tuple[int, int]:
        """Patches of a picture, (height, width), from its header. Raises BadRow."""
        from PIL import Image

        try:
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
                # Pillow decodes a whole PNG to look for orientation behind its pixels, where next to none have it.
                told = image.format != "PNG" or "exif" in image.info
                if told and image.getexif().get(0x0112, 1) in (5, 6, 7, 8):  # turned by a quarter
                    width, height = height, width
            return patch_grid(self.processor, height, width)
        except Exception as error:
            raise BadRow("image_broken", f"A picture cannot be used: {str(error).splitlines()[0]}") from error

    def pixels(self, data: bytes) -> tuple[Any, tuple[int, int]]:
        """Patches of a picture as the vision tower takes them, float32 [patches, channels·time·patch²], and its grid.
        The tensor is shared with whoever asks for the same picture. Raises BadRow."""
        return self._pictures(data, self._decoded)

    def _decoded(self, data: bytes) -> Patches:
        assert self.processor is not None
        try:
            made = self.processor(images=[as_seen(data)], return_tensors="pt")
        except Exception as error:
            raise BadRow("image_broken", f"A picture cannot be decoded: {str(error).splitlines()[0]}") from error
        _, height, width = made["image_grid_thw"][0].tolist()
        return made["pixel_values"], (height, width)


def patch_grid(processor: Any, height: int, width: int) -> tuple[int, int]:
    """(rows, columns) of patches of a picture of this size in pixels, by the Qwen-VL resizing rule: both sides become
    multiples of patch · merge, and their product stays within the processor's limits."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    size = processor.size
    tall, wide = smart_resize(
        height,
        width,
        factor=processor.patch_size * processor.merge_size,
        min_pixels=size["shortest_edge"],
        max_pixels=size["longest_edge"],
    )
    return tall // processor.patch_size, wide // processor.patch_size


def load_tokenizer(place: str, revision: str | None = None) -> Any:
    """The tokenizer of a model. One that was saved as a plain fast tokenizer stays what it is: by the model's type
    alone, transformers would read it as Qwen2's, and split text otherwise than it was trained to."""
    import transformers

    path = Path(place) / "tokenizer_config.json"
    saved = json.loads(path.read_text()).get("tokenizer_class") if path.is_file() else None
    plain = saved in ("TokenizersBackend", "PreTrainedTokenizerFast")
    kind = transformers.PreTrainedTokenizerFast if plain else transformers.AutoTokenizer
    return kind.from_pretrained(place, revision=revision)


def _image_processor(place: str, revision: str | None, min_pixels: int | None, max_pixels: int | None) -> Any:
    """The model's image processor with our limits. The Pillow one, which needs no torchvision."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    try:
        kind = Qwen2VLImageProcessorPil.get_image_processor_dict(place, revision=revision)[0].get(
            "image_processor_type", ""
        )
    except OSError as error:
        raise WinnowError(f"The model {place} has no image processor: {str(error).splitlines()[0]}") from error
    if not kind.startswith("Qwen2VLImageProcessor"):
        raise WinnowError(
            f"Images can be trained on with Qwen2-VL, Qwen2.5-VL and Qwen3-VL; {place} has the image processor {kind}."
        )
    processor = Qwen2VLImageProcessorPil.from_pretrained(place, revision=revision)
    size = dict(processor.size)
    if max_pixels is not None:
        size["longest_edge"] = max_pixels
    if min_pixels is not None:
        size["shortest_edge"] = min_pixels
    if size["shortest_edge"] > size["longest_edge"]:
        raise WinnowError(f"min_pixels {size['shortest_edge']:,} is above max_pixels {size['longest_edge']:,}.")
    processor.size = size
    return processor


def _unstable(text: str, part: str, turn: int) -> str:
    at = next((n for n, (a, b) in enumerate(zip(text, part, strict=False)) if a != b), min(len(text), len(part)))
    return (
        f"The chat template is not prefix-stable: rendered up to turn {turn}, the conversation does not begin as the "
        "whole one does, so a model trained on the whole would not see what it sees when it answers.\n"
        f"    up to turn {turn}: …{part[max(0, at - 40) : at + 40]!r}\n"
        f"    the whole:    …{text[max(0, at - 40) : at + 40]!r}\n"
        "Train on conversations of one answer each, or give the tokenizer a template with {% generation %} marks."
    )


def _around(text: str, prefix: str) -> str:
    return text[max(0, len(prefix) - 12) : len(prefix) + 12]
