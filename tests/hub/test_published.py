"""What was published, as readers meet it: `datasets`, recipes, and Winnow's own commands."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
import yaml

from curation import build
from curation import hub as hubs
from curation.comparison import diff

REPO = "org/shown"

READ = """
import hashlib, json, sys
import datasets
from pathlib import Path
from curation import build, fsck
from curation.comparison import diff
from curation.versions import open_version

repo, folder, local, row = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
said = {}
opened = open_version(f"hub:{repo}@v1")
said["show"] = [opened.name, opened.id, opened.kept]
said["fetched"] = [str(path) for path in opened.path.rglob("data/*/*.parquet")]
for config in ("rows", "sft"):
    loaded = datasets.load_dataset(repo, config, revision="v1", split="train")
    pictures = loaded.cast_column("images", datasets.List(datasets.Image(decode=False)))
    said[config] = [
        [one["row_id"], [hashlib.sha256(p["bytes"]).hexdigest() for p in one["images"]]] for one in pictures
    ]
    said["size"] = [p.size for p in loaded[[i for i, one in enumerate(pictures) if one["images"]][0]]["images"]]
of_recipe = build(folder / "hub.yaml", workspace=folder / "ws", workers=1)
said["recipe"] = [[q, images] for q, images in of_recipe.rows().select("question", "images").rows()]
said["questions"] = [
    [one["question"], [hashlib.sha256(p["bytes"]).hexdigest() for p in one["images"]]]
    for one in datasets.load_dataset(repo, "rows", revision="v1", split="train")
    .cast_column("images", datasets.List(datasets.Image(decode=False)))
]
said["why"] = opened.why(row).to_dict()
said["diff"] = diff(opened, open_version(local)).counts
again = build(folder / "version.yaml", workspace=folder / "ws2", workers=1)
said["version"] = again.rows()["row_id"].to_list()
said["fsck"] = [str(d) for d in fsck(f"hub:{repo}@v1")] + [str(d) for d in fsck(f"hub:{repo}@bare")]
blob = (opened.path / opened.files("decisions")[0]).resolve()
data = bytearray(blob.read_bytes()); data[len(data) // 2] ^= 4; blob.write_bytes(data)
said["flipped"] = [[d.version, d.file, d.what] for d in fsck(f"hub:{repo}@v1")]
print(json.dumps(said, default=str))
"""


def test_read_back(built, standin, hub, run, tmp_path):
    hubs.publish(built.first, REPO, tag="v1", hub=hub)
    hubs.publish(built.second, REPO, tag="v2", hub=hub)
    hubs.publish(built.first, REPO, tag="bare", traces=False, hub=hub)
    source = {"name": "there", "hub": f"{REPO}@v1", "config": "rows", "split": "train", "columns": {"images": "images"}}
    plain = {"name": "again", "language": "none", "outputs": [{"export": "rows"}]}
    (tmp_path / "hub.yaml").write_text(yaml.safe_dump({**plain, "sources": [source]}))
    whole = {"name": "whole", "version": f"hub:{REPO}@v1"}
    (tmp_path / "version.yaml").write_text(yaml.safe_dump({**plain, "sources": [whole]}))
    rows = built.first.rows()
    row = rows["row_id"][0]
    done = run("-c", READ, REPO, str(tmp_path), str(built.second.path), row)
    said = json.loads(done.stdout.splitlines()[-1])

    here = pq.ParquetDataset(built.first.files("data/rows")).read(["row_id"])["row_id"].to_pylist()
    images = dict(rows.select("row_id", "images").rows())
    assert said["rows"] == [[row_id, images[row_id]] for row_id in here]
    assert {row_id for row_id, _ in said["sft"]} <= set(here) and said["sft"]
    assert said["size"] == [[64, 64]]
    assert sorted(said["recipe"]) == sorted(said["questions"])
    assert said["show"] == [built.first.name, built.first.id, built.first.kept]
    assert said["why"] == json.loads(json.dumps(built.first.why(row).to_dict(), default=str))
    assert said["diff"] == diff(built.first, built.second).counts
    assert said["diff"]["changed"] == 20
    assert said["fetched"] == [], "pictures are fetched only where they are needed"
    assert said["version"] == rows["row_id"].to_list(), "rows of a version keep their ids"
    assert said["fsck"] == []
    assert said["flipped"] == [
        [
            f"hub:{REPO}@v1",
            "decisions/part-00000-of-00001.parquet",
            "has other bytes than were written (sha256 differs)",
        ]
    ]


def test_commands(built, standin, hub, run):
    hubs.publish(built.first, REPO, tag="v1", hub=hub)
    shown = run("-m", "curation.cli", "show", f"hub:{REPO}@v1").stdout
    assert f"shown@{built.first.id}" in shown
    changed = run("-m", "curation.cli", "diff", f"hub:{REPO}@v1", str(built.second.path), "--markdown").stdout
    assert "20 changed, 388 unchanged" in changed
    missing = run("-m", "curation.cli", "show", f"hub:{REPO}@v9", check=False)
    assert missing.returncode == 1 and "cannot be had" in missing.stderr and "Traceback" not in missing.stderr


@pytest.mark.parametrize("words", [["publish", "x", "--check", "--license", "y"], ["publish", "x"]])
def test_wrong_words(run, words):
    done = run("-m", "curation.cli", *words, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr


TRAIN = """
import json, sys
from pathlib import Path
import datasets, torch, transformers, trl
from training import tiny

repo, config, place = sys.argv[1], sys.argv[2], Path(sys.argv[3])
train = datasets.load_dataset(repo, config, revision="v1", split="train")
sees = "images" in train.column_names
tiny.make(place, "qwen2_5_vl" if sees else "qwen2", weights=0)
if sees:
    model = transformers.AutoModelForImageTextToText.from_pretrained(place)
    words = transformers.AutoTokenizer.from_pretrained(place)
    looks = transformers.AutoImageProcessor.from_pretrained(place)
    reads = transformers.Qwen2_5_VLProcessor(
        image_processor=looks, tokenizer=words, video_processor=transformers.Qwen2VLVideoProcessor(),
        chat_template=words.chat_template,
    )
else:
    model, reads = transformers.AutoModelForCausalLM.from_pretrained(place), transformers.AutoTokenizer.from_pretrained(place)
arguments = trl.SFTConfig(
    output_dir=str(place / "out"), max_steps=2, per_device_train_batch_size=4, use_cpu=True, bf16=False, report_to=[],
    logging_steps=1, save_strategy="no", gradient_checkpointing=False, disable_tqdm=True, max_length=None,
)
trainer = trl.SFTTrainer(model=model, args=arguments, train_dataset=train, processing_class=reads)
trainer.train()
losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
print(json.dumps({"examples": len(trainer.train_dataset), "losses": losses}))
"""


@pytest.mark.parametrize("config", ["sft", "words"])
def test_trl_trains_on_it(config, built, standin, hub, run, tmp_path):
    """SFTTrainer takes the dataset as `load_dataset` gives it, with pictures and without."""
    import math

    pytest.importorskip("trl", reason="pip install -e '.[dev,train]'")
    recipe = yaml.safe_load((built.folder / "recipe.yaml").read_text())
    recipe["outputs"] = [{"export": "sft"}, {"export": "sft", "name": "words", "where": "source = 'words'"}]
    if config == "words":
        recipe["sources"] = [source for source in recipe["sources"] if source["name"] == "words"]
        recipe["outputs"] = recipe["outputs"][1:]
    path = built.folder / f"trl_{config}.yaml"
    path.write_text(yaml.safe_dump(recipe | {"name": f"trl-{config}"}))
    version = build(path, workspace=built.workspace, workers=1)
    hubs.publish(version, f"org/trl-{config}", tag="v1", hub=hub)
    done = run("-c", TRAIN, f"org/trl-{config}", config, str(tmp_path / "model"))
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["examples"] == version.manifest["splits"][config]["train"]
    assert len(said["losses"]) == 2 and all(math.isfinite(loss) and loss > 0 for loss in said["losses"])


LOAD = """
import sys
import datasets, hf_xet, huggingface_hub.constants
assert not huggingface_hub.constants.HF_HUB_DISABLE_XET
print(len(datasets.load_dataset(sys.argv[1], "sft", revision="v1", split="train")))
"""


def test_files_go_by_lfs_where_xet_is_installed_too(built, standin, run):
    """The publisher asks for LFS's own transfers, whatever else the libraries beside it could do; readers read them."""
    pytest.importorskip("hf_xet", reason="pip install hf-xet")
    run("-m", "curation.cli", "publish", str(built.first.path), REPO, "--tag", "v1", "--quiet", xet=True)
    assert standin.transfers and all(offered == ["basic", "multipart"] for offered in standin.transfers)
    done = run("-c", LOAD, REPO, xet=True)
    assert int(done.stdout.splitlines()[-1]) == built.first.manifest["splits"]["sft"]["train"]
