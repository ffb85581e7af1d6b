"""Weights of turns: what is learnt is a mask, so a turn counts whole, with weight 1, or not at all, with weight 0."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import any_turn, starts


def weight_faults(turns: pa.Array, last: bool) -> Iterator[tuple[str, str, np.ndarray]]:
    """Reason, detail and rows (a mask) of the conversations whose weights no mask can follow. last: no more than each
    row's last answer is learnt, so that the weights before it say nothing.
    """
    inner, offsets = turns.flatten(), starts(turns)
    weights = inner.field("weight")
    if weights.null_count == len(weights):
        return
    answers = np.asarray(pc.equal(inner.field("role"), "assistant"))
    counts = _last_of(answers, offsets) if last else np.ones(len(answers), bool)
    values = np.asarray(pc.fill_null(weights, 0))
    whole = (values == 0) | (values == 1)
    yield "fractional-weight", "a turn's weight is 0 or 1", any_turn(offsets, counts & ~whole)
    other = counts & whole & (values == 1) & ~answers
    yield "learns-other-role", "weights above 0 stand on assistant turns alone", any_turn(offsets, other)


def _last_of(flags: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The flags, but of each row the last one alone."""
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    at = np.flatnonzero(flags)
    final = at[np.flatnonzero(np.diff(rows[at], append=len(offsets)))]
    kept = np.zeros(len(flags), bool)
    kept[final] = True
    return kept
