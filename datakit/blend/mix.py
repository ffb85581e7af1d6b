"""Several datasets in given proportions: exact counts, no repeats but those asked for, every row marked.

    Mix(sources=("math", "chat"), weights=(0.7, 0.3), total=10_000)

Counts are apportioned exactly (`columns.apportion`). A source gives whole passes over its rows and, of the last
pass, a seeded choice without replacement. Sources are laid into each other evenly: the j-th of m rows stands
at (j + 1/2) / m, fixed, as in NeMo-Aligner's greedy blending. Shuffle afterwards
with `blend.shuffle`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from datakit.columns.apportion import largest_remainder, largest_total, of_epochs
from datakit.columns.interleave import Source, concatenated, interleaved, lengths_of, mixed_columns, partial_use
from datakit.columns.measurement import require_columns
from datakit.op import NOTHING, Blend, Context, Result
from schemas import Column, Schema
from schemas.canonical import DEFAULT_UNNAMED
from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError
from schemas.manifest import Manifest

_MARKS = (
    Column("source", pa.string(), "the mixture's name for where the row came from"),
    Column("epoch", pa.int32(), "which pass over its source the row belongs to, from 0"),
)


@dataclass(frozen=True, kw_only=True)
class Mix(Blend):
    """Rows of the inputs, named by `sources`, in proportion to `weights` or by so many `epochs` of each.

    `total` counts rows or, with `by="tokens"`, tokens: the numbers in the column `length`, or the sizes of
    its lists. Without it the mixture is as large as `max_epochs` allows. A token count is reached by the
    shortest run of whole rows, so it is exceeded by less than one row of each source. A source that would
    have to be repeated more than `max_epochs` times is an error, not a surprise. Columns are those that all
    sources have, or those named, and besides those of `partial` that any source has, null where another lacks them; the
    key is lost, because rows may repeat.
    """

    name: ClassVar[str] = "blend.mix"

    sources: tuple[str, ...]
    weights: tuple[float, ...] = ()
    epochs: tuple[float, ...] = ()
    total: int | None = None
    by: Literal["rows", "tokens"] = "rows"
    length: str = ""
    max_epochs: float = 1.0
    columns: tuple[str, ...] = ()
    partial: tuple[str, ...] = field(default=(), metadata=DEFAULT_UNNAMED)
    order: Literal["interleaved", "concatenated"] = "interleaved"

    def __post_init__(self) -> None:
        given, faults = self.weights or self.epochs, []
        if not self.sources or len(set(self.sources)) != len(self.sources):
            faults.append(f"sources {self.sources} must be names, each once")
        if bool(self.weights) == bool(self.epochs):
            faults.append("exactly one of weights and epochs is needed")
        elif len(given) != len(self.sources):
            faults.append(f"{len(given)} numbers for {len(self.sources)} sources")
        faults += [
            f"{name} has {number}, a positive finite number is needed (leave the source out for none)"
            for name, number in zip(self.sources, given, strict=False)
            if not (np.isfinite(number) and number > 0)
        ]
        if self.total is not None and (self.epochs or self.total < 1):
            faults.append(f"total {self.total} needs weights and at least 1")
        if not (np.isfinite(self.max_epochs) and self.max_epochs > 0):
            faults.append(f"max_epochs is {self.max_epochs}")
        if (self.by == "tokens") != bool(self.length):
            faults.append("length names the column to count tokens in, for by=tokens and only then")
        if faults:
            raise ConfigError("bad-setting", f"blend.mix: {'; '.join(faults)}", kept="nothing was started")

    @property
    def takes(self) -> Schema:
        """Any rows; that they fit each other is checked in `gives`."""
        return NOTHING

    def gives(self, *inputs: Schema) -> Schema:
        """The common columns of the inputs (or the named ones), those of `partial`, `source` and `epoch`."""
        if len(inputs) != len(self.sources):
            raise ConfigError("bad-inputs", f"blend.mix got {len(inputs)} inputs for {len(self.sources)} sources")
        for schema in inputs:
            require_columns(schema, (*self.columns, *([self.length] if self.length else [])), self.name)
        shared_names = self.columns or tuple(
            name for name in inputs[0].names if all(name in schema for schema in inputs)
        )
        if not shared_names:
            raise ConfigError("schema", "blend.mix found no column that all sources have", kept="nothing was started")
        names = dict.fromkeys((*shared_names, *self.partial))
        columns = mixed_columns(dict(zip(self.sources, inputs, strict=True)), names)
        mixed = inputs[0].selecting(*shared_names).adding(*columns)
        return mixed.renamed(mixed.name, version=mixed.version, key=()).adding(*_MARKS)

    def blend(self, inputs: Sequence[Dataset], ctx: Context) -> Iterator[Result]:
        """The mixture, block by block; rows, tokens and passes of every source are counted."""
        schema = self.gives(*(given.schema for given in inputs))
        lengths = [lengths_of(given, self.length) for given in inputs]
        quotas = self._quotas([int(size.sum()) for size in lengths])
        columns = schema.dropping("source", "epoch").names
        sources = [
            Source(name, given, lengths=size, quota=quota, columns=columns, seed=ctx.seed)
            for name, given, size, quota in zip(self.sources, inputs, lengths, quotas, strict=True)
        ]
        yield Result(schema.empty(), counts={k: v for source in sources for k, v in source.counts.items()})
        for rows in interleaved(sources) if self.order == "interleaved" else concatenated(sources):
            yield Result(schema.conform(rows))

    def notes(self, made: Manifest) -> tuple[str, ...]:
        """How much of each source the mixture leaves out, in the unit of `by`."""
        used = ((name, *partial_use(made, name)) for name in self.sources)
        rest = [(name, units, size) for name, units, size in used if units < size]
        return tuple(f"{name} gives {n:,} of its {m:,} {self.by}: {m - n:,} left out" for name, n, m in rest)

    def _quotas(self, sizes: list[int]) -> list[int]:
        """How much each source gives, in the unit of `by`."""
        for name, size in zip(self.sources, sizes, strict=True):
            if size == 0:
                raise DataError("empty-source", f"blend.mix: {name} has no {self.by}", kept="nothing was written")
        if self.epochs:
            return [of_epochs(epochs, size) for epochs, size in zip(self.epochs, sizes, strict=True)]
        total = largest_total(self.weights, sizes, self.max_epochs) if self.total is None else self.total
        quotas = largest_remainder(self.weights, total)
        short = [
            f"{name} would give {quota} of {size} {self.by} ({quota / size:.3g} epochs)"
            for name, size, quota in zip(self.sources, sizes, quotas, strict=True)
            if quota > of_epochs(self.max_epochs, size)
        ]
        if short:
            raise DataError(
                "source-too-small",
                f"blend.mix: {'; '.join(short)}",
                expected=f"at most max_epochs={self.max_epochs:g}",
                kept="nothing was written",
                next=f"total={largest_total(self.weights, sizes, self.max_epochs)} fits, or raise max_epochs",
            )
        return quotas
