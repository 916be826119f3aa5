"""The corpus of the text benchmarks: made, not downloaded, the same on every machine.

Texts are sentences from 3,000 templates over a Zipf vocabulary of 20,000 words, with slots for words, numbers and
LaTeX, 50 to 2,000 bytes long. About a quarter are planted: edited copies of an earlier text (substituted, deleted,
inserted words, so that similarities spread from 0.45 to 0.99), and boilerplate families of 100 to 1,000 texts with
two words changed. Many unrelated texts share templates, which is what makes real corpora hard.
"""

import numba
import numpy as np
import pyarrow as pa

WORDS, NUMBERS, TEMPLATES, SLOT = 20_000, 5_000, 3_000, -1
LATEX = ["\\frac{1}{2}", "x^2+3x-4=0", "\\sqrt{2}", "\\alpha_{i}", "\\sum_{k=1}^{n} k", "\\int_0^1 x dx", "$y = mx$"]


def texts(count: int, seed: int = 7, median: int = 330, wording: int = 2) -> pa.LargeStringArray:
    """`count` texts of `median` bytes from the templates of `wording`; fewer texts are the first of more."""
    vocabulary = _vocabulary()
    lengths = np.array([len(word) for word in vocabulary], np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    letters = np.frombuffer("".join(vocabulary).encode(), np.uint8)
    zipf = _zipf(1.07)
    templates = _templates(zipf, wording)
    draw = np.random.default_rng(seed)
    sizes = np.clip(np.exp(draw.normal(np.log(median), 0.55, 4096)), median / 5.5, 6 * median).astype(np.int64)
    offsets, data = _write(count, seed, letters, starts, zipf, templates, sizes)
    return pa.LargeStringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(data))


def _vocabulary() -> list[str]:
    draw = np.random.default_rng(1)
    syllables = [c + v for c in "bcdfghjklmnprstvwz" for v in "aeiou"]
    words: dict[str, None] = {}
    while len(words) < WORDS:
        words["".join(draw.choice(syllables, draw.integers(1, 5))) + str(draw.choice(["", "n", "s", "r"]))] = None
    return [*words, *(str(n * 7 % 9973) for n in range(NUMBERS)), *LATEX]


def _zipf(exponent: float) -> np.ndarray:
    """65,536 word numbers in which word r stands in proportion to 1 / (r + 1)**exponent."""
    share = np.cumsum(1.0 / np.arange(1, WORDS + 1) ** exponent)
    return np.searchsorted(share / share[-1], (np.arange(65_536) + 0.5) / 65_536).astype(np.int32)


def _templates(zipf: np.ndarray, wording: int) -> np.ndarray:
    """Sentences of 14 tokens, padded with -2; slots are -1."""
    draw = np.random.default_rng(wording)
    out = np.full((TEMPLATES, 14), -2, np.int32)
    for row in out:
        size = draw.integers(6, 15)
        row[:size] = zipf[draw.integers(0, 65_536, size)]
        row[:size][draw.random(size) < 0.4] = SLOT
    return out


@numba.njit
def _random(state):
    """splitmix64 (Steele, Lea, Flood 2014); the state is an array of one."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64((z ^ (z >> np.uint64(31))) >> np.uint64(1))


@numba.njit
def _token(state, zipf):
    kind = _random(state) % 20
    if kind == 0:
        return np.int32(WORDS + NUMBERS + _random(state) % 7)
    if kind < 4:
        return np.int32(WORDS + _random(state) % NUMBERS)
    return zipf[_random(state) % 65_536]


@numba.njit
def _write(count, seed, letters, starts, zipf, templates, sizes):
    state = np.array([np.uint64(seed)])
    offsets = np.zeros(count + 1, np.int64)
    data = np.empty(1 << 20, np.uint8)
    tokens = np.empty(2_000, np.int32)
    used = 0
    kept = np.zeros((512, 2_000), np.int32)  # recent originals, to be copied
    kept_sizes = np.zeros(512, np.int64)
    originals = 0
    family, family_left = 0, 0
    for row in range(count):
        if family_left == 0 and _random(state) % 6_000 == 0 and originals:
            family = (originals - 1) % 512
            family_left = 100 + _random(state) % 900
        kind = _random(state) % 100
        edits = -1
        if family_left and kind < 50:
            source, edits, family_left = family, 2, family_left - 1
        elif kind >= 78 and originals:
            source = _random(state) % min(originals, 512)
            edits = _random(state) % max(kept_sizes[source] // 9, 2)
        if edits >= 0:
            n = kept_sizes[source]
            tokens[:n] = kept[source, :n]
            for _ in range(edits):
                at = _random(state) % n
                what = _random(state) % 3
                if what == 0 and n > 8:
                    tokens[at : n - 1] = tokens[at + 1 : n].copy()
                    n -= 1
                elif what == 1 and n < 1_990:
                    tokens[at + 1 : n + 1] = tokens[at:n].copy()
                    tokens[at] = _token(state, zipf)
                    n += 1
                else:
                    tokens[at] = _token(state, zipf)
        else:
            n, size, target = 0, 0, sizes[_random(state) % 4096]
            while size < target:
                template = templates[_random(state) % TEMPLATES]
                for k in range(14):
                    if template[k] == -2 or size >= target:
                        break
                    tokens[n] = template[k] if template[k] >= 0 else _token(state, zipf)
                    size += starts[tokens[n] + 1] - starts[tokens[n]] + 1
                    n += 1
            slot = originals % 512
            if not (family_left and slot == family):
                kept[slot, :n] = tokens[:n]
                kept_sizes[slot] = n
            originals += 1
        if used + 64 * n > len(data):
            larger = np.empty(2 * len(data) + 64 * n, np.uint8)
            larger[:used] = data[:used]
            data = larger
        for k in range(n):
            if k:
                data[used] = 32
                used += 1
            for i in range(starts[tokens[k]], starts[tokens[k] + 1]):
                data[used] = letters[i]
                used += 1
        offsets[row + 1] = used
    return offsets, data[:used].copy()
