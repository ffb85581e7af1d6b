"""Whether rows teach a model where to stop: templated rows of which some trained part ends in an end token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import flat, starts
from schemas.end_tokens import TurnEnd
from schemas.errors import printable
from schemas.manifest import Manifest

WITHOUT_END = "rows_without_end"
"""The count in a manifest's stats."""


def counts(pieces: pa.ChunkedArray, ends: Sequence[str], *, appended: bool = False) -> dict[str, float]:
    """How many rows of a PIECES column teach no end; `appended`: an end token follows rows that end trained."""
    column = flat(pieces)
    offsets, inner = starts(column), column.flatten()
    trained = np.asarray(pc.fill_null(inner.field("trained"), False))
    final = np.zeros(len(trained), bool)
    final[offsets[1:][np.diff(offsets) > 0] - 1] = True
    begins, lasts = trained.copy(), trained.copy()
    begins[1:] &= ~trained[:-1] | final[:-1]
    lasts[:-1] &= ~trained[1:] | final[:-1]
    places, parts = np.flatnonzero(lasts), inner.field("text")
    good = _ending(parts.take(pa.array(places)), ends) | (final[places] & appended)
    # An end may lie in several pieces: "\n" and "<extra_id_1>", where that is no token.
    left, firsts = ~good, np.flatnonzero(begins)
    good[left] = _ending(_joined(parts, firsts[left], places[left] + 1), ends)
    taught = np.unique(np.searchsorted(offsets, places[good], side="right"))
    return {WITHOUT_END: float(len(column) - len(taught))}


def notes(made: Manifest, cure: str) -> tuple[str, ...]:
    """One line where rows teach no end: their share, and what to do."""
    count = int(made.stats.get("counts", {}).get(WITHOUT_END, 0))
    if not count:
        return ()
    share = f"{count:,} of {made.num_rows:,} rows ({100 * count / made.num_rows:.0f}%)"
    return (f"no trained part ends in an end token in {share}: they do not teach where to stop; {cure}",)


def texts(made: Manifest) -> tuple[str, ...]:
    """One line where the template ends a turn with no control token: the text at which answers end."""
    ends = ", ".join(map(printable, TurnEnd.of(made.facts).texts))
    return (f"the template ends a turn with no control token: answers end at the text {ends}",) if ends else ()


def _joined(parts: pa.Array, firsts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> pa.Array:
    """`parts` from each of `firsts` to before its one of `ends`, as one."""
    lengths = ends - firsts
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    order = np.arange(offsets[-1]) + np.repeat(firsts - offsets[:-1], lengths)
    stretches = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), parts.take(pa.array(order)))
    return pc.binary_join(stretches, "")


def _ending(texts: pa.Array, ends: Sequence[str]) -> npt.NDArray[np.bool_]:
    trimmed, ended = pc.utf8_rtrim_whitespace(texts), np.zeros(len(texts), bool)
    for end in ends:
        ended |= np.asarray(pc.ends_with(trimmed, end.rstrip()))
    return ended
