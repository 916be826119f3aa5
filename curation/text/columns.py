"""Columns of text, changed only where something is to be changed.

Most rows of a batch are clean. A cheap screen finds those that are not, only they are rewritten, and the others keep
their bytes where they lie.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

Rewrite = Callable[[pl.Series], pl.Series]


def where(texts: pl.Series, mask: pl.Series, rewrite: Rewrite) -> pl.Series:
    """`texts` with the rows under `mask` rewritten. A null in the mask is no."""
    at = mask.fill_null(False).arg_true()
    if not len(at):
        return texts
    if len(at) == len(texts):
        return rewrite(texts)
    return texts.clone().scatter(at, rewrite(texts.gather(at)))  # scatter writes in place


def until_stable(texts: pl.Series, rewrite: Rewrite, *, rounds: int) -> pl.Series:
    """Rewrite again the rows that changed, at most `rounds` times: what one form hides, the next round sees."""
    if rounds == 0 or not len(texts):
        return texts
    result = rewrite(texts)
    return where(result, result.ne_missing(texts), lambda s: until_stable(s, rewrite, rounds=rounds - 1))


def never_empty(texts: pl.Series, rewrite: Rewrite) -> pl.Series:
    """Rewrite, but leave alone the rows of which nothing would be left."""
    result = rewrite(texts)
    return where_from(texts, result, result.str.len_bytes() > 0)


def where_from(texts: pl.Series, others: pl.Series, mask: pl.Series) -> pl.Series:
    """`others` under `mask`, `texts` elsewhere."""
    return others.zip_with(mask.fill_null(False), texts)
