"""In which language a text is written, as far as a reader could tell at a glance.

The script decides first: Han, Kana, Hangul, Cyrillic, Arabic and the others belong to one language, or to a few that
certain letters tell apart. Texts in Latin letters are scored by the short words that every text has
(_profiles.py). Formulas, code, numbers and names of variables count for nothing; a text that has little else is "und".

Models that guess from n-grams take formulas for languages and cost more than everything else that is done to a row;
here a row takes a few microseconds. The price: languages in Latin letters without a profile, and texts of one or two
words, come out as "und".
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pyarrow as pa

from curation.text._profiles import LETTERS, WORDS
from curation.text._scan import FNV_BASIS, FNV_PRIME, MARKS, SCRIPTS, scan

UNKNOWN = "und"
_LATIN = tuple(WORDS)
_EXCLUSIVE = 12
"""What a word of one language weighs; a word of k languages weighs 12 // k for each."""
_EVERY = 150
"""A text needs one such word, or its weight in shared ones, for so many letters."""
_BY_SCRIPT = {
    "han": "zh", "kana": "ja", "hangul": "ko", "cyrillic": "ru", "arabic": "ar", "devanagari": "hi", "greek": "el",
    "hebrew": "he", "thai": "th", "bengali": "bn", "tamil": "ta", "telugu": "te", "gujarati": "gu", "gurmukhi": "pa",
    "kannada": "kn", "malayalam": "ml", "sinhala": "si", "georgian": "ka", "armenian": "hy", "ethiopic": "am",
    "khmer": "km", "lao": "lo", "myanmar": "my",
}  # fmt: skip
LANGUAGES = (*_LATIN, *dict.fromkeys([*_BY_SCRIPT.values(), *MARKS]), UNKNOWN)
# A Han character says as much as a word, a syllable of Kana or Hangul as half of one; a word has about four letters.
_WEIGHT = np.array([{"han": 4, "kana": 2, "hangul": 2}.get(name, 1) for name in SCRIPTS], np.int32)


def fnv(word: str) -> int:
    """FNV-1a, 64 bit, over the code points of a word."""
    value = FNV_BASIS
    for char in word:
        value = ((value ^ ord(char)) * FNV_PRIME) & 0xFFFFFFFFFFFFFFFF
    return value


def _bits(languages: list[str]) -> int:
    return sum(1 << _LATIN.index(language) for language in languages)


@cache
def _tables() -> tuple[np.ndarray, ...]:
    """The profiles as `scan` wants them."""
    words: dict[str, list[str]] = {}
    for language, text in WORDS.items():
        # The scan cuts words at apostrophes and passes over single letters.
        for word in sorted({w for w in text.replace("'", " ").split() if len(w) > 1}):
            words.setdefault(word, []).append(language)
    size = 1 << (len(words) * 3).bit_length()
    keys, masks, weights = np.zeros(size, np.uint64), np.zeros(size, np.uint64), np.zeros(size, np.int32)
    for word, languages in words.items():
        slot = fnv(word) % size
        while keys[slot]:
            slot = (slot + 1) % size
        keys[slot], masks[slot], weights[slot] = fnv(word), _bits(languages), max(_EXCLUSIVE // len(languages), 1)
    letter_masks, letter_weights = np.zeros(0x250, np.uint64), np.zeros(0x250, np.int32)
    for letter, text in LETTERS.items():
        languages = text.split()
        letter_masks[ord(letter)] = _bits(languages)
        letter_weights[ord(letter)] = max(_EXCLUSIVE // 2 // len(languages), 1)
    return keys, masks, weights, letter_masks, letter_weights


def languages(texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    """ISO 639-1 codes of texts, "und" where it cannot be told; null for null. One text's code depends on no other."""
    from curation.kernels._memory import texts as located

    at = located(texts)
    n = len(at)
    scripts = np.zeros((n, len(SCRIPTS)), np.int32)
    marks = np.zeros((n, len(MARKS)), np.int32)
    scores = np.zeros((n, len(_LATIN)), np.int32)
    scan(at.address, at.length, *_tables(), scripts, marks, scores)
    code = _decided(scripts, marks, scores)
    return pa.array(LANGUAGES).take(pa.array(code, mask=at.length < 0))


def _decided(scripts: np.ndarray, marks: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Index in LANGUAGES for each row of the counts that `scan` made."""
    number = {name: i for i, name in enumerate(LANGUAGES)}
    place = {name: i for i, name in enumerate(SCRIPTS)}
    mark = {name: marks[:, i] for i, name in enumerate(MARKS)}
    weighed = scripts * _WEIGHT
    # Han and Kana are one script here: Japanese is written in both.
    weighed[:, place["han"]] += weighed[:, place["kana"]]
    weighed[:, place["kana"]] = 0
    script = weighed.argmax(axis=1)
    enough = weighed.max(axis=1) >= 2
    by_script = np.array([number[_BY_SCRIPT.get(name, UNKNOWN)] for name in SCRIPTS])
    code = np.where(enough, by_script[script], number[UNKNOWN])

    def told(script_name: str, language: str, condition: np.ndarray) -> None:
        code[(script == place[script_name]) & enough & condition] = number[language]

    han, kana = scripts[:, place["han"]], scripts[:, place["kana"]]
    told("han", "ja", kana * 20 >= han + kana)
    told("cyrillic", "bg", (mark["bg"] * 50 >= scripts[:, place["cyrillic"]]) & (mark["ru"] == 0))
    told("cyrillic", "uk", mark["uk"] > mark["ru"])
    told("cyrillic", "be", mark["be"] > 0)
    told("cyrillic", "sr", (mark["sr"] > 0) & (mark["ru"] == 0))
    told("cyrillic", "mk", (mark["mk"] > 0) & (mark["ru"] == 0))
    told("arabic", "fa", mark["fa"] > 0)
    told("arabic", "ur", mark["ur"] > 0)

    latin = (script == place["latin"]) & enough
    best = scores.argmax(axis=1)
    ordered = np.sort(scores, axis=1)
    top, second = ordered[:, -1], ordered[:, -2]
    clear = (top >= _EXCLUSIVE) & (top > second) & (top * _EVERY >= _EXCLUSIVE * scripts[:, place["latin"]])
    code[latin] = np.where(clear, best, number[UNKNOWN])[latin]
    return code.astype(np.int64)
