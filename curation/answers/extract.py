r"""Find the final answer in a response, and where it stands.

A response is read from its end. What a model *declares* - an answer tag, a box, `####`, "the answer is", `答案` - beats
anything that merely stands last, and among declarations the last one counts. Thinking is cut away first, with what a
chat template leaves behind. Without a declaration a short response is itself the answer (`bare`); otherwise the last
formula or number is taken, flagged as not declared, unless the response is an error message.

Every scan is one pass over at most 64 KB: the last boxes are found by one walk over the braces, never by searching
forward from each opening.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from curation.answers.gate import TAIL_CHARS
from curation.answers.policy import Policy


class Extraction(NamedTuple):
    """A found answer: its text, its span [start, end) in the response, the rule, and whether it was declared."""

    text: str
    start: int
    end: int
    rule: str
    declared: bool = True

    @property
    def span(self) -> tuple[int, int] | None:
        return None if self.rule == "none" else (self.start, self.end)


NOTHING = Extraction("", 0, 0, "none", False)

_NEXT_TURN = re.compile(r"\n[ \t]*\n[ \t]*(?:Human|User|Question|Problem|Q)[ \t]*\d*[ \t]*[:：]")
_THINK_CLOSE = re.compile(r"</(?:think|thinking|thought|reasoning)>|◁/think▷", re.IGNORECASE)
_THINK_OPEN = re.compile(r"<(?:think|thinking|thought|reasoning)>|◁think▷", re.IGNORECASE)
_CHAT_END = re.compile(r"<\|(?:im_start|im_end|endoftext|eot_id|end|end_of_text)\|>|</s>|<eoa>|<\|assistant\|>")
_ANSWER_TAG = re.compile(r"<(/?)(?:answer|final_answer)>", re.IGNORECASE)
_BOX_NAMES = ("boxed", "fbox", "framebox")
_BOX_TOKEN = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\boxed[ \t]*([^\s{}$\\,;.]+)")
_BETWEEN_BOXES = re.compile(
    r"(?:[\s$,;、，；&]|\\[()\[\],;! ]|\\q?quad|\\(?:text|mathrm|textnormal)\{[^{}]{0,12}\}|and|or|和|或|以及"
    r"|[A-Za-z](?:_\{?\w{1,3}\}?)?\s*=)*"
)
_AFTER_BOX = re.compile(
    r"(?:\s|\\[,;! ])*(?:\\%|%|\^\{?\\circ\}?|°|\\(?:text|mathrm|textnormal|mbox"
    r"|rm)\s*\{[^{}]{1,24}\}(?:\^\{?[23]\}?)?)"
)
_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S[^\n]*)$", re.MULTILINE)

# Each alternative begins with the word that must be there: what stands before it does not matter.
_HEADING_TEXT = (
    r"[ \t]*\*{0,2}(?:A|Ans|[Aa]nswer|ANSWER|[Oo]utput|OUTPUT|[Rr]esult|RESULT|[Ss]olution|SOLUTION|[Cc]onclusion)"
    r"\*{0,2}[ \t]*[:.：][ *_]*"
)
_HEADING = re.compile(r"\n" + _HEADING_TEXT)
_FIRST_HEADING = re.compile(_HEADING_TEXT)
_STRONG = re.compile(
    r"(?:[Aa]nswers?|ANSWERS?|[Cc]orrect (?:option|choice|statement)"
    r"|[FfRr](?:inal|ight) (?:option|choice|solution|result|value)"
    r"|[Tt]he (?:option|choice)(?= is))"
    r"(?:[ *_]+(?:to (?:the|this|your) (?:question|problem)|for (?:the|this) (?:question|problem)|here|choice|option"
    r"|would|should|must|could|among[^.\n]{0,40}|from[^.\n]{0,40}))?"
    r"[ *_]*(?:\b(?:is|are|was|be|will be|becomes|equals|IS)\b[ *_]*"
    r"(?:therefore|thus|then|indeed|clearly|simply|definitely)?[ *_]*:?|[:：=])[ *_]*"
    r"|(?:答案|答复|选项|结果)(?:】|\])?(?:应该|应当|应)?(?:为|是|选|选择|：|:)+[ \t*]*(?:选项|选择)?[：: ]*"
    r"|答案】[ \t]*[:：]?[ \t]*|(?:故|因此|所以|应|综上，?)(?:本题)?(?:正确)?(?:应该|应)?(?:选择?|选项(?:是|为))[：: ]*"
    r"|(?:[Aa]nswer|ANSWER)(?:\s+(?=\\[(\[]|\$)|[ \t]*\n+[ \t]*(?=\S))"
)
# What every match of _STRONG holds in its first letters: it is tried there alone, not at every letter of a text.
_STRONG_WORDS = ("nswer", "NSWER", "orrect ", "inal ", "ight ", "he option", "he choice")
_STRONG_CHARACTERS = tuple("答选结故因所应综")
FORMULA = re.compile(
    r"\$\$(?P<dd>[^$]+)\$\$|\$(?P<d>(?:[^$\\\n]|\\.|\n(?!\n))+)\$|\\\((?P<p>.+?)\\\)|\\\[(?P<b>.+?)\\\]", re.DOTALL
)
_AFTERTHOUGHT = re.compile(r"(?<=\S)\s*[,;(]\s*(?:i\.?e|that is|namely|which|because|since)\b")
_JOINED = re.compile(r"[\s*]*(?:,|;|and|or|和|或)?[\s*]*(?:and|or)?[\s*]*")
_TAIL = re.compile(r"[ \t]*[^.\n。$\\]{0,40}")
_UNIT_BEHIND = re.compile(r"\s*(?:\\?%|percent\b|degrees?\b|°|[a-z]+(?:/[a-z]+|\^?[23²³])?(?=[\s.,;]|$))")
NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.\\^{])(?>(?:[-+−](?=[\d.$]))?\$?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:[.,]\d+)?"
    r"|\.\d+)(?:\s*/\s*\d+)?"
    r"(?:[eE][-+]?\d+)?)(?![A-Za-z]{4}|(?<=0)s\b)"
    r"(?!\s*(?:\\(?:pi|sqrt|[dt]?frac|cdot|times|left|pm|theta|alpha|beta)(?![A-Za-z])|\*(?!\*)|\^(?!\{?\\circ)|[_{\[]|/\s*[A-Za-z\\(]))(?:\s*(?:\\?%|°|\^\{?\\circ\}?))?"
)
_ERROR_WORDS = ("Error", "Exception", "Traceback", "\x1b[", "__", "execution ", "Timeout")
_ERROR_TEXT = re.compile(
    r"Traceback \(most recent call last\)|^\s*\w*(?:Error|Exception): |\x1b\[|NameError|TypeError"
    r"|ValueError|SyntaxError"
    r"|__\w+__|Timeout ?Error|execution (?:failed|timed out)",
    re.MULTILINE,
)
# The mark comes first, so that the search runs from mark to mark.
_SENTENCE_END = re.compile(
    r"[.!?。！？\n](?:(?<=[^.\d][.!?])(?=\s|$)|(?<=\d\.)(?=\s|$)|(?<=[。！？])(?!\w*\})|(?<=\n)\s*\n)"
)
# "It isn't 42" gives no value.
_DENIAL = re.compile(r"\b(?:is|are|was|were|equals?|be) not\b|\b(?:is|are|was|were|ca)n['’]t\b|\bcannot be\b|不是|并非")
BARE_CHARS = 400
NEAR_CHARS = 800  # most answers are declared this close to the end: looked at first, the rest only if need be


def error_text(text: str) -> bool:
    """Whether `text` is a program's error message, or its source, rather than an answer."""
    for word in _ERROR_WORDS:
        if word in text:
            return bool(_ERROR_TEXT.search(text))
    return False


def has_heading(line: str) -> bool:
    """Whether a line begins by announcing an answer: `A: 18`, `**Answer:** 18`."""
    return bool(_FIRST_HEADING.match(line))


def visible_part(response: str) -> tuple[int, int]:
    """The span of `response` that can hold the final answer: behind the thinking, before the chat template's marks.

    An opened and unclosed thinking part leaves an empty span: the model never came to its answer.
    """
    start, end = max(0, len(response) - TAIL_CHARS), len(response)
    if "<" in response or "◁" in response:
        close = _last(_THINK_CLOSE, response, 0, end) if "</" in response or "◁" in response else None
        begin = close.end() if close else 0
        if opened := _THINK_OPEN.search(response, begin):
            return opened.end(), opened.end()
        start = max(start, begin)
        for mark in _CHAT_END.finditer(response, start):
            if response[start : mark.start()].strip():
                end = mark.start()
                break
            start = mark.end()
    # A base model goes on with another question: what was declared before it is the answer to this one.
    if (
        "\n" in response
        and (turn := _NEXT_TURN.search(response, start, end))
        and (boxes(response, start, turn.start()) or _from_markers(response, start, turn.start()))
    ):
        end = turn.start()
    return start, end


def boxes(text: str, start: int = 0, end: int | None = None) -> list[tuple[int, int, int, int]]:
    r"""Balanced outermost `\boxed{...}` in text[start:end] as (start, content start, content end, end); one pass."""
    stack: list[tuple[int, int] | None] = []
    found: list[tuple[int, int, int, int]] = []
    end = len(text) if end is None else end
    if "box" not in text:
        return []
    first = min((at for at in (text.find(name, start, end) for name in _BOX_NAMES) if at >= 0), default=end)
    while first > start and text[first - 1] == "\\":
        first -= 1
    for token in _BOX_TOKEN.finditer(text, first, end):
        mark = token[0]
        if mark == "{":
            stack.append(None)
        elif mark == "}":
            if stack and (opened := stack.pop()):
                while found and found[-1][0] > opened[0]:
                    found.pop()  # an inner box belongs to the outer one
                found.append((opened[0], opened[1], token.start(), token.end()))
        elif len(mark) > 2:
            stack.append((token.start(), token.end()))
    return found


def _from_tags(text: str, start: int, end: int) -> Extraction | None:
    opened: int | None = None
    best: tuple[int, int] | None = None
    for tag in _ANSWER_TAG.finditer(text, start, end):
        if not tag[1]:
            opened = tag.end()
        elif opened is not None:
            best, opened = (opened, tag.start()), None
    return Extraction(text[best[0] : best[1]], *best, "tag") if best else None


def _from_boxes(text: str, start: int, end: int, policy: Policy) -> Extraction | None:
    found = boxes(text, start, end)
    found = [box for box in found if text[box[1] : box[2]].strip(" .")] or found[-1:]
    if not found:
        bare = None
        for bare in _BARE_BOX.finditer(text, start, end):  # noqa: B007 - the last one counts
            pass
        return Extraction(bare[1], bare.start(1), bare.end(1), "box") if bare else None
    group = [found[-1]]
    for box in reversed(found[:-1]):
        gap = text[box[3] : group[0][0]]
        if policy.last_box_only or len(gap) > 60 or "\n\n" in gap.strip() or not _BETWEEN_BOXES.fullmatch(gap):
            break
        group.insert(0, box)
    parts = list(dict.fromkeys(text[b[1] : b[2]].strip() for b in group))
    if len(parts) > 1:
        return Extraction(", ".join(parts), group[0][0], group[-1][3], "boxes")
    _, inner, close, after = group[-1]
    unit = _AFTER_BOX.match(text, after, min(end, after + 48))
    return Extraction(text[inner:close] + (unit[0] if unit else ""), inner, close, "box")


def _marker_content(text: str, begin: int, end: int) -> tuple[int, int]:
    """The span of what a marker announces: formulas joined by commas and words, else the rest of the sentence."""
    while begin < end and text[begin] in " \t\n\r*_":
        begin += 1
    math = FORMULA.match(text, begin, end)
    if math:
        stop = math.end()
        while joined := _JOINED.match(text, stop, end):
            following = FORMULA.match(text, joined.end(), end)
            if not following or joined[0].strip() == "":
                break
            stop = following.end()
        tail = _TAIL.match(text, stop, end)
        if tail and (unit := _UNIT_BEHIND.match(tail[0])):
            stop += unit.end()
        return begin, stop
    line_end = text.find("\n", begin, end)
    stop = end if line_end < 0 else line_end
    for cut in _SENTENCE_END.finditer(text, begin, stop):
        inside = text.count("$", begin, cut.start()) % 2
        if not inside:
            stop = cut.start()
            break
    return begin, stop


def _strong_marks(text: str, start: int, end: int) -> list[int]:
    """Where the matches end that `_STRONG.finditer` would find."""
    begins = []
    for word in _STRONG_WORDS if text.isascii() else _STRONG_WORDS + _STRONG_CHARACTERS:
        at = text.find(word, start, end)
        while at >= 0:
            begins.append(at - (len(word) > 1))  # a word lacks its first letter, which may be a capital
            at = text.find(word, at + 1, end)
    ends = []
    for begin in sorted(begins) if len(begins) > 1 else begins:
        if begin >= start and (found := _STRONG.match(text, begin, end)):
            start = found.end()
            ends.append(start)
    return ends


def _from_markers(text: str, start: int, end: int) -> Extraction | None:
    near = max(start, end - NEAR_CHARS)
    if near > start and (late := _from_markers(text, near, end)):
        return late
    marks = _strong_marks(text, start, end)
    if text.find("\n", start, end) >= 0:
        marks += [mark.end() for mark in _HEADING.finditer(text, start, end)]
    if (start == 0 or text[start - 1] == "\n") and (first := _FIRST_HEADING.match(text, start, end)):
        marks.append(first.end())
    for mark in sorted(marks, reverse=True):
        if text[mark:end].strip(" \n\t*_.:$"):
            begin, stop = _marker_content(text, mark, end)
            if afterthought := _AFTERTHOUGHT.search(text, begin, stop):
                stop = afterthought.start()
            return Extraction(text[begin:stop], begin, stop, "marker") if text[begin:stop].strip() else None
    return None


def _last(pattern: re.Pattern[str], text: str, start: int, end: int) -> re.Match[str] | None:
    found = None
    for found in pattern.finditer(text, start, end):  # noqa: B007 - the last one counts
        pass
    return found


def _last_sentence(text: str, start: int, end: int) -> int:
    """Where the last sentence of text[start:end] begins: a value earlier than that is not the answer."""
    for begin in (max(start, end - NEAR_CHARS), start):
        cuts = [cut.end() for cut in _SENTENCE_END.finditer(text, begin, end)]
        for cut in reversed(cuts):
            if len(text[cut:end].strip(" \n.*$")) > 1:
                return cut
    return start


def last_value(text: str, start: int = 0, end: int | None = None) -> Extraction:
    """The last formula or number of prose: not declared, so only a fallback."""
    end = len(text) if end is None else end
    if error_text(text[start:end]):
        return NOTHING
    start = _last_sentence(text, start, end)
    found = _last_in(text, start, end)
    denied = _last(_DENIAL, text, start, found.start)
    return NOTHING if denied and not any(map(str.isdigit, text[denied.end() : found.start])) else found


def _last_in(text: str, start: int, end: int) -> Extraction:
    math = _last(FORMULA, text, start, end) if "$" in text or "\\" in text else None
    number = None
    if math is None or any(c.isdigit() for c in text[math.end() : end]):
        number = _last(NUMBER, text, math.end() if math else start, end)
    if number:
        return Extraction(number[0].strip(), number.start(), number.end(), "number", False)
    if math:
        group = math.lastgroup or "d"
        return Extraction(math[group], math.start(group), math.end(group), "math", False)
    return NOTHING


def _span_trimmed(found: Extraction) -> Extraction:
    lead = len(found.text) - len(found.text.lstrip())
    text = found.text.strip()
    if text == found.text or found.rule == "boxes":
        return found
    return Extraction(text, found.start + lead, found.start + lead + len(text), found.rule, found.declared)


def extract(response: str, policy: Policy | None = None) -> Extraction:
    """The final answer of `response`; rule `none` where there is none. Linear in the response's length."""
    policy = policy or Policy()
    start, end = visible_part(response)
    if not response[start:end].strip():
        return NOTHING
    tag = _from_tags(response, start, end) if "<" in response else None
    if tag:
        inner = _from_boxes(response, tag.start, tag.end, policy) or _from_hashes(response, tag.start, tag.end)
        return _span_trimmed(Extraction(inner.text, inner.start, inner.end, "tag") if inner else tag)
    candidates = []
    if "box" in response:
        candidates.append(_from_boxes(response, start, end, policy))
    if "####" in response:
        candidates.append(_from_hashes(response, start, end))
    # A marker before a box or #### loses to it: what it announces ends earlier, or holds it.
    behind = max((c.start for c in candidates if c), default=start)
    candidates.append(_from_markers(response, behind, end))
    declared = [c for c in candidates if c]
    if declared:
        # The last declaration counts; a marker whose content is the box (or holds it) gives way to the box.
        best = max(declared, key=lambda c: (c.end, c.rule != "marker"))
        for other in declared:
            if best.rule == "marker" and other is not best and best.start <= other.start and other.end <= best.end:
                best = other
        return _span_trimmed(best)
    text = response[start:end]
    if len(text.strip()) <= BARE_CHARS:
        return _span_trimmed(Extraction(text, start, end, "bare"))
    return last_value(response, start, end) if policy.weak_extraction else NOTHING


def _from_hashes(text: str, start: int, end: int) -> Extraction | None:
    found = _last(_HASHES, text, start, end)
    return Extraction(found[1], found.start(1), found.end(1), "hashes") if found else None


def announced(response: str) -> str:
    """What the last answer marker announces, even where a box stands behind it; empty without a marker."""
    found = _from_markers(response, *visible_part(response))
    return found.text.strip() if found else ""


def extract_tail(response: str) -> str:
    """The last sentence of the visible part."""
    start, end = visible_part(response)
    return response[_last_sentence(response, start, end) : end].strip()
