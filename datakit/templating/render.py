"""MESSAGES columns to PIECES columns: rows of the same role pattern share their segments and are joined as
columns.

Where the template looks into contents (compares, searches, measures them), each row's rendering is compared with the
joined pieces; a few rows of every pattern are compared in any case. A row whose text differs, and one with more than
roles and contents, gets pieces of its own (`datakit.templating.alignment`).
"""

from __future__ import annotations

import functools
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import any_turn, flat, starts
from datakit.templating.alignment import Aligned, aligned
from datakit.templating.ending import control_of, turn_end
from datakit.templating.learnt import CLOSE, OPEN, LossTurns, Turns
from datakit.templating.sandbox import LIMIT, Conversation, Sandbox
from datakit.templating.segments import Segments, segments_of
from datakit.templating.weights import weight_faults
from schemas import PIECES
from schemas.canonical import canonical
from schemas.end_tokens import TurnEnd
from schemas.errors import ConfigError

_AUDITED = 4
_BATCH_ROWS, _BATCH_CHARS = 512, 1 << 23
_KEPT = 8

Pattern = tuple[Turns, tuple[bool, ...]]
"""Turns, and which of their contents are blank."""


@dataclass(frozen=True)
class Pieces:
    """Pieces and whole text of each row, why a row has none (null where it has), and what is known of that."""

    pieces: pa.Array
    text: pa.Array
    reason: pa.Array
    detail: pa.Array


@dataclass
class Renderer:
    """One template in use, with the control tokens it may write and the segments known so far, by pattern."""

    sandbox: Sandbox
    tokens: tuple[str, ...] = ()
    segments: dict[tuple[Pattern, bool, bool], Segments] = field(default_factory=dict)

    def pieces(
        self, turns: pa.Array, *, tools: pa.Array | None = None, generation: bool = False, last: bool = False
    ) -> Pieces:
        """Pieces of each conversation, `tools` beside it as JSON text; `generation` leaves the assistant's header open
        and learns nothing, `last` learns the last answer alone. Rows with weights that are no mask have no pieces.
        """
        turns = flat(turns)
        loss_turns = LossTurns(generation, last, self.turn_end, self._control)
        own = _unusual(turns, tools)
        reasons, details = np.full(len(turns), None, object), np.full(len(turns), None, object)
        refused = np.zeros(len(turns), bool)
        for fault, why, rows in [] if generation else weight_faults(turns, last):
            reasons[rows], details[rows] = fault, why
            refused |= rows
        order = [np.flatnonzero(refused)]
        parts = [_blank(len(order[0]))]
        for pattern, rows in _patterns(turns, own | refused):
            known = self._segments_of(pattern, loss_turns)
            if known.alters or (known.fault and known.looked):
                own[rows] = True
            elif known.fault:
                reasons[rows], details[rows] = known.fault, known.detail
                order.append(rows)
                parts.append(_blank(len(rows)))
            else:
                contents = _columns(turns, rows, len(pattern[1]))
                differ = self._differ(pattern, known, contents, generation)
                own[rows[differ]] = True
                order.append(rows[~differ])
                if differ.any():
                    contents = _columns(turns, order[-1], len(pattern[1]))
                parts.append(_joined(known, contents, len(order[-1])))
        rest = np.flatnonzero(own & ~refused)
        alignments = self._aligned(turns, tools, rest, loss_turns)
        order.append(rest)
        parts.append(_pieces_of(alignments))
        reasons[rest] = [one.fault or None for one in alignments]
        details[rest] = [one.detail or None for one in alignments]
        if "template-date" in reasons:
            raise undated()
        back = np.empty(len(turns), np.int64)
        back[np.concatenate(order)] = np.arange(len(turns))
        pieces = pa.concat_arrays(parts).take(pa.array(back))
        texts = pa.ListArray.from_arrays(pa.array(starts(pieces)), pieces.flatten().field("text"))
        joined = pc.binary_join(texts, "")
        return Pieces(pieces, joined, pa.array(reasons, pa.string()), pa.array(details, pa.string()))

    @functools.cached_property
    def turn_end(self) -> TurnEnd:
        """How it ends an assistant's turn."""
        return turn_end(self.sandbox, self._control)

    @functools.cached_property
    def _control(self) -> re.Pattern[str] | None:
        return control_of(self.tokens)

    def _aligned(
        self, turns: pa.Array, tools: pa.Array | None, rows: np.ndarray, loss_turns: LossTurns
    ) -> list[Aligned]:
        """The parts of rows that are rendered for themselves."""
        if not len(rows):
            return []
        messages = turns.take(pa.array(rows)).to_pylist()
        offered = [None] * len(rows) if tools is None else tools.take(pa.array(rows)).to_pylist()
        return aligned(self.sandbox, zip(messages, offered, strict=True), loss_turns)

    def _segments_of(self, pattern: Pattern, loss_turns: LossTurns) -> Segments:
        key = (pattern, loss_turns.generation, loss_turns.last)
        known = self.segments.get(key) or segments_of(self.sandbox, *pattern, loss_turns)
        if known.fault != LIMIT:  # which is a moment's, on a busy machine
            self.segments[key] = known
        return known

    def _differ(self, pattern: Pattern, known: Segments, contents: list[Sequence[str]], generation: bool) -> np.ndarray:
        """Rows (of this pattern) whose rendering is not what the segments give."""
        count = len(contents[0]) if contents else 0
        some = sorted({count * at // _AUDITED for at in range(_AUDITED)}) if count else []
        wrong = np.zeros(count, bool)
        if not known.looked:
            wrong[some] = self._compared(pattern[0].roles, known, contents, some, generation)
            if not wrong.any():
                return wrong
        wrong[:] = self._compared(pattern[0].roles, known, contents, range(count), generation)
        return wrong

    def _compared(
        self,
        roles: tuple[str, ...],
        known: Segments,
        contents: list[Sequence[str]],
        rows: Sequence[int],
        generation: bool,
    ) -> list[bool]:
        wrong: list[bool] = []
        batch: list[tuple[str, ...]] = []
        size = 0
        for row in rows:
            batch.append(tuple(column[row] for column in contents))
            size += sum(map(len, batch[-1]))
            if len(batch) == _BATCH_ROWS or size > _BATCH_CHARS:
                wrong += self._asked(roles, known, batch, generation)
                batch, size = [], 0
        return wrong + self._asked(roles, known, batch, generation)

    def _asked(
        self, roles: tuple[str, ...], known: Segments, batch: list[tuple[str, ...]], generation: bool
    ) -> list[bool]:
        answers = self.sandbox.render([Conversation.of(roles, given, generation) for given in batch])
        texts = (answer.text.replace(OPEN, "").replace(CLOSE, "") for answer in answers)
        return [text != known.text(given) for text, given in zip(texts, batch, strict=True)]


def undated() -> ConfigError:
    """The error of a template that writes the date where none is set."""
    return ConfigError(
        "template-date",
        "the chat template writes the date and none is set",
        expected="the date that every text is to carry, so that equal runs give equal texts",
        kept="nothing of this output",
        next="--date 2025-01-31",
    )


_renderers: OrderedDict[tuple[object, ...], Renderer] = OrderedDict()


def renderer(
    template: str,
    tokens: dict[str, str],
    options: Mapping[str, Any],
    date: str | None,
    control: tuple[str, ...] = (),
) -> Renderer:
    """The renderer of a template with the tokenizer's `tokens` and the user's `options` (which win, as in Hugging
    Face); a few are kept, with their child processes. control: more tokens that are one id in what the template writes.
    """
    values = {**tokens, **options}
    key = (template, canonical(values), date, control)
    if key not in _renderers:
        _renderers[key] = Renderer(Sandbox(template, values, date), (*tokens.values(), *control))
        while len(_renderers) > _KEPT:
            _, old = _renderers.popitem(last=False)
            old.sandbox.close()
    _renderers.move_to_end(key)
    return _renderers[key]


def _unusual(turns: pa.Array, tools: pa.Array | None) -> np.ndarray:
    """Rows that have more than roles and contents."""
    inner = turns.flatten()
    more = [pc.is_valid(inner.field(name)) for name in ("tool_calls", "tool_call_id", "reasoning")]
    unusual = any_turn(starts(turns), np.asarray(pc.or_(pc.or_(more[0], more[1]), more[2])))
    return unusual if tools is None else unusual | np.asarray(pc.is_valid(tools))


def _patterns(turns: pa.Array, own: np.ndarray) -> list[tuple[Pattern, np.ndarray]]:
    """Each distinct pattern with its rows but for those that are rendered for themselves (`own`), in order of first
    appearance.
    """
    kept = np.flatnonzero(~own)
    turns = turns.take(pa.array(kept)) if len(kept) < len(turns) else turns
    inner = turns.flatten()
    blank = pc.equal(pc.utf8_trim_whitespace(inner.field("content")), "")
    silent = pc.fill_null(pc.equal(inner.field("weight"), pa.scalar(0, pa.float32())), False)
    kinds = [pc.if_else(blank, "-", "+"), pc.if_else(silent, "-", "+")]
    marks = pc.binary_join_element_wise(inner.field("role"), *kinds, "")
    rows = pa.ListArray.from_arrays(pa.array(starts(turns)), marks)
    codes = pc.binary_join(rows, "\x1f").dictionary_encode()
    places = np.asarray(codes.indices)
    order = np.argsort(places, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(places[order])) + 1) if len(order) else []
    patterns = []
    for name, group in zip(codes.dictionary.to_pylist(), groups, strict=True):
        marked = name.split("\x1f") if name else []
        silences = tuple(mark[-1] == "-" for mark in marked)
        pattern = Turns(tuple(mark[:-2] for mark in marked), silences), tuple(mark[-2] == "-" for mark in marked)
        patterns.append((pattern, kept[group]))
    return patterns


def _columns(turns: pa.Array, rows: np.ndarray, count: int) -> list[Sequence[str]]:
    """The contents of these rows, slot by slot."""
    first = starts(turns)[:-1][rows]
    contents = turns.flatten().field("content")
    return [contents.take(pa.array(first + slot)).to_pylist() for slot in range(count)]


def _joined(known: Segments, contents: list[Sequence[str]], rows: int) -> pa.Array:
    """The pieces of rows of one pattern, by one gather out of literals and content columns."""
    pool: list[pa.Array] = [pa.array([part.text for part in known.parts], pa.string())]
    first: dict[int, int] = {}
    size = len(known.parts)
    for slot, column in enumerate(contents):
        first[slot] = size
        pool.append(pa.array(known.stripped(slot, column), pa.string()))
        size += rows
    count = len(known.parts)
    index = np.empty((rows, count), np.int64)
    for at, part in enumerate(known.parts):
        index[:, at] = at if part.slot < 0 else first[part.slot] + np.arange(rows)
    text = pa.concat_arrays(pool).take(pa.array(index.ravel()))
    special = np.tile(np.array([part.slot < 0 for part in known.parts], bool), rows)
    trained = np.tile(np.array([part.trained for part in known.parts], bool), rows)
    inner = pa.StructArray.from_arrays([text, pa.array(special), pa.array(trained)], fields=list(PIECES.value_type))
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * count), inner, type=PIECES)


def _blank(rows: int) -> pa.Array:
    return pa.array([[]] * rows, PIECES)


def _pieces_of(rows: Sequence[Aligned]) -> pa.Array:
    """The pieces of rows that were rendered for themselves."""
    parts = [part for row in rows for part in row.parts]
    columns = [
        pa.array([part.text for part in parts], pa.string()),
        pa.array([part.slot < 0 for part in parts], pa.bool_()),
        pa.array([part.trained for part in parts], pa.bool_()),
    ]
    inner = pa.StructArray.from_arrays(columns, fields=list(PIECES.value_type))
    ends = np.cumsum([0, *(len(row.parts) for row in rows)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), inner, type=PIECES)
