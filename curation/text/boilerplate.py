r"""Instructions to a model that benchmarks and chat templates put around a question.

They say how to answer, not what is asked, and a trained model should not come to need them. Only whole sentences are
taken out, at the beginning of a line or at its end behind a finished sentence. Instructions that bear on the answer's
value ("a floating-point number with two decimal places") stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from curation.text.columns import never_empty, until_stable, where


@dataclass(frozen=True)
class Instruction:
    """One kind of sentence: `pattern` is a regular expression (Rust syntax, letter case ignored) without the final
    mark, `stem` a text in lower case that every match contains."""

    name: str
    stem: str
    pattern: str
    example: str


_PLEASE = r"(?:please,? )?"
_PUT = r"(?:put|give|provide|write|enclose|present) (?:your|the) (?:final )?answer (?:with)?in "
_BOXED = r"\\boxed\{[^{}]*\}"

INSTRUCTIONS: tuple[Instruction, ...] = (
    Instruction(
        "short_answer", "single word",
        _PLEASE + r"answer (?:the question|this question|the following question)?\s?(?:using|with|in) (?:only )?a "
        "single word(?:,? (?:or|number,? or)(?: short| a)? (?:phrase|sentence|number))?(?: directly)?",
        "Answer the question using a single word or phrase.",
    ),
    Instruction(
        "brief", "brief",
        _PLEASE + r"(?:answer briefly|(?:provide|give) (?:me )?a (?:very )?brief(?: and direct)? answer)",
        "Give a very brief answer.",
    ),
    Instruction(
        "short", "short", _PLEASE + r"(?:provide|give) (?:me )?a (?:very )?short(?: and direct)? answer",
        "Provide a short and direct answer.",
    ),
    Instruction(
        "option_letter", "from the given choices",
        _PLEASE + r"answer (?:the question )?with the (?:option'?s?|option’s|correct) ?letters? from the given "
        "choices(?: directly)?",
        "Answer with the option's letter from the given choices directly.",
    ),
    Instruction(
        "only_letter", "letter",
        _PLEASE + r"(?:answer|respond|reply)(?: the question)?(?: directly)?(?: with)? only (?:with )?the (?:option "
        r")?letter(?: \([A-Z](?:, ?[A-Z])*\))?(?: of the (?:correct|right) (?:option|choice|answer))?(?: and nothing "
        "else)?",
        "Please answer directly with only the letter of the correct option and nothing else.",
    ),
    Instruction(
        "select", "from the options above",
        _PLEASE + r"(?:select|choose) the (?:correct|right|best) (?:answer|option) from the options above",
        "Please select the correct answer from the options above.",
    ),
    Instruction(
        "hint", "at the end",
        r"(?:hint: ?)?please answer the question and provide the (?:final answer|final value|correct option "
        r"letter)(?:, ?e\.g\.,? [^\n]{1,40}?,?)? at the end",
        "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end.",
    ),
    Instruction(
        "step_by_step", "step by step",
        _PLEASE + r"(?:let['’]?s )?(?:think|reason|solve (?:it|this|the problem)|answer)(?: about it)?,? "
        r"(?:carefully )?step by step(?:,? (?:and )?(?:then )?" + _PLEASE + _PUT + _BOXED + r")?",
        "Please reason step by step, and put your final answer within \\boxed{}.",
    ),
    Instruction(
        "boxed", "boxed{",
        _PLEASE + _PUT + _BOXED,
        "Put your final answer in \\boxed{}.",
    ),
    Instruction(
        "answer_line", "without quotes",
        r"solve the following math problem step by step\. the last line of your response should be of the form "
        r"answer: \$?answer \(without quotes\) where \$?answer is the answer to the problem",
        "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
        "$Answer (without quotes) where $Answer is the answer to the problem.",
    ),
    Instruction(
        "answer_line_reminder", "on its own line",
        r"remember to put your (?:final )?answer on its own line (?:after|at the end in the form) \"?answer:\"?",
        'Remember to put your answer on its own line after "Answer:".',
    ),
    Instruction(
        "think_tags", "<think>",
        r"you first think about the reasoning process as an internal monologue and then provide the final answer\. "
        r"the reasoning process must be enclosed within <think> </think> tags"
        r"(?:\. the final answer must be (?:put|enclosed) (?:with)?in (?:" + _BOXED + r"|<answer> </answer> tags))?",
        "You FIRST think about the reasoning process as an internal monologue and then provide the final answer. The "
        "reasoning process MUST BE enclosed within <think> </think> tags. The final answer MUST BE put in \\boxed{}.",
    ),
    Instruction(
        "option_letter_zh", "选项",
        r"请(?:直接)?(?:用|以|回答|给出)(?:给定|正确)?选项的?字母(?:直接)?来?(?:回答(?:问题)?|作答)?",
        "请直接用选项字母回答问题。",
    ),
    Instruction(
        "short_answer_zh", "单词",
        r"请?使?用一个单词或(?:短语|词组)来?回答[这该]?个?问题",
        "请用一个单词或短语回答问题。"
    ),
)  # fmt: skip
NAMES = tuple(i.name for i in INSTRUCTIONS)


def expression(patterns: Sequence[str]) -> str:
    """One regular expression for all patterns where they stand alone on a line, begin it, or end it behind a finished
    sentence, whose mark is group 1. A label "Question:" that only sets the question off from them goes too."""
    any_of = "|".join(f"(?:{p})" for p in patterns)
    begins = rf"^[ \t]*(?:{any_of})(?:[.!。][ \t]*|[ \t]*$)\n?(?:\s*Question:[ \t]*)?"
    ends = rf"([.?!:)\]>\"”。？！$])[ \t]*(?:{any_of})[.!。]?[ \t]*$"
    return rf"(?im){begins}|{ends}"


def remove(texts: pl.Series, *, skip: Sequence[str] = (), extra: Sequence[str] = ()) -> pl.Series:
    """The texts without these instructions; a text that is nothing else stays as it is.

    `skip` names instructions to leave in, `extra` are further patterns, which are looked for in every row.
    """
    chosen = [i for i in INSTRUCTIONS if i.name not in skip]

    def cut(some: pl.Series, pattern: str) -> pl.Series:
        return never_empty(some, lambda s: s.str.replace_all(pattern, "$1").str.strip_chars(" \t\n"))

    if chosen:
        pattern = expression([i.pattern for i in chosen])
        stems = sorted({i.stem for i in chosen})
        likely = texts.str.contains_any(stems, ascii_case_insensitive=True)
        texts = where(texts, likely, lambda s: until_stable(s, lambda t: _changed(t, pattern, cut), rounds=4))
    if extra:
        own = expression(extra)
        texts = until_stable(texts, lambda t: _changed(t, own, cut), rounds=4)
    return texts


def _changed(texts: pl.Series, pattern: str, cut: object) -> pl.Series:
    assert callable(cut)
    return where(texts, texts.str.contains(pattern), lambda s: cut(s, pattern))
