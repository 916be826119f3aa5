"""LLaMA-Factory and verl read a version, by their own code. Their pins collide with ours, so this runs by hand:

    python -m venv /tmp/others && /tmp/others/bin/pip install -e . llamafactory verl
    /tmp/others/bin/python tests/hub/other_trainers.py [llamafactory] [verl]

It builds the tiny recipe with pictures, hands its `sft` to LLaMA-Factory's loader and its `rl` to verl's RLHFDataset,
and counts what they made of it. LLaMA-Factory 0.9.5 wants an older transformers than Winnow trains with: where pip cannot
please both, install it with --no-deps and set DISABLE_VERSION_CHECK=1.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

from curation import build
from curation.handover import hand_over
from curation.versions import Version

ROOT = Path(__file__).parents[2]


def llamafactory(version: Version, folder: Path) -> None:
    from llamafactory.data.loader import _load_single_dataset
    from llamafactory.data.parser import get_dataset_list
    from llamafactory.hparams import DataArguments, ModelArguments
    from transformers import Seq2SeqTrainingArguments

    hand_over(version, "llamafactory", folder)
    name = f"{version.name.replace('-', '_')}_train"
    data = DataArguments(dataset=name, dataset_dir=str(folder), media_dir=str(folder))
    model = ModelArguments(model_name_or_path="none")
    training = Seq2SeqTrainingArguments(output_dir=str(folder / "out"), do_train=True, report_to="none", use_cpu=True)
    (attribute,) = get_dataset_list([name], str(folder))
    loaded = _load_single_dataset(attribute, model, data, training)
    first = loaded[0]
    assert len(loaded) == version.manifest["splits"]["sft"]["train"], len(loaded)
    assert first["_prompt"][0]["content"].count("<image>") == len(first["_images"]) == 1, first
    assert Path(first["_images"][0]).is_file() and first["_response"][0]["content"], first
    print(f"LLaMA-Factory read {len(loaded):,} conversations with their pictures")


def verl(version: Version, folder: Path) -> None:
    from omegaconf import OmegaConf
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from verl.utils.dataset.rl_dataset import RLHFDataset

    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[UNK]")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    options = {"cache_dir": str(folder / "cache"), "max_prompt_length": 512, "filter_overlong_prompts": False}
    files = [f for f in version.files("data/rl") if Path(f).name.startswith("train-")]
    config = OmegaConf.create({**options, "prompt_key": "prompt", "image_key": "images"})
    # With pictures it wants a processor; without the filter of long prompts it calls none of it.
    loaded = RLHFDataset(files, tokenizer, config, processor=SimpleNamespace(tokenizer=tokenizer))
    first = loaded[0]
    assert len(loaded) == version.manifest["splits"]["rl"]["train"], len(loaded)
    assert first["reward_model"]["ground_truth"] and first["data_source"], first
    parts = first["raw_prompt"][0]["content"]
    assert sum(part["type"] == "image" for part in parts) == 1, parts
    print(f"verl read {len(loaded):,} prompts; an item has {', '.join(sorted(first))}")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        version = build(ROOT / "recipes" / "tiny_shapes.yaml", workspace=folder / "ws")
        for asked in sys.argv[1:] or ["llamafactory", "verl"]:
            {"llamafactory": llamafactory, "verl": verl}[asked](version, folder / asked)


if __name__ == "__main__":
    main()
