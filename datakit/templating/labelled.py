r"""NeMo-Aligner's chat text with attribute labels, in pieces, and what of it is learnt by its rules (SteerLM).

    <extra_id_0>System\n{system}\n
    <extra_id_1>{role}\n[<extra_id_2>{label}\n]{value}\n        VALUE_TO_TEXT: the label is given, the value is learnt
    <extra_id_1>{role}\n{value}\n[<extra_id_2>{label}\n]        TEXT_TO_VALUE: the value is given, the label is learnt

Without a type no label is written. Nothing of the first turn is learnt but its label. Behind a turn that is learnt, the
start of the next turn (at the end: one more) is learnt too: it is the stop sign.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import starts
from schemas import PIECES
from schemas.rows.chats import GIVEN_LABELS, LABEL_MARK, LEARNT_LABELS, SYSTEM_MARK, TURN_MARK

_SLOTS = 10
"""Pieces of a turn: start, name, label start, label and end before the value, value, end, the three behind it."""


@dataclass(frozen=True, kw_only=True)
class ChatMarks:
    """The marks of a chat that NeMo-Aligner's `data.chat_prompt_tokens` sets, with its defaults."""

    system_turn_start: str = SYSTEM_MARK
    turn_start: str = TURN_MARK
    label_start: str = LABEL_MARK
    end_of_turn: str = "\n"
    end_of_name: str = "\n"


def pieces_of(
    turns: pa.Array, labels: pa.Array, turn_names: pa.Array, kinds: pa.Array, marks: ChatMarks, last: bool
) -> pa.Array:
    """PIECES of conversations with a label and a name (or nulls: that of the role) for each turn and a type (or null)
    for each row; `last`: of each row no more is learnt than the last turn that may be.
    """
    offsets, inner = starts(turns), turns.flatten()
    rows = np.repeat(np.arange(len(turns)), np.diff(offsets))
    system = _is(inner.field("role"), "system")
    given, learnt = (_is(kinds, kind)[rows] & np.asarray(labels.is_valid()) for kind in (GIVEN_LABELS, LEARNT_LABELS))
    behind = _is(kinds, LEARNT_LABELS)[rows]
    taught = _taught(inner, offsets, rows, behind, learnt, last)
    shared = [
        marks.turn_start,
        marks.label_start,
        marks.end_of_turn,
        f"{marks.system_turn_start}System{marks.end_of_name}",
    ]
    empty = f"{shared[3]}{marks.end_of_turn}"
    shown = pc.coalesce(turn_names, pc.utf8_capitalize(inner.field("role")))
    names = pc.binary_join_element_wise(shown, marks.end_of_name, "")
    asked = ~system & ~_learnable(inner) & ~_is(inner.field("role"), "tool")
    pool = pa.concat_arrays([pa.array([*shared, empty]), names, inner.field("content"), pc.fill_null(labels, "")])
    start, label_start, end, opening, no_system = range(5)
    count, own = len(inner), np.arange(len(inner))
    name, value, label = 5 + own, 5 + count + own, 5 + 2 * count + own

    none = -1
    index = np.full((count, _SLOTS), none)
    index[:, 0] = np.where(system, opening, start)
    index[:, 1] = np.where(system, none, name)
    index[:, 5], index[:, 6] = value, end
    for at, where in ((2, given), (7, learnt)):
        index[where, at], index[where, at + 1], index[where, at + 2] = label_start, label[where], end
    trained = np.zeros((count, _SLOTS), bool)
    trained[:, 0] = np.concatenate([[False], (taught & (rows == np.append(rows[1:], -1)))[:-1]]) & ~system
    trained[:, 0] &= asked
    trained[:, 5] = trained[:, 6] = taught & ~behind
    trained[:, 8] = trained[:, 9] = taught & behind
    order, parts, flags = _with_ends(index, trained, offsets, system, taught, asked, (no_system, start))
    special = parts < 5 + count
    text = pool.take(pa.array(parts))
    struct = pa.StructArray.from_arrays([text, pa.array(special), pa.array(flags)], fields=list(PIECES.value_type))
    return pa.ListArray.from_arrays(pa.array(order), struct, type=PIECES)


def _taught(
    inner: pa.Array, offsets: np.ndarray, rows: np.ndarray, behind: np.ndarray, labelled: np.ndarray, last: bool
) -> np.ndarray:
    """Turns of which something is learnt: those that may be (`_learnable`); not the first turn behind the system's,
    so that there is something to answer, unless its label is what is learnt; with a type TEXT_TO_VALUE those that have
    a label.
    """
    system = _is(inner.field("role"), "system")
    first = np.zeros(len(inner), bool)
    some = np.diff(offsets) > 0
    begins = offsets[:-1][some]
    first[np.minimum(begins + system[begins], len(inner) - 1)] = True
    taught = _learnable(inner)
    taught &= np.where(behind, labelled, ~first)
    if last:
        at = np.flatnonzero(taught)
        final = at[np.flatnonzero(np.diff(rows[at], append=len(offsets)))]
        taught = np.zeros(len(inner), bool)
        taught[final] = True
    return taught


def _learnable(inner: pa.Array) -> np.ndarray:
    """The assistant's turns, unless of weight 0, and others of weight 1."""
    weight = inner.field("weight")
    return _is(inner.field("role"), "assistant") & ~_is(weight, 0.0) | _is(weight, 1.0)


def _with_ends(
    index: np.ndarray,
    trained: np.ndarray,
    offsets: np.ndarray,
    system: np.ndarray,
    taught: np.ndarray,
    asked: np.ndarray,
    marks: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets, pool places and trained flags of all pieces: an empty system turn in front of rows without one, and one
    more turn start behind rows that do not end with a turn that asks.
    """
    no_system, start = marks
    some = np.flatnonzero(np.diff(offsets) > 0)
    begins, ends = offsets[:-1][some], offsets[1:][some] - 1
    bare = begins[~system[begins]]
    closed = ends[~asked[ends]]
    place = np.concatenate([np.repeat(np.arange(len(index)), _SLOTS) * 3 + 1, bare * 3, closed * 3 + 2])
    parts = np.concatenate([index.ravel(), np.full(len(bare), no_system), np.full(len(closed), start)])
    flags = np.concatenate([trained.ravel(), np.zeros(len(bare), bool), taught[closed]])
    order = np.argsort(place, kind="stable")
    order = order[parts[order] >= 0]
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))[place[order] // 3]
    counts = np.bincount(owner, minlength=len(offsets) - 1)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32), parts[order], flags[order]


def _is(values: pa.Array, what: object) -> np.ndarray:
    return np.asarray(pc.fill_null(pc.equal(values, pa.scalar(what, values.type)), False))
