"""Rows as steps: which of them, in which order, cut how.

The order of rows is a pure function of (dataset, seed, epoch): row groups are shuffled over the whole dataset and dealt
into windows of about `WINDOW_TOKENS` tokens, and rows are shuffled within a window. A dataset below that size gets a
full shuffle; a larger one is read window by window, each row group once per epoch, with one window in memory. An
epoch's last step takes the rows that are left. A step is a pure function of its number, so a resumed run goes on
where it stopped, at any world size.

`BatchLoader` is whatever gives a run its batches; `DatasetLoader`, over rows on disk, is one, and
`trainers.engine.training.rollouts`, over rows that are made step by step, another.

Within a step rows are sorted by length and dealt to the data-parallel replicas so that all carry about as many tokens;
each replica cuts its share into micro-batches of at most `budget` tokens. None of that changes what is learnt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch

from trainers.engine.data.batch import MicroBatch, assemble
from trainers.engine.data.rows import TokenRows, spread

WINDOW_TOKENS = 1 << 24
"""Tokens within which rows are shuffled (64 MiB of ids)."""


@dataclass(frozen=True)
class BatchSharding:
    """How a global batch is cut: this replica, the number of replicas, tokens per pass, divisor of a pass's tokens.

    `even`: all replicas make as many passes (they share experts, and meet in every layer).
    """

    replica: int = 0
    replicas: int = 1
    budget: int = 16384
    multiple: int = 1
    even: bool = False


@dataclass(frozen=True)
class GlobalBatch:
    """The rows of one optimizer step (numbers in `source`, over all replicas) and this replica's micro-batches.

    `number` counts steps from 0; `num_records` counts the rows, of packs the sequences inside. `content_digest` is
    that of rows which no dataset of the run holds (empty: one does), `figures` are what whoever made them says of them.
    """

    number: int
    epoch: int
    source: TokenRows
    rows: np.ndarray
    num_records: int
    batches: tuple[MicroBatch, ...]
    content_digest: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)

    def names(self) -> list[str]:
        """What the rows are called."""
        return self.source.names(self.rows.tolist())

    def labels(self) -> tuple[list[str], list[str | None] | None]:
        """The key and the source of each sequence (see `TokenRows.labels`)."""
        return self.source.labels(self.rows.tolist())


def global_batch(
    source: TokenRows, rows: np.ndarray, sharding: BatchSharding, *, number: int, epoch: int
) -> GlobalBatch:
    """These rows of `source`, read and assembled as step `number`."""
    counts = source.counts(rows)
    starts, order = np.cumsum(counts) - counts, np.argsort(rows)
    batches = []
    for part in split_over_dp(rows, source.lengths_NS[rows].sum(axis=1), sharding):
        batch = assemble(source.algorithm, source.rows(part.tolist()), multiple=sharding.multiple)
        at = order[np.searchsorted(rows, part, sorter=order)]
        places_B = torch.from_numpy(spread(starts[at], counts[at]))
        batches.append(replace(batch, places_B=places_B, sources_B=torch.from_numpy(source.sources_of(part))))
    return GlobalBatch(number, epoch, source, rows, int(counts.sum()), tuple(batches))


class BatchLoader(Protocol):
    """Where a run's batches come from: any rows, in any order, as long as a step is a function of its number."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Where its rows come from, by name; empty: unknown."""
        ...

    @property
    def label(self) -> str:
        """The column by whose values records call its rows (see `TokenRows.label`)."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """After how many steps a run looks back: it validates there unless it is given another interval."""
        ...

    def steps(self, first: int, stop: int) -> Iterator[GlobalBatch]:
        """Steps `first` to `stop` - 1, counted from 0."""
        ...


class DatasetLoader:
    """The steps of a run over `source`: `batch_rows` rows each."""

    def __init__(
        self, source: TokenRows, *, batch_rows: int, seed: int, sharding: BatchSharding, shuffle: bool = True
    ) -> None:
        self.source, self.batch_rows, self.seed = source, batch_rows, seed
        self.sharding, self.shuffle = sharding, shuffle
        self.steps_per_epoch = -(-len(source) // batch_rows)
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))
        self._ahead: Future[GlobalBatch] | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        """Where the rows come from, by name."""
        return self.source.sources

    @property
    def label(self) -> str:
        """The column of the keys of rows or, of packs, of those inside."""
        return self.source.label

    def place(self, number: int) -> tuple[int, int]:
        """(epoch, first position in its order) of step `number`, counted from 0."""
        epoch, step = divmod(number, self.steps_per_epoch)
        return epoch, step * self.batch_rows

    def order(self, epoch: int) -> np.ndarray:
        """Row numbers in the order in which epoch `epoch` reads them."""
        if self._order[0] != epoch:
            rows = shuffled(self.source, self.seed, epoch) if self.shuffle else np.arange(len(self.source))
            self._order = (epoch, rows)
        return self._order[1]

    def rows(self, number: int) -> np.ndarray:
        """Row numbers of step `number`."""
        epoch, position = self.place(number)
        return self.order(epoch)[position : position + self.batch_rows]

    def step(self, number: int) -> GlobalBatch:
        """Step `number`, read and assembled."""
        return global_batch(self.source, self.rows(number), self.sharding, number=number, epoch=self.place(number)[0])

    def steps(self, first: int, stop: int) -> Iterator[GlobalBatch]:
        """Steps `first` to `stop` - 1; the next one is read in the background while the caller works."""
        with ThreadPoolExecutor(1, thread_name_prefix="feed") as pool:
            self._ahead = pool.submit(self.step, first) if first < stop else None
            for number in range(first, stop):
                assert self._ahead is not None
                step = self._ahead.result()
                self._ahead = pool.submit(self.step, number + 1) if number + 1 < stop else None
                yield step


def shuffled(source: TokenRows, seed: int, epoch: int) -> np.ndarray:
    """All row numbers: row groups shuffled, then rows within windows of `WINDOW_TOKENS`."""
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))
    ends = np.append(source.firsts[1:], len(source))
    tokens = np.add.reduceat(source.lengths_NS.sum(axis=1, dtype=np.int64), source.firsts)
    groups = random.permutation(len(source.groups))
    windows = (tokens[groups].cumsum() - tokens[groups]) // WINDOW_TOKENS
    parts = []
    for window in np.split(groups, np.flatnonzero(np.diff(windows)) + 1):
        rows = np.concatenate([np.arange(source.firsts[group], ends[group]) for group in window])
        parts.append(random.permutation(rows))
    return np.concatenate(parts)


def split_over_dp(rows: np.ndarray, tokens: np.ndarray, sharding: BatchSharding) -> list[np.ndarray]:
    """This replica's rows of a global batch, as micro-batches; one without rows when there are too few for all."""
    by_length = np.argsort(-tokens, kind="stable")
    turn = np.arange(len(rows)) % (2 * sharding.replicas)
    replica = np.where(turn < sharding.replicas, turn, 2 * sharding.replicas - 1 - turn)
    parts = _passes(by_length[replica == sharding.replica], tokens, sharding.budget)
    if sharding.even:
        each = (_passes(by_length[replica == other], tokens, sharding.budget) for other in range(sharding.replicas))
        parts += [[]] * (max(map(len, each)) - len(parts))
    return [rows[np.array(part, dtype=np.int64)] for part in parts]


def _passes(places: np.ndarray, tokens: np.ndarray, budget: int) -> list[list[int]]:
    """`places` in order, cut where the next one would go beyond `budget` tokens; at least one, if empty, part."""
    parts: list[list[int]] = [[]]
    room = budget
    for place in places.tolist():
        if parts[-1] and tokens[place] > room:
            parts.append([])
            room = budget
        parts[-1].append(place)
        room -= int(tokens[place])
    return parts
