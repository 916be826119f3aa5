"""The committed page of disagreements with stored verdicts is what the checker says today."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.answers.rollouts import CAUSES, FILES, PAGE, page


def test_the_page_of_disagreements_is_up_to_date(data_dir: Path) -> None:
    if not all((data_dir / "rollouts" / f"{name}.parquet").is_file() for name in FILES):
        pytest.skip(f"no rollouts in {data_dir}: set WINNOW_DATA to a folder that has them")
    assert page(data_dir) == PAGE.read_text(encoding="utf-8"), (
        "run `python -m tests.answers.rollouts` and read the diff"
    )


def test_every_disagreement_is_judged() -> None:
    text = PAGE.read_text(encoding="utf-8")
    headings = [line.rpartition(" (")[0].removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    judged = {heading: judgement for heading, judgement, _ in CAUSES}
    listed = [heading for heading in headings if heading in judged]
    assert listed and set(headings) - set(listed) <= {""}, "a group without a judgement"
    assert all(judged[heading] in text for heading in listed)
    lines = sum(line.startswith(("| math", "| gsm8k/")) and " #" in line for line in text.splitlines())
    assert f"{lines} replies are judged differently" in text
