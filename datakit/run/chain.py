"""Several operations as one: rows go through all of them in memory, and one dataset is published of what comes out.

    Chain(ops=(Drawn(), GroupAdvantage(), Where(predicate="group_std > 0")))       over a whole dataset
    JoinedChain(ops=...)                              over several of one kind
    PaidChain(ops=(Complete(...), Verify(...)))       a chunk of rows at a time; finished chunks survive a failure

Rows that any of them drops stand beside the result with their reason, whichever dropped them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, ClassVar

import pyarrow as pa

from datakit.op import Blend, Capability, Context, Expand, GatherAll, Op, Result
from datakit.run.output import check_rejected
from datakit.run.shapes import result_of
from schemas import SAMPLE_COLUMNS, Column, Schema
from schemas.dataset import Dataset
from schemas.store.opening import open_store


@dataclass(frozen=True, kw_only=True)
class _Several(Op):
    """What operations one behind the other have in common; none of them is a stream."""

    ops: tuple[Op, ...]
    max_rejected_share: float = 0.0
    """Share of the rows before an operation that it may drop of a chunk, where that is more than its own
    `max_rejected`; how a chain is run, and no part of what it is.
    """

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """What any of them needs; one resource serves all that call it by the same name."""
        return tuple(dict.fromkeys(name for op in self.ops for name in op.needs))

    @property
    def replaced_facts(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset(chain.from_iterable(op.replaced_facts for op in self.ops))

    @property
    def asks(self) -> frozenset[Capability]:
        return frozenset(chain.from_iterable(op.asks for op in self.ops))

    @property
    def rejects(self) -> tuple[Column, ...]:
        """An answer that goes is named, and stays readable."""
        return tuple(replace(column, nullable=True, finite=False) for column in SAMPLE_COLUMNS)

    @property
    def takes(self) -> Schema:
        return self.ops[0].takes

    def gives(self, *inputs: Schema) -> Schema:
        """What the last gives; `DataError` where one lacks a column that those before it do not make."""
        schema = inputs[0]
        for op in self.ops:
            schema.requires(op.takes, op.name)
            schema = op.gives(schema)
        return schema

    def with_outputs(self, outputs: Mapping[str, tuple[str, ...]]) -> Op:
        return replace(self, ops=tuple(op.with_outputs(outputs) for op in self.ops))

    def before(self, need: str, given: Schema) -> Schema:
        """The rows that the first operation sees which needs `need`, where those of `given` come in."""
        for op in self.ops:
            if need in op.needs:
                break
            given = op.gives(given)
        return given

    def params(self) -> dict[str, Any]:
        return {"ops": [op.to_json() for op in self.ops]}

    def prepare(self, dataset: Dataset) -> Mapping[str, Any]:
        """What the first prepares; the others see their rows later."""
        return self.ops[0].prepare(dataset)

    def facts(self, ctx: Context) -> Mapping[str, Any]:
        return {name: fact for op in self.ops for name, fact in op.facts(ctx).items()}

    def result(self, rows: pa.Table, schema: Schema, ctx: Context) -> Result:
        """What all of them make of `rows`, and all rows that one of them dropped; `DataError` where one drops more than
        it may.
        """
        dropped: list[pa.Table] = []
        counts = Counter[str]()
        for number, op in enumerate(self.ops):
            known = ctx if number == 0 else replace(ctx, prepared=_prepared(op, rows, schema))
            made = result_of(op, rows, known, f"{rows.num_rows} rows before {op.name}")
            if made.rejected is not None and made.rejected.num_rows:
                self._check_budget(op, made.rejected, rows.num_rows)
                dropped.append(made.rejected)
            schema, rows = op.gives(schema), made.rows
            counts.update(made.counts)
        return Result(rows, pa.concat_tables(dropped, promote_options="default") if dropped else None, counts)

    def _check_budget(self, op: Op, rejected: pa.Table, rows_in: int) -> None:
        name = next((column for column in ("sample_id", "prompt_id") if column in rejected.column_names), "reason")
        check_rejected(op, rejected, rows_in, rejected[name].slice(0, 5).to_pylist(), self.max_rejected_share)


@dataclass(frozen=True, kw_only=True)
class Chain(_Several, GatherAll):
    """Operations over all rows at once, which are in memory together."""

    name: ClassVar[str] = "chain"

    def gather_all(self, dataset: Dataset, ctx: Context) -> Iterator[Result]:
        yield self.result(dataset.read(), dataset.schema, ctx)


@dataclass(frozen=True, kw_only=True)
class JoinedChain(_Several, Blend):
    """Operations over all rows of several datasets of one kind, one behind the other, which are in memory together."""

    name: ClassVar[str] = "chain.joined"

    def prepare(self, dataset: Dataset) -> Mapping[str, Any]:
        """Nothing before all rows are there."""
        return {}

    def blend(self, inputs: Sequence[Dataset], ctx: Context) -> Iterator[Result]:
        rows, schema = pa.concat_tables([one.read() for one in inputs]), inputs[0].schema
        yield self.result(rows, schema, replace(ctx, prepared=_prepared(self.ops[0], rows, schema)))


@dataclass(frozen=True, kw_only=True)
class PaidChain(_Several, Expand):
    """Operations whose answers are paid for: what comes of a chunk of rows is kept until all is published."""

    name: ClassVar[str] = "chain.paid"
    paid: ClassVar[bool] = True

    def params(self) -> dict[str, Any]:
        return {**super().params(), "rows_per_chunk": self.rows_per_chunk}

    def prepare(self, dataset: Dataset) -> Mapping[str, Any]:
        """What the first prepares, and the schema of the rows: an Expand sees them without one."""
        return {"first": super().prepare(dataset), "schema": dataset.schema}

    def expand(self, rows: pa.Table, ctx: Context) -> Result:
        return self.result(rows, ctx.prepared["schema"], replace(ctx, prepared=ctx.prepared["first"]))


def _prepared(op: Op, rows: pa.Table, schema: Schema) -> Mapping[str, Any]:
    """What `op` prepares of rows that no dataset holds: of one that is made for it, where it looks at all."""
    if type(op).prepare is Op.prepare:
        return {}
    place = f"memory://chain-{os.getpid()}-{id(rows):x}"
    try:
        return op.prepare(Dataset.from_arrow(rows, schema, place))
    finally:
        store, folder = open_store(place)
        store.remove_tree(folder)
