"""Questions with known answers that stand before others: which of them may stand before which.

They lie sorted by kind (a subject; one kind where there is none), each question once, in the order in which they came.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import blank, flat, single_question, starts
from datakit.columns.measurement import groups
from datakit.columns.seeded import Keys, distinct

Ints = npt.NDArray[np.int64]
_SEPARATOR = "\x1f"


@dataclass(frozen=True)
class Examples:
    """Ids, questions and answers; `named` are questions with their kinds, kind k has `size_K[k]` from `start_K[k]`."""

    ids: pa.Array
    questions: pa.Array
    answers: pa.Array
    named: pa.Array
    kinds: pa.Array
    start_K: Ints
    size_K: Ints

    @classmethod
    def of(cls, rows: pa.Table, answers: pa.Array, alike: str) -> Examples:
        """Of `rows` those with one user turn and one of the `answers`; of equal questions of a kind the first."""
        questions, several = single_question(flat(rows["messages"]))
        kind = _kind(rows, alike)
        named = pc.binary_join_element_wise(kind, questions, _SEPARATOR)
        usable = np.flatnonzero(~several & ~blank(pc.fill_null(answers, "")))
        number = groups(named.take(pa.array(usable)))
        usable = usable[np.unique(number, return_index=True)[1]]
        kinds = pc.unique(kind.take(pa.array(usable)))
        code = np.asarray(pc.index_in(kind.take(pa.array(usable)), kinds), np.int64)
        order = np.argsort(code, kind="stable")
        at, size_K = pa.array(usable[order]), np.bincount(code, minlength=len(kinds)).astype(np.int64)
        ids, questions, answers, named = (c.take(at) for c in (flat(rows["prompt_id"]), questions, answers, named))
        return cls(ids, questions, answers, named, kinds, np.cumsum(size_K) - size_K, size_K)

    def before(self, rows: pa.Table, alike: str, count: int, lots: Keys | None) -> tuple[Ints, Ints]:
        """For every question of `rows` how many may stand before it; and the places of `count` for those with enough:
        the first, or where `lots` are given those that the lot of a row draws.
        """
        kind, (questions, _) = _kind(rows, alike), single_question(flat(rows["messages"]))
        code = np.asarray(pc.fill_null(pc.index_in(kind, self.kinds), -1), np.int64)
        start, size = (np.append(one, 0)[code] for one in (self.start_K, self.size_K))
        named = pc.binary_join_element_wise(kind, questions, _SEPARATOR)
        own = np.asarray(pc.fill_null(pc.index_in(named, self.named), -1), np.int64)
        there = size - (own >= 0)
        enough = there >= count
        start, size, own = start[enough], there[enough], own[enough]
        place = np.broadcast_to(np.arange(count), (len(size), count))
        if lots is not None:
            place = distinct(lots[enough], size, count)
        place = start[:, None] + place
        return there, place + ((own >= 0)[:, None] & (place >= own[:, None]))


def best(rows: pa.Table) -> pa.Array:
    """The text of each row's choice that is to be picked; null where its place is none of them."""
    choices, place = flat(rows["choices"]), np.asarray(pc.fill_null(rows["best"], -1), np.int64)
    offsets = starts(choices).astype(np.int64)
    some = (place >= 0) & (place < np.diff(offsets))
    return choices.flatten().take(pa.array(np.where(some, offsets[:-1] + place, 0), mask=~some))


def _kind(rows: pa.Table, alike: str) -> pa.Array:
    return pc.fill_null(flat(rows[alike]), "") if alike else pa.repeat(pa.scalar(""), rows.num_rows)
