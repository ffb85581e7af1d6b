"""Rows as the network reads them: sequences laid end to end, without padding.

A micro-batch of B rows holds the sequences of every sequence column one after the other (all chosen, then all
rejected), `lengths` says how long each is. The rows of packs are the sequences inside. Where tokens are predicted the
shift by one is done here: the inputs are all tokens but the last, labels and aligned columns all but the first. Legend:
t tokens of the micro-batch, T predicted tokens of one sequence column, B rows, K choices.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from trainers.algorithm import Algorithm, Needs, TokenColumn
from trainers.engine.data.columns import Row
from trainers.engine.data.packing import Packed, pack


@dataclass(frozen=True)
class Span:
    """Where one sequence column stands in the micro-batch, and the row of each of its tokens; `last_B` if scored.

    `ranks`: K of its ranked column.
    """

    start: int
    stop: int
    row_T: Tensor
    last_B: Tensor
    gather_ids_TK: Tensor | None
    ranks: int = 1


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass reads, and what the loss gets besides.

    `places_B` says where each row stands among the rows of its step, `sources_B` which source it came from (without
    rows of a step or sources: empty). `statistics` is what the pass for the algorithm's statistics reads, where that is
    something else.
    """

    tokens_1t: Tensor
    labels_1t: Tensor
    lengths: tuple[int, ...]
    spans: dict[str, Span]
    rows: dict[str, Tensor]
    num_rows: int
    places_B: Tensor
    sources_B: Tensor
    statistics: MicroBatch | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens the network reads, padding for sequence parallelism included."""
        return self.tokens_1t.shape[1]

    @property
    def num_read(self) -> int:
        """Tokens of rows, without that padding."""
        return max(span.stop for span in self.spans.values())

    @property
    def read_lengths(self) -> tuple[int, ...]:
        """Lengths of the rows alone, in tokens: `lengths` without the row of padding, where there is one."""
        return self.lengths if self.num_read == self.num_tokens else self.lengths[:-1]

    @property
    def padding_1t(self) -> Tensor | None:
        """True at that padding; None where there is none."""
        if self.num_read == self.num_tokens:
            return None
        return torch.arange(self.num_tokens, device=self.tokens_1t.device)[None] >= self.num_read

    @cached_property
    def plan(self) -> Packed:
        """How attention lays the sequences out."""
        return pack(self.lengths, self.tokens_1t.device)

    def to(self, device: torch.device) -> MicroBatch:
        """The batch with its tensors on `device`; itself where that is the CPU, which it is made on."""
        if device.type == "cpu":
            return self
        spans = {
            name: Span(
                span.start,
                span.stop,
                span.row_T.to(device),
                span.last_B.to(device),
                None if span.gather_ids_TK is None else span.gather_ids_TK.to(device),
                span.ranks,
            )
            for name, span in self.spans.items()
        }
        rows = {name: values.to(device) for name, values in self.rows.items()}
        moved = {name: getattr(self, name).to(device) for name in ("tokens_1t", "labels_1t", "places_B", "sources_B")}
        statistics = None if self.statistics is None else self.statistics.to(device)
        return replace(self, spans=spans, rows=rows, statistics=statistics, **moved)


def assemble(algorithm: Algorithm, rows: Many[Row], *, multiple: int = 1) -> MicroBatch:
    """The micro-batch that `algorithm` reads of `rows`, its number and vector columns included (see `packed`)."""
    batch = packed(algorithm.learnt, algorithm.needs, rows, multiple=multiple)
    vectors = {
        name: _flat([np.stack([row[name] for row in rows]) if rows else np.zeros((0, 1), np.float32)])
        for name in algorithm.vectors
    }
    numbers = {name: _flat([np.atleast_1d(row[name]) for row in rows] or [np.zeros(0)]) for name in algorithm.numbers}
    if not rows:
        vectors |= {name: batch.rows[name][:, None] for name in algorithm.wide}
    batch = replace(batch, rows=batch.rows | numbers | vectors)
    if algorithm.learnt == algorithm.sequences:
        return batch
    measured = packed(algorithm.measured, algorithm.needs, rows, multiple=multiple)
    return replace(batch, statistics=replace(measured, rows=measured.rows | numbers | vectors))


def packed(sequences: Many[TokenColumn], needs: Needs, rows: Many[Row], *, multiple: int = 1) -> MicroBatch:
    """The sequence columns of `rows` laid end to end, of a token count that `multiple` divides (a last sequence of
    zeros fills up). Where scores are asked the network reads every token, otherwise all but the last.

    No rows at all give one sequence of `multiple` zeros that no loss sees: a replica without rows still takes part.
    """
    shift = 0 if Needs.SCORES in needs else 1
    inputs: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    spans: dict[str, Span] = {}
    tensors: dict[str, Tensor] = {}
    start = 0
    for sequence in sequences:
        inside = sequence.lengths
        pieces = _pieces(sequence.ids, rows, inside)
        inputs += [piece[: len(piece) - shift] for piece in pieces]
        labels += [piece[shift:] for piece in pieces]
        lengths = np.array([len(piece) - shift for piece in pieces], dtype=np.int64)
        stop = start + int(lengths.sum())
        row_T = torch.from_numpy(np.repeat(np.arange(len(pieces)), lengths))
        along = {name: _along(name, rows, shift, inside) for name in sequence.columns}
        gather_ids_TK = along.pop(sequence.gather_ids).long() if sequence.gather_ids is not None else None
        if gather_ids_TK is not None and not rows:
            gather_ids_TK = gather_ids_TK[:, None]
        last_B = torch.from_numpy(start + lengths.cumsum() - 1)
        ranks = along[sequence.ranked].shape[-1] if sequence.ranked is not None and rows else 1
        spans[sequence.ids] = Span(start, stop, row_T, last_B, gather_ids_TK, ranks)
        tensors |= along
        start = stop
    fill = -start % multiple if start else multiple
    inputs, labels = [*inputs, np.zeros(fill, np.int64)], [*labels, np.zeros(fill, np.int64)]
    lengths = np.array([len(piece) for piece in inputs if len(piece)])
    return MicroBatch(
        tokens_1t=_flat(inputs)[None],
        labels_1t=_flat(labels)[None],
        lengths=tuple(lengths.tolist()),
        spans=spans,
        rows=tensors,
        num_rows=len(pieces),
        places_B=torch.empty(0, dtype=torch.int64),
        sources_B=torch.empty(0, dtype=torch.int64),
    )


def _pieces(name: str, rows: Many[Row], inside: str) -> list[np.ndarray]:
    """The sequences in column `name`; a packed row holds several, of the lengths in its column `inside`."""
    pieces: list[np.ndarray] = []
    for row in rows:
        pieces += np.split(row[name], np.cumsum(row[inside])[:-1]) if inside in row else [row[name]]
    return pieces


def _along(name: str, rows: Many[Row], shift: int, inside: str) -> Tensor:
    return _flat([piece[shift:] for piece in _pieces(name, rows, inside)])


def _flat(pieces: list[np.ndarray]) -> Tensor:
    """One tensor: integers as int64, floating point as float32."""
    values = np.concatenate(pieces) if pieces else np.zeros(0, np.int64)
    return torch.from_numpy(values.astype(np.float32 if values.dtype.kind == "f" else np.int64, copy=False))
