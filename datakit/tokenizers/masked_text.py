"""Rows as a person reads them, with what is learnt of them marked: on a terminal, as plain text, in a notebook.

    print(masked_text(dataset, tokenizer=Tokenizer.of_folder("./my-model")))     [[ ]] around what is learnt
    masked_text(dataset)                                                         in a notebook: marked HTML

Token rows, pairs and packs are decoded by their tokenizer; templated rows (`pieces`) need none.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import flat
from datakit.tokenizers.tokenizer import Tokenizer
from schemas import IDS, PIECES, Dataset
from schemas.errors import ConfigError, DataError, escaped, printable
from schemas.rows.tokens import MASK, sequence_columns
from schemas.store.storage import shown
from schemas.tokenizer_lineage import check, tokenizers_of

Segment = tuple[str, bool]
"""A stretch of text, and whether it is learnt."""

_COLOUR, _PLAIN = ("\x1b[1;32m", "\x1b[0m"), ("[[", "]]")
_ROWS = 8192
_BEFORE = 8
"""Tokens that one may need to become text: a letter has four bytes at most, and a blank may stand before it."""


@dataclass(frozen=True)
class MaskedRow:
    """A text column of one row: its sequences (several in a pack), each in segments; how much of it is learnt."""

    name: str
    column: str
    sequences: tuple[tuple[Segment, ...], ...]
    learnt: int
    total: int
    unit: str


@dataclass(frozen=True)
class MaskedText:
    """The first rows of a dataset, and the share of its `unit` (tokens or characters) that is learnt, of all rows."""

    url: str
    rows: tuple[MaskedRow, ...]
    learnt: int
    total: int
    unit: str

    @property
    def share(self) -> float:
        """The part of all tokens that is learnt."""
        return self.learnt / self.total if self.total else 0.0

    def text(self, colour: bool) -> str:
        """Lines for a terminal: what is learnt in colour, or between `[[` and `]]`."""
        opens, closes = _COLOUR if colour else _PLAIN
        quoted = _without_marks if not colour else str
        return "\n\n".join(self._shown(lambda text: f"{opens}{text}{closes}", str, quoted))

    def __str__(self) -> str:
        return self.text(colour=False)

    def _repr_html_(self) -> str:
        def marked(text: str) -> str:
            return f"<mark>{text}</mark>"

        parts = self._shown(marked, html.escape, html.escape)
        return "<div>" + "".join(f'<pre style="white-space: pre-wrap">{part}</pre>' for part in parts) + "</div>"

    def _shown(
        self, marked: Callable[[str], str], quoted: Callable[[str], str], own: Callable[[str], str]
    ) -> Iterator[str]:
        """Parts of lines; what is learnt is `marked`, a row's `own` text and all other words are made safe."""
        yield quoted(f"{shown(self.url)}: {self.learnt:,} of {self.total:,} {self.unit} are learnt ({self.share:.1%})")
        for row in self.rows:
            head = quoted(f"{printable(row.column)} of {printable(row.name)}: {row.learnt} of {row.total} {row.unit}")
            sequences = (
                "".join(marked(own(escaped(text))) if learnt else own(escaped(text)) for text, learnt in segments)
                for segments in row.sequences
            )
            yield "\n".join([head, *sequences])


@dataclass(frozen=True)
class _View:
    """Where a text stands: token ids with their mask and, in packs, lengths; or templated pieces."""

    ids: str
    mask: str = ""
    lengths: str = ""

    @property
    def columns(self) -> list[str]:
        return [name for name in (self.ids, self.mask, self.lengths) if name]


def masked_text(dataset: Dataset, rows: int = 3, tokenizer: Tokenizer | None = None) -> MaskedText:
    """The first `rows` rows of `dataset`; `ConfigError` for one that holds nothing masked, or token ids alone without
    their `tokenizer`; `DataError` for ids of another tokenizer.
    """
    tokens, pieces = _views(dataset)
    views = tokens if tokens and (tokenizer is not None or not pieces) else pieces
    if not views:
        raise ConfigError(
            "nothing-masked",
            f"{shown(dataset.url)} holds neither token ids with a mask nor templated pieces",
            expected="pieces, which Template makes, or input_ids and loss_mask, chosen_ids and chosen_mask, ..., which "
            "Tokenize --op mask makes of them",
            found=printable(", ".join(dataset.schema.names), 200),
            kept="nothing was changed",
            next="quiver Template --op chat --help",
        )
    if views is tokens and tokenizer is None:
        raise ConfigError(
            "no-tokenizer",
            f"{shown(dataset.url)} holds token ids and no text",
            expected="the tokenizer that made them",
            kept="nothing was changed",
            next="--tokenizer FOLDER",
        )
    if tokenizer is not None and views is tokens:
        named = [view.ids for view in views]
        check(tokenizers_of(dataset.schema, dataset.facts), named, tokenizer.identity, tokenizer.name, dataset.url)
    key = [name for name in dataset.schema.key if name in dataset.schema]
    first = dataset.first(rows, [*dict.fromkeys([*key, *(name for view in views for name in view.columns)])])
    made = tuple(_row(first, at, view, key, tokenizer) for at in range(first.num_rows) for view in views)
    learnt, total = _counted(dataset, tokens or pieces)
    return MaskedText(dataset.url, made, learnt, total, "tokens" if tokens else "characters")


def _views(dataset: Dataset) -> tuple[list[_View], list[_View]]:
    """The token ids that have a mask, and the pieces, of a dataset."""
    schema = dataset.schema
    tokens = []
    for own in (sequence_columns(column.name) for column in schema.columns if column.type == IDS):
        if own.mask in schema and schema[own.mask].type == MASK:
            tokens.append(_View(own.ids, own.mask, own.lengths if own.lengths in schema else ""))
    return tokens, [_View(column.name) for column in schema.columns if column.type == PIECES]


def _row(rows: pa.Table, at: int, view: _View, key: Sequence[str], tokenizer: Tokenizer | None) -> MaskedRow:
    name = ", ".join(str(rows[part][at].as_py()) for part in key) or f"row {at}"
    if not view.mask:
        pieces = rows[view.ids][at].as_py() or []
        runs = groupby((piece for piece in pieces if piece["text"]), key=itemgetter("trained"))
        segments = tuple(("".join(piece["text"] for piece in run), trained) for trained, run in runs)
        learnt = sum(len(text) for text, trained in segments if trained)
        return MaskedRow(name, view.ids, (segments,), learnt, sum(len(text) for text, _ in segments), "characters")
    assert tokenizer is not None, "ids are shown by their tokenizer"
    ids, mask = rows[view.ids][at].as_py() or [], rows[view.mask][at].as_py() or []
    lengths = (rows[view.lengths][at].as_py() or []) if view.lengths else [len(ids)]
    _check_row(f"{printable(view.ids)} of {printable(name)}", ids, mask, lengths, tokenizer)
    ends = np.cumsum([0, *lengths]).tolist()
    sequences = tuple(_decoded(tokenizer, ids[a:b], mask[a:b]) for a, b in pairwise(ends))
    return MaskedRow(name, view.ids, sequences, sum(mask), len(ids), "tokens")


def _without_marks(text: str) -> str:
    """`text` with a backslash before each bracket that could be part of a mark, with its neighbour or across an end."""
    return re.sub(r"\[{2,}|\]{2,}|^[][]|[][]$", lambda match: "".join(f"\\{one}" for one in match.group()), text)


def _check_row(place: str, ids: list[Any], mask: list[Any], lengths: list[Any], tokenizer: Tokenizer) -> None:
    """`DataError` for a row whose mask and lengths are not those of its ids, or with ids that are no tokens."""
    if len(mask) != len(ids) or not set(mask) <= {0, 1}:
        expected, given = f"{len(ids):,} of 0 or 1, one an id", f"{len(mask):,}, of {_distinct(mask)}"
        raise DataError("mask-length", f"the mask of {place} is not its ids'", expected=expected, found=given)
    if None in lengths or min(lengths, default=0) < 0 or sum(lengths) != len(ids):
        raise DataError(
            "mask-length",
            f"the lengths of the sequences in {place} are not those of its ids",
            expected=f"whole numbers that sum to {len(ids):,}",
            found=printable(lengths, 100),
        )
    size = tokenizer.size
    strange = sorted({str(one) for one in ids if one is None or not 0 <= one < size})
    if strange:
        raise DataError(
            "wrong-tokenizer",
            f"{place} holds ids that {printable(tokenizer.name)} does not have",
            expected=f"0 .. {size - 1:,}, of the tokenizer that made them",
            found=printable(", ".join(strange), 100),
            next="--tokenizer FOLDER",
        )


def _distinct(values: list[Any]) -> str:
    return printable(", ".join(sorted({str(value) for value in values})) or "none", 100)


def _decoded(tokenizer: Tokenizer, ids: list[int], mask: list[int]) -> tuple[Segment, ...]:
    """The text of a sequence cut where its mask changes: each stretch is what it adds to the text of the `_BEFORE`
    tokens before, on which a token's text may depend (or, inside a letter of several tokens, its own).
    """
    cuts = [0, *(np.flatnonzero(np.diff(mask)) + 1).tolist(), len(ids)]
    spans = [(max(0, start - _BEFORE), start, end) for start, end in pairwise(cuts)]
    befores = tokenizer.decode([ids[first:start] for first, start, _ in spans], control=True)
    wholes = tokenizer.decode([ids[first:end] for first, _, end in spans], control=True)
    segments = []
    for (_, start, end), before, whole in zip(spans, befores, wholes, strict=True):
        if start < end:
            own = whole[len(before) :] if whole.startswith(before) else tokenizer.decode([ids[start:end]], True)[0]
            segments.append((own, bool(mask[start])))
    return tuple(segments)


def _counted(dataset: Dataset, views: Sequence[_View]) -> tuple[int, int]:
    """What is learnt, and all there is, over all rows: tokens by their masks, or characters of pieces."""
    learnt = total = 0
    for shard in range(len(dataset.shards)):
        for batch in dataset.batches(shard, _ROWS, [view.mask or view.ids for view in views]):
            for view in views:
                inner = flat(batch[view.mask or view.ids]).flatten()
                sizes = inner if view.mask else pc.utf8_length(inner.field("text"))
                trained = inner if view.mask else pc.if_else(inner.field("trained"), sizes, 0)
                learnt += pc.sum(trained).as_py() or 0
                total += len(inner) if view.mask else pc.sum(sizes).as_py() or 0
    return learnt, total
