"""Tiny models, made once, and small sets in the layouts that Winnow exports."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'winnow[train]'")

from safetensors.torch import load_file  # noqa: E402 (comes with transformers)

from training import tiny  # noqa: E402 (needs torch)
from training.recipe import TrainingPlan, load_sft_recipe  # noqa: E402

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PART = pa.struct([("type", pa.string()), ("text", pa.string())])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """More threads are many times slower for models of this size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny model with random weights, by kind."""
    made: dict[str, Path] = {}

    def model(kind: str = "qwen2") -> Path:
        if kind not in made:
            made[kind] = tiny.make(tmp_path_factory.mktemp(kind), kind, weights=7, hidden=32)
        return made[kind]

    return model


def picture(seed: int, width: int = 32, height: int = 32) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def conversation(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def text_rows(count: int, longest: int = 60) -> list[dict[str, Any]]:
    """Conversations of many lengths from two sources."""
    lengths = np.random.default_rng(count).integers(1, longest, count)
    return [
        {
            "messages": conversation(("user", f"Say {n}."), ("assistant", f"{n} " * int(lengths[n]))),
            "row_id": f"row{n:04d}",
            "source": "even" if n % 2 == 0 else "odd",
        }
        for n in range(count)
    ]


def image_rows(count: int, every: int = 1) -> list[dict[str, Any]]:
    """Conversations in parts; of every `every`-th one a picture, of many sizes."""
    rows = []
    for n in range(count):
        shown = n % every == 0
        parts = [{"type": "image", "text": None}] if shown else []
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": [*parts, {"type": "text", "text": f"What is {n}?"}]},
                    {"role": "assistant", "content": [{"type": "text", "text": f"It is {n}." * (1 + n % 3)}]},
                ],
                "images": [{"bytes": picture(n, 32 + 16 * (n % 3), 32), "path": None}] if shown else [],
                "row_id": f"pic{n:04d}",
                "source": "seen" if shown else "read",
            }
        )
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]], group: int = 1000, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = "images" in rows[0]
    content = pa.list_(PART) if parts else pa.string()
    fields = [("messages", pa.list_(pa.struct([("role", pa.string()), ("content", content)])))]
    fields += [("images", pa.list_(PICTURE))] if parts else []
    fields += [(name, pa.string()) for name in rows[0] if name not in ("messages", "images")]
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(fields)), path, row_group_size=group, **options)
    return path


Plan = Callable[..., TrainingPlan]


def plan_in(folder: Path, models: Callable[[str], Path]) -> Plan:
    """Writes rows and a recipe, and loads it: `plan(rows, kind="qwen2", **changes to the recipe)`."""

    def make(rows: list[dict[str, Any]], kind: str = "qwen2", name: str = "run", **changes: Any) -> TrainingPlan:
        data = write_rows(folder / f"{name}.parquet", rows)
        recipe: dict[str, Any] = {
            "name": name,
            "model": {"path": str(models(kind))},
            "data": [{"parquet": data.name}],
            "batch": {"max_tokens": 256, "packs": 2, "workers": 0},
            "optimizer": {"lr": 1e-3},
            "steps": 4,
            "log": {"to": []},
        }
        for key, value in changes.items():
            recipe[key] = {**recipe[key], **value} if isinstance(recipe.get(key), dict) and value else value
        place = folder / f"{name}.yaml"
        place.write_text(yaml.safe_dump({k: v for k, v in recipe.items() if v is not None}, sort_keys=False))
        return load_sft_recipe(place, workspace=folder / ".winnow")

    return make


@pytest.fixture
def plan(tmp_path: Path, models: Callable[[str], Path]) -> Plan:
    return plan_in(tmp_path, models)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class Bench:
    """A tiny model with what makes its batches: losses and gradients of rows, however they are batched."""

    def __init__(self, folder: Path, attention: str = "varlen", **choice: Any):
        from schemas.training import ModelChoice
        from training.models import Trainee, is_mrope, load_model
        from training.tokens import Encoder

        self.encoder = Encoder(str(folder))
        self.model = load_model(
            str(folder), ModelChoice(path=str(folder), attention=attention, **choice), seed=0, device="cpu"
        )
        self.mrope = is_mrope(self.model.config)
        self.trainee = Trainee(self.model, chunk=64, varlen=attention == "varlen")

    def named(self, rows: list[dict[str, Any]]) -> list[Any]:
        from training.index import Named
        from training.sources import messages_of

        return [Named(self.encoder.sample(*messages_of(row, Path())), row["row_id"], row["source"]) for row in rows]

    def batch(self, rows: list[dict[str, Any]], packed: bool = True) -> Any:
        from training.batches import Collator

        return Collator(self.encoder, packed=packed, mrope=self.mrope)(self.named(rows), {})

    def run(self, *batches: Any) -> tuple[Any, dict[str, Any]]:
        """nll of all targets of the batches, and the gradients of their mean."""
        self.model.zero_grad()
        count, found = sum(len(batch.targets) for batch in batches), []
        for batch in batches:
            loss, nll = self.trainee(batch, 1 / count)
            loss.backward()
            found.append(nll)
        grads = {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}
        return torch.cat(found), grads


def apart(a: dict[str, Any], b: dict[str, Any]) -> float:
    """The largest difference of two sets of gradients."""
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def furthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)
