"""Multiple choice: which options an answer names, by letter or by content.

Options come from the caller or stand in the question (`(A) 3 (B) 5`, `A. ...`, `A: ...`, `A．...`). An answer names a
letter only in a letter's place: alone, before a closing mark, after "option", in brackets. A capital inside prose
("A triangle", "angle AOC") is no answer. Without a letter the answer's content is compared with every option by the
same comparison as everywhere else, and exactly one option must fit. An answer that names more letters than the gold
("B or D") is wrong.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from curation.answers.numbers import parse_number

LETTERS = "ABCDEFGHIJ"
GOLD_CHARS = 64  # of a gold that is letters, with the marks around them
QUESTION_CHARS = 8_192  # options stand at a question's end
_LABEL = re.compile(r"([A-J])(?<![^\s(（$　。；;,，].)(?:\s?[)）.．:：、](?!\d)|(?<=[(（].)[)）]|(?<=\n.)[:：.．、])")
_CHOICE_LABEL = re.compile(r"\s*[(（]?([A-Ja-j])[)）.．:：、]\s*(.*)", re.DOTALL)
_WRAPPING = re.compile(
    r"\\(?:text|textbf|mathrm|mathbf|textrm|mathit|textit|textsf|rm|bf|boxed)\s*\{([^{}]*)\}|\\(?:rm"
    r"|bf|left|right)\b|[*$`\"'「」“”]|\\[()\[\],;! ]"
)
_NAMED = (
    r"(?i:(?:the\s+)?(?:correct\s+)?(?:choices?|options?|answers?|statements?|figures?|images?|pictures?|diagrams?|graphs?"
    r"|选项|选择|答案|图)(?:\s+is)?[\s_:：]*)"
)
_ALONE = re.compile(rf"(?:{_NAMED})?[(（\[{{<]*([A-J])[)）\]}}>]*[.。:：、,，;；!]*", re.IGNORECASE)
_SEVERAL = re.compile(
    rf"(?:{_NAMED})?[(（\[{{]*([A-J])[)）\]}}]*(?:(?:\s*(?:,|，|、|/|&|;|and|or|and/or|和|或|与|及)+\s*|\s+"
    rf"|)(?:{_NAMED})?[(（\[{{]*[A-J][)）\]}}]*)+[.。]*"
)
_FIRST = re.compile(
    rf"(?:{_NAMED})?(?:[(（\[]([A-J])[)）\]]|([A-J])(?:\s*[).）．:：、。,，;；\]]|\s*[-–—]\s|\s*$|\s*(?=不|是|选项"
    rf"|项|正确|\n)|(?=\s*[(（\"“])|(?=\s+(?:is(?!\s+(?:wrong|incorrect|not|false|impossible|out|eliminated|excluded|ruled))"
    rf"|because|since|as|for|which|with)\b)))"
)
_NEXT = re.compile(rf"\s*(?:,|，|、|/|&|and|or|和|或)\s*(?:{_NAMED})?[(（\[]?([A-J])(?:[)）\]]|(?=[\s.,，。;:]|$))")
_NEGATED = re.compile(
    r"(?:\bnot|n['’]t|\b(?:ca|is|are|was|wo|do|does|did|could|would|should)nt|\bno|neither|except|excluding|rule out|ruled out|eliminat\w*|不是|不选|排除"
    r"|非)[\s(（]{0,3}(?:\w+\s+){0,2}$",
    re.IGNORECASE,
)
_IN_PROSE = re.compile(
    r"[(（]([A-J])[)）]|(?:选项?|选择|答案[是为]?|应选)\s*([A-J])(?![A-Za-z])|(?<![A-Za-z])([A-J])\s*(?:选项|项)(?!错)"
    r"|\b(?i:definitely|clearly|surely|for sure|certainly|obviously|probably)\s+([A-J])(?=[\s.,;:)!]|$)"
    r"|\b(?i:choice|option|answer)[_\s:]+(?:is\s+)?[(]?([A-J])\b|\b(?:it'?s|it is|be|is|select|choose"
    r"|pick|(?i:think|believe|guess|say|therefore|thus|hence|so|go with)(?:\s+(?:that\s+)?(?:it'?s|it is))?)"
    r"\s+[(]?([A-J])(?=[\s.,;:)!]|$)(?!\s+[a-z])"
)  # fmt: skip
_GOLD_SEVERAL = re.compile(r"[A-J]{2,6}|[A-J](?:\s*[,，、;]\s*[A-J])+")


@dataclass(frozen=True, slots=True)
class Option:
    letter: str
    text: str


@lru_cache(maxsize=4_096)
def options_of(choices: tuple[str, ...] | None, question: str | None) -> tuple[Option, ...]:
    """The options in order; from `choices`, else from the question's text; empty where there are none."""
    if choices:
        found = []
        for index, choice in enumerate(choices[: len(LETTERS)]):
            labelled = _CHOICE_LABEL.fullmatch(choice)
            if labelled and labelled[1].upper() == LETTERS[index]:
                found.append(Option(LETTERS[index], labelled[2].strip()))
            else:
                found.append(Option(LETTERS[index], choice.strip()))
        return tuple(found)
    return _options_in(question) if question else ()


def _options_in(question: str) -> tuple[Option, ...]:
    """The last run of labels A, B, C, ... in the question, at least two long."""
    question = question[-QUESTION_CHARS:]
    if "A" not in question or "B" not in question:
        return ()
    labels = [(m[1], m.start(), m.end()) for m in _LABEL.finditer(question)][-128:]
    best: list[tuple[str, int, int]] = []
    for start in range(len(labels)):
        if labels[start][0] != "A":
            continue
        run = [labels[start]]
        for label in labels[start + 1 :]:
            if label[0] == LETTERS[len(run)] if len(run) < len(LETTERS) else False:
                run.append(label)
        if len(run) >= max(2, len(best)):
            best = run
    if not best:
        return ()
    ends = [s for _, s, _ in best[1:]] + [len(question)]
    return tuple(
        Option(letter, _clean_option(question[end:stop])) for (letter, _, end), stop in zip(best, ends, strict=True)
    )


def _clean_option(text: str) -> str:
    text = text.strip().rstrip("(（").strip()
    return text.split("\n\n")[0].strip(" ;；\n")


def _bare(text: str) -> str:
    if text.isascii() and text.isalnum():
        return text
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    for _ in range(3):
        stripped = _WRAPPING.sub(lambda m: m[1] or "", text)
        if stripped == text:
            break
        text = stripped
    return text.strip(" \t\n{}")


@lru_cache(maxsize=8_192)
def letters_of_gold(gold: str) -> str | None:
    """The letters that a gold names (`C`, `(C)`, `c`, `AE`, `A, E`), sorted; None where it is content."""
    if len(gold) > GOLD_CHARS:
        return None
    text = _bare(gold)
    match = _ALONE.fullmatch(text)
    if match:
        return match[1].upper()
    if _GOLD_SEVERAL.fullmatch(text):
        letters = re.findall(r"[A-J]", text)
        return "".join(sorted(letters)) if len(set(letters)) == len(letters) else None
    return None


def is_capital(gold: str) -> bool:
    """Whether a gold that is letters writes them as capitals: `e` may be a number."""
    bare = _bare(gold)
    return bare == bare.upper()


def labelled_gold(gold: str) -> str | None:
    """The letter of a gold that is written with its option: `(D) Alina`, `B. 3`, `C Cecile`."""
    text = _bare(gold).split("\n")[0]
    match = re.match(r"[(（]?([A-J])(?:[)）.:：、]\s*\S|\s+[A-Z\d])", text)
    return match[1] if match else None


def letters_of(text: str, available: str) -> str | None:
    """The letters that an answer names in a letter's place, sorted; None where it names none.

    `available` are the letters of the question's options: others are not letters of an answer.
    """
    bare = _bare(text)
    match = _ALONE.fullmatch(bare)
    if match and match[1].upper() in available:
        return match[1].upper()
    if _SEVERAL.fullmatch(bare):
        named = re.findall(r"(?<![A-Za-z])[A-J]+(?![a-z])", re.sub(_NAMED, " ", bare, flags=re.IGNORECASE))
        letters = sorted({c for run in named for c in run})
        if letters and all(c in available for c in letters):
            return "".join(letters)
    match = _FIRST.match(bare)
    if match:
        letters = [match[1] or match[2]]
        at = match.end()
        if bare[at - 1 : at] in (",", "，", "、"):
            at -= 1
        while following := _NEXT.match(bare, at):
            letters.append(following[1])
            at = following.end()
        # `A: 18` may announce an answer, not name an option
        announced = letters == ["A"] and bare[match.end() - 1] in ":：" and parse_number(bare[at:].strip(" ,，、"))
        if all(c in available for c in letters) and not announced:
            return "".join(sorted(set(letters)))
    return None


def content_behind(text: str) -> str:
    """What stands behind a leading letter: `16` in `(C) 16`; empty where nothing does."""
    bare = _bare(text)
    match = _FIRST.match(bare)
    return bare[match.end() :].strip(" .,:;)") if match else ""


def letters_in_prose(text: str, available: str) -> str | None:
    """Letters named in a sentence and not negated: "option B", "it's B", `选项B`; None where there are none."""
    found = []
    bare = _bare(text)
    for match in _IN_PROSE.finditer(bare):
        letter = next(g for g in match.groups() if g)
        if letter in available and not _NEGATED.search(bare, max(0, match.start() - 24), match.start()):
            found.append(letter)
    return "".join(sorted(set(found))) or None


def by_content(text: str, options: Sequence[Option], same: Callable[[str, str], bool | None]) -> str | None:
    """The one option whose text `same` calls equal to the answer; None where none or several are."""
    fits = [o.letter for o in options if o.text and o.text != o.letter and same(o.text, text)]
    return fits[0] if len(fits) == 1 else None
