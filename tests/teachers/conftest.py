"""Rows to ask about, a context to ask in, and teachers to ask."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from curation.stages import fanout
from curation.stages.base import Context
from schemas.rows import ROW, TRACE

LOOPBACK = Path(__file__).parent / "loopback.py"


@pytest.fixture
def rows_of() -> Callable[..., pa.Table]:
    """rows_of(records) -> canonical rows with ids 000…, 001… in order."""

    def make(records: Sequence[dict]) -> pa.Table:
        filled = [{"row_id": f"{i:05x}" + "0" * 15, "source": "made", **record} for i, record in enumerate(records)]
        return pa.Table.from_pylist(filled, schema=ROW)

    return make


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., Context]:
    def make(**more: Any) -> Context:
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        return Context(
            **{
                "seed": 0,
                "name": "stage",
                "workspace": tmp_path / "ws",
                "recipe_dir": tmp_path,
                "scratch": scratch,
                **more,
            }
        )

    return make


class OneTable:
    """`Rows` over one table, in batches."""

    def __init__(self, table: pa.Table, size: int = 700):
        self._table, self._size = table, size
        self.schema, self.count = table.schema, len(table)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        for start in range(0, len(self._table), self._size):
            yield self._table.slice(start, self._size)


@dataclass
class Result:
    """What a fan-out said of some rows."""

    traces: list[dict]
    table: pa.Table
    notes: dict
    prepared: dict
    fates: pa.Table | None
    again: bool


def outcome_of(outcome: Any, prepared: dict) -> Result:
    pieces = list(outcome.traces) if outcome.traces is not None else []
    table = pa.concat_tables(pieces) if pieces else TRACE.empty_table()
    fates = outcome.fates() if callable(outcome.fates) else outcome.fates
    notes = outcome.notes() if callable(outcome.notes) else dict(outcome.notes)
    again = outcome.again() if callable(outcome.again) else outcome.again
    return Result(table.to_pylist(), table, notes, prepared, fates, again)


@pytest.fixture
def fan_out(context: Callable[..., Context]) -> Callable[..., Result]:
    """fan_out(rows, teacher, n=2, …) -> Result: what a build does, on one table."""

    def run(rows: pa.Table, teacher: dict, *, into: Context | None = None, **options: Any) -> Result:
        config = fanout.Fanout(teacher=teacher, **options)
        space = into or context()
        prepared = dict(fanout.prepare(config, OneTable(rows), space))
        return outcome_of(fanout.run(config, rows, space), prepared)

    return run


@dataclass
class Server:
    """A running loopback teacher."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def teacher(self) -> dict:
        return {"kind": "openai_server", "url": self.url, "model": "tiny"}

    def asked(self) -> list[tuple[str, int, int]]:
        """(prompt, seed, max_tokens) of every answer that it was asked for, in order."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(name, int(seed), int(limit)) for name, seed, limit in (line.split() for line in lines)]

    def counts(self) -> dict:
        with urllib.request.urlopen(f"{self.url}/counts", timeout=10) as response:
            return json.load(response)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def loopback(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """loopback(faults=0.2, …) starts a teacher in a process of its own; see loopback.py."""
    started: list[Server] = []

    def start(log: str = "asked.log", **options: Any) -> Server:
        words = [sys.executable, str(LOOPBACK), "--log", str(tmp_path / log)]
        for name, value in options.items():
            words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        server = Server(process, int(process.stdout.readline()), tmp_path / log)
        started.append(server)
        return server

    yield start
    for server in started:
        with contextlib.suppress(ProcessLookupError):
            server.kill()


@pytest.fixture(scope="session")
def lab() -> Any:
    """What test modules cannot import from here."""
    return SimpleNamespace(OneTable=OneTable, outcome_of=outcome_of, Server=Server)


# ------------------------------------------------------------------------------------------------- models made on the spot

INSTALL = "pip install 'winnow[train]'"
VLLM = "python tests/vllm_environment.py"


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def tiny_vision(tmp_path_factory):
    """Folder of a two-layer Qwen2.5-VL."""
    torch = pytest.importorskip("torch", reason=f"torch is not installed: {INSTALL}")
    pytest.importorskip("transformers", reason=f"transformers is not installed: {INSTALL}")
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"vision processors need a torchvision that fits torch ({error}): {VLLM}")
    folder = tmp_path_factory.mktemp("vision")
    make_vision_model(torch, folder)
    return folder


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
