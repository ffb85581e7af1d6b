"""Whether rows teach a model where to stop: templated rows of which some trained part ends in an end token.

An answer that was cut (`finish_reason` length) has no end, and teaches none: what a template writes behind it is the
template's alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import flat, starts
from datakit.columns.drawn import finish_reasons
from schemas import PIECES
from schemas.end_tokens import TurnEnd
from schemas.errors import printable
from schemas.manifest import Manifest
from schemas.rows.samples import CUT, OPEN

WITHOUT_END, CUT_ANSWERS = "rows_without_end", "cut_answers"
"""Counts in a manifest's stats: rows that teach no end, but for cut answers; and these, where there are any."""


def cut_rows(rows: pa.Table, answer: str = "response") -> npt.NDArray[np.bool_]:
    """Rows whose text in the column `answer` was cut, or has no end of its own, as `finish_reasons` says."""
    return np.asarray(pc.is_in(finish_reasons(rows, answer), pa.array([CUT, OPEN])))


def open_rows(rows: pa.Table, answer: str = "response") -> npt.NDArray[np.bool_]:
    """Those of them that have none: nobody cut them."""
    return np.asarray(pc.is_in(finish_reasons(rows, answer), pa.array([OPEN])))


def without_end(pieces: pa.Array, cut: npt.NDArray[np.bool_]) -> pa.Array:
    """A PIECES column of which the rows `cut` do not learn what stands behind the content of their last trained part,
    and nothing of one without content.
    """
    if not cut.any():
        return pieces
    offsets, inner = starts(pieces), pieces.flatten()
    row = np.repeat(np.arange(len(pieces)), np.diff(offsets))
    special, trained = np.asarray(inner.field("special")), np.asarray(inner.field("trained"))
    untrained_before = np.cumsum(~trained)
    last, content = _last(trained, row, len(pieces))[row], _last(trained & ~special, row, len(pieces))[row]
    in_last_part = trained & (untrained_before == untrained_before[last])
    learnt = trained & ~(cut[row] & in_last_part & (np.arange(len(row)) > content))
    parts = [inner.field("text"), inner.field("special"), pa.array(learnt)]
    made = pa.StructArray.from_arrays(parts, fields=list(PIECES.value_type))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), made, type=PIECES)


def counts(
    pieces: pa.ChunkedArray,
    ends: Sequence[str],
    *,
    cut: npt.NDArray[np.bool_],
    open_ended: npt.NDArray[np.bool_] | None = None,
    appended: bool = False,
) -> dict[str, float]:
    """How many rows of a PIECES column teach no end, and how many were `cut`, but for those that are `open_ended`;
    `appended`: an end token follows rows that end trained.
    """
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
    without = ~cut
    without[np.searchsorted(offsets, places[good], side="right") - 1] = False
    return {WITHOUT_END: float(without.sum()), **cut_counts(cut if open_ended is None else cut & ~open_ended)}


def cut_counts(*cut: npt.NDArray[np.bool_]) -> dict[str, float]:
    """How many answers were `cut`, of all answers that rows have; nothing where none was."""
    number = sum(int(one.sum()) for one in cut)
    return {CUT_ANSWERS: float(number)} if number else {}


def notes(made: Manifest, cure: str) -> tuple[str, ...]:
    """One line where rows teach no end: their share, and what to do."""
    share = _share(made, WITHOUT_END, "rows")
    line = f"no trained part ends in an end token in {share}: they do not teach where to stop; {cure}"
    return (line,) if share else ()


def cut_notes(made: Manifest, per_row: int = 1) -> tuple[str, ...]:
    """One line where answers were cut: their share, where rows have `per_row` of them."""
    share = _share(made, CUT_ANSWERS, "answers", per_row)
    why = "were cut at max_new_tokens: their end is not learnt; a greater --max-new-tokens lets them end"
    return (f"{share} {why}",) if share else ()


def texts(made: Manifest) -> tuple[str, ...]:
    """One line where the template ends a turn with no control token: the text at which answers end."""
    ends = ", ".join(map(printable, TurnEnd.of(made.facts).texts))
    return (f"the template ends a turn with no control token: answers end at the text {ends}",) if ends else ()


def _share(made: Manifest, count: str, things: str, per_row: int = 1) -> str:
    """How many of the `things`, so many in a row, were counted so; empty where none was."""
    number, total = int(made.stats.get("counts", {}).get(count, 0)), per_row * made.num_rows
    return f"{number:,} of {total:,} {things} ({100 * number / total:.0f}%)" if number else ""


def _last(pieces: npt.NDArray[np.bool_], row: npt.NDArray[np.int64], rows: int) -> npt.NDArray[np.int64]:
    """The place of the last of these `pieces` in each of so many rows; -1 where it has none."""
    places, last = np.flatnonzero(pieces), np.full(rows, -1)
    last[row[places]] = places
    return last


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
