"""RL on pictures: CPU time of a step with decoded pictures kept, against decoding for every answer and pass.

    python tests/benchmarks/bench_pictures_rl.py [repetitions]

The steps of recipes/train_tiny_vision_gspo.yaml, drawing and rewards with them, on one thread. The weights are random, so
no start has to be trained; answers that are cut off count as wrong ones. The first step warms up and is not counted.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from curation import build  # noqa: E402
from training import gspo  # noqa: E402
from training.recipe import load_gspo_recipe  # noqa: E402

STEPS = 4


def step(workspace: Path, megabytes: int) -> float:
    """CPU seconds of a step."""
    marks = []
    learn = gspo.learn

    def marked(*arguments):
        line = learn(*arguments)
        marks.append(time.process_time())
        return line

    overrides = [
        f"model.path={ROOT}/recipes/data/tiny_vision", "model.init=random", "evaluation=null", "log.to=[]", f"steps={STEPS}",
        "reward.workers=1", "rollout.truncated=penalise", f"batch.picture_cache_mb={megabytes}",
    ]  # fmt: skip
    plan = load_gspo_recipe(ROOT / "recipes" / "train_tiny_vision_gspo.yaml", overrides=overrides, workspace=workspace)
    gspo.learn = marked
    try:
        gspo.train(plan, workspace=workspace, fresh=True, quiet=True)
    finally:
        gspo.learn = learn
    return (marks[-1] - marks[0]) / (STEPS - 1)


def main() -> None:
    torch.set_num_threads(1)
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    found: dict[int, list[float]] = {0: [], 1024: []}
    with tempfile.TemporaryDirectory() as place:
        build(ROOT / "recipes" / "tiny_cells.yaml", workspace=place, workers=1)
        for _ in range(repeats):
            for megabytes, times in found.items():
                times.append(step(Path(place), megabytes))
    each, kept = (statistics.median(times) for times in found.values())
    print(f"RL on pictures: {each:.2f} CPU s a step, {kept:.2f} with decoded pictures kept: {kept / each:.2f}x")


if __name__ == "__main__":
    main()
