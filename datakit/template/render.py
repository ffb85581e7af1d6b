"""MESSAGES columns to PIECES columns: rows of the same role pattern share one skeleton and are joined as
columns.

Where the template looks into contents (compares, searches, measures them), each row is rendered for itself
and compared with the joined pieces; a row whose text differs is not kept, because content could not be told
from template. A few rows of every pattern are compared in any case.
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

from datakit.io.conversations import flat, starts
from datakit.template.ending import control_of, turn_end
from datakit.template.sandbox import Conversation, Sandbox
from datakit.template.skeleton import Skeleton, skeleton
from schemas import PIECES
from schemas.end_tokens import TurnEnd
from schemas.errors import ConfigError
from schemas.settings import canonical

_AUDITED = 4
_BATCH_ROWS, _BATCH_CHARS = 512, 1 << 23
_KEPT = 8

Pattern = tuple[tuple[str, ...], tuple[bool, ...]]


@dataclass(frozen=True)
class Pieces:
    """Pieces and whole text of each row, and why a row has none (null where it has)."""

    pieces: pa.Array
    text: pa.Array
    reason: pa.Array
    told: str = ""


@dataclass
class Renderer:
    """One template in use, with the control tokens it may write and the skeletons known so far."""

    sandbox: Sandbox
    tokens: tuple[str, ...] = ()
    skeletons: dict[tuple[Pattern, bool, str], Skeleton] = field(default_factory=dict)

    def pieces(self, turns: pa.Array, generation: bool = False, learn: str = "all") -> Pieces:
        """Pieces of each conversation; `generation` leaves the assistant's header open and learns nothing."""
        turns = flat(turns)
        order: list[np.ndarray] = []
        parts: list[pa.Array] = []
        reasons = np.full(len(turns), None, object)
        told = ""
        for pattern, rows in _patterns(turns):
            known = self._skeleton(pattern, generation, learn)
            if known.fault == "template-date":
                raise undated()
            if known.fault:
                reasons[rows], told = known.fault, told or known.told
                parts.append(_blank(len(rows)))
            else:
                contents = _columns(turns, rows, len(pattern[0]))
                differ = self._differ(pattern, known, contents, generation)
                reasons[rows[differ]] = "template-alters-contents"
                parts.append(_joined(known, contents, len(rows)))
            order.append(rows)
        if not parts:
            return Pieces(_blank(0), pa.array([], pa.string()), pa.array([], pa.string()))
        back = np.empty(len(turns), np.int64)
        back[np.concatenate(order)] = np.arange(len(turns))
        pieces = pa.concat_arrays(parts).take(pa.array(back))
        texts = pa.ListArray.from_arrays(pa.array(starts(pieces)), pieces.flatten().field("text"))
        return Pieces(pieces, pc.binary_join(texts, ""), pa.array(reasons, pa.string()), told)

    @functools.cached_property
    def turn_end(self) -> TurnEnd:
        """How it ends an assistant's turn."""
        return turn_end(self.sandbox, self._control)

    @functools.cached_property
    def _control(self) -> re.Pattern[str] | None:
        return control_of(self.tokens)

    def _skeleton(self, pattern: Pattern, generation: bool, learn: str) -> Skeleton:
        key = (pattern, generation, learn)
        if key not in self.skeletons:
            self.skeletons[key] = skeleton(
                self.sandbox,
                *pattern,
                generation=generation,
                learn=learn,
                ends=self.turn_end,
                control=self._control,
            )
        return self.skeletons[key]

    def _differ(self, pattern: Pattern, known: Skeleton, contents: list[Sequence[str]], generation: bool) -> np.ndarray:
        """Rows (of this pattern) whose rendering is not what the skeleton says."""
        count = len(contents[0]) if contents else 0
        some = sorted({count * at // _AUDITED for at in range(_AUDITED)}) if count else []
        wrong = np.zeros(count, bool)
        if not known.looked:
            wrong[some] = self._compared(pattern[0], known, contents, some, generation)
            if not wrong.any():
                return wrong
        everything = range(count)
        wrong[:] = self._compared(pattern[0], known, contents, everything, generation)
        return wrong

    def _compared(
        self,
        roles: tuple[str, ...],
        known: Skeleton,
        contents: list[Sequence[str]],
        rows: Sequence[int],
        generation: bool,
    ) -> list[bool]:
        wrong: list[bool] = []
        batch: list[Conversation] = []
        size = 0
        for row in rows:
            given = tuple(column[row] for column in contents)
            batch.append(Conversation(roles, given, generation))
            size += sum(map(len, given))
            if len(batch) == _BATCH_ROWS or size > _BATCH_CHARS:
                wrong += self._asked(known, batch)
                batch, size = [], 0
        return wrong + self._asked(known, batch)

    def _asked(self, known: Skeleton, batch: list[Conversation]) -> list[bool]:
        texts = (answer.text.replace("\ue010", "").replace("\ue011", "") for answer in self.sandbox.render(batch))
        return [text != known.text(one.contents) for text, one in zip(texts, batch, strict=True)]


def undated() -> ConfigError:
    """The error of a template that writes the date where none is set."""
    return ConfigError(
        "template-date",
        "the chat template writes the date and none is set",
        expected="the date that every text is to carry, so that equal runs give equal texts",
        kept="nothing of this output",
        next="--date 2025-01-31, or date = 2025-01-31 in section [quiver] of luigi.cfg",
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


def _patterns(turns: pa.Array) -> list[tuple[Pattern, np.ndarray]]:
    """Each distinct pattern with its rows, in order of first appearance."""
    inner = turns.flatten()
    blank = pc.equal(pc.utf8_trim_whitespace(inner.field("content")), "")
    marks = pc.binary_join_element_wise(inner.field("role"), pc.if_else(blank, "-", "+"), "")
    rows = pa.ListArray.from_arrays(pa.array(starts(turns)), marks)
    codes = pc.binary_join(rows, "\x1f").dictionary_encode()
    places = np.asarray(codes.indices)
    order = np.argsort(places, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(places[order])) + 1) if len(order) else []
    found = []
    for name, group in zip(codes.dictionary.to_pylist(), groups, strict=True):
        marked = name.split("\x1f") if name else []
        pattern = tuple(mark[:-1] for mark in marked), tuple(mark[-1] == "-" for mark in marked)
        found.append((pattern, group))
    return found


def _columns(turns: pa.Array, rows: np.ndarray, count: int) -> list[Sequence[str]]:
    """The contents of these rows, slot by slot."""
    first = starts(turns)[:-1][rows]
    contents = turns.flatten().field("content")
    return [contents.take(pa.array(first + slot)).to_pylist() for slot in range(count)]


def _joined(known: Skeleton, contents: list[Sequence[str]], rows: int) -> pa.Array:
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
