"""Rewards: what is paid, what is not, and what no answer can do to the trainer."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from schemas.errors import WinnowError
from schemas.training import Overlong, Reward, RewardFunction
from training.rewards import Answered, Function, Rewarder, format_score, overlong_punishment

GOOD = "<think>two and two</think>\n<answer>4</answer>"


def scored(text: str, gold: str = "4", tokens: int = 10, finished: bool = True, **config: Any) -> Any:
    rewarder = Rewarder(Reward(workers=1, **config), longest=100)
    return rewarder([Answered(text, tokens, finished, gold)])[0]


def test_reward_is_its_parts() -> None:
    assert scored(GOOD).reward == pytest.approx(1.0)
    assert scored("<answer>4</answer>").reward == pytest.approx(0.9)
    assert scored(GOOD, gold="5").reward == pytest.approx(0.1)
    assert scored(GOOD, format_weight=0.3, gold="5").reward == pytest.approx(0.3)
    assert scored(GOOD, budget=5).reward == pytest.approx(0.9 * 0.5 + 0.1)
    assert scored("So \\boxed{4}", format="boxed").reward == pytest.approx(1.0)
    assert scored("<answer>4</answer>", format="none").reward == 1.0


@pytest.mark.parametrize("text", [
    "<think></think><answer>4</answer>", "<think> \n</think><answer>4</answer>", "<think>so</think><answer> </answer>",
    "<think>...</think><answer>4</answer>", "<think>a</think><answer>4</answer><think>a</think><answer>4</answer>",
    "<think>a<think>b</think><answer>4</answer>", "<think>a</think>4", "\\boxed{4}", "", "4",
    "words <think>a</think><answer>4</answer>",
])  # fmt: skip
def test_form_cannot_be_had_for_nothing(text: str) -> None:
    assert format_score(text, "think_answer") == 0
    assert format_score("\\boxed{}", "boxed") == 0 == format_score("\\boxed{1} \\boxed{2}", "boxed")


def test_a_trailing_newline_costs_nothing() -> None:
    assert format_score(GOOD + "\n", "think_answer") == 1


def test_length_is_punished_softly() -> None:
    config = Overlong(buffer=20)
    lengths = (0, 79, 80, 81, 90, 100, 101, 5000)
    found = [overlong_punishment(n, config, 100) for n in lengths]
    assert found == pytest.approx([0, 0, 0, -0.05, -0.5, -1, -1, -1])
    assert overlong_punishment(90, Overlong(buffer=20, factor=0.5, limit=90), 100) == -0.5


def test_no_judgement_pays_nothing_and_costs_nothing() -> None:
    one = scored(GOOD, gold="")
    assert one.state == "unparsable_gold" and one.reward is None and one.problem == "unparsable_gold"
    for policy, reward in (("mask", None), ("penalise", 0.0)):
        rewarder = Rewarder(Reward(workers=1), longest=100, truncated=policy)
        (cut,) = rewarder([Answered("<think>so", 100, False, "4")])
        assert (cut.state, cut.accuracy, cut.reward) == ("truncated", 0.0, reward)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "mine.py").write_text(
        "import os, time\n"
        "def act(row):\n"
        "    what = row['response']\n"
        "    print('noise')\n"
        "    if what == 'hang': time.sleep(60)\n"
        "    if what == 'die': os._exit(3)\n"
        "    if what == 'raise': raise ValueError('no')\n"
        "    return {'nan': float('nan'), 'none': None}.get(what, float(row['tokens']))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return "mine:act"


def test_functions_that_hang_die_and_raise_cost_only_their_own_answer(own: str) -> None:
    whats = ["fine", "hang", "die", "raise", "nan", "none", "fine"]
    function = Function(RewardFunction(path=own, seconds=0.5), workers=2)
    began, found = time.monotonic(), []
    thread = Thread(target=lambda: found.extend(function([{"response": w, "tokens": n} for n, w in enumerate(whats)])))
    thread.start()  # the pool must not need the main thread
    thread.join()
    function.close()
    assert [value for value, _ in found] == [0.0, None, None, None, None, None, 6.0]
    told = [why for _, why in found]
    words = ("", "longer than 0.5 s", "died", "ValueError: no", "nan is no reward", "no value", "")
    assert all(word in why for word, why in zip(words, told, strict=True))
    assert time.monotonic() - began < 20


def test_functions_add_with_their_weight_and_mask(own: str) -> None:
    rewarder = Rewarder(Reward(workers=1, functions=[RewardFunction(path=own, weight=0.01)]), longest=100)
    paid, masked = rewarder([Answered(GOOD, 10, True, "4"), Answered("raise", 10, True, "4")])
    rewarder.close()
    assert paid.reward == pytest.approx(1.1) and paid.functions == {own: 10.0}
    assert masked.reward is None and "ValueError" in masked.problem


def test_a_function_that_is_not_there_is_told_by_name() -> None:
    with pytest.raises(WinnowError, match="nowhere:f"):
        Function(RewardFunction(path="nowhere:f"), workers=1)([{}])
    with pytest.raises(ValueError, match="module:function"):
        RewardFunction(path="nowhere")


def test_rewards_are_the_same_with_any_number_of_workers() -> None:
    answers = [Answered(f"<think>a{n}</think><answer>{n % 7}</answer>", 5, True, "3") for n in range(600)]
    one, two = (Rewarder(Reward(workers=n), longest=100)(answers) for n in (1, 2))
    assert one == two and sum(s.reward == 1.0 for s in one) == 86
