"""Whether rows teach a model where to stop: templated rows of which some trained part ends in an end token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import flat, starts
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
    stretch_ends = final.copy()
    stretch_ends[:-1] |= ~trained[1:]
    places = np.flatnonzero(trained & stretch_ends)
    good = _ending(inner.field("text").take(pa.array(places)), ends) | (final[places] & appended)
    taught = np.unique(np.searchsorted(offsets, places[good], side="right"))
    return {WITHOUT_END: float(len(column) - len(taught))}


def notes(made: Manifest, cure: str) -> tuple[str, ...]:
    """One line where rows teach no end: their share, and what to do."""
    count = int(made.stats.get("counts", {}).get(WITHOUT_END, 0))
    if not count:
        return ()
    share = f"{count:,} of {made.num_rows:,} rows ({100 * count / made.num_rows:.0f}%)"
    return (f"no trained part ends in an end token in {share}: they do not teach where to stop; {cure}",)


def _ending(texts: pa.Array, ends: Sequence[str]) -> npt.NDArray[np.bool_]:
    trimmed, ended = pc.utf8_rtrim_whitespace(texts), np.zeros(len(texts), bool)
    for end in ends:
        ended |= np.asarray(pc.ends_with(trimmed, end.rstrip()))
    return ended
