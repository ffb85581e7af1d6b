"""What a worker does: one shard in, one shard out, a chunk of rows at a time; or one stream, cut into shards.

Everything here is a function of the job alone, so the bytes that come out do not depend on how many processes
there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datakit.op import Blend, Context, Gather, GatherAll, Op, Read, Result
from datakit.run.chunks import Chunks
from datakit.run.output import Done, Output
from datakit.run.resource import Resource
from datakit.run.shapes import result_of, results_of
from schemas.dataset import Attempt, Dataset

Advance = Callable[[int], None]

_GROUP = "prompt_id"
"""A stream is not cut between neighbours that share it, so that the samples of a prompt stay in one shard."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a worker needs to know, picklable."""

    op: Op
    inputs: tuple[Dataset, ...]
    attempt: Attempt
    chunks: Chunks
    resources: Mapping[str, Resource] = field(default_factory=dict)
    prepared: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    rows_per_chunk: int
    rows_per_shard: int
    max_rejected: int | None = None
    hang_seconds: float | None = None
    environments: tuple[Mapping[str, str], ...] = ()

    @property
    def streams(self) -> bool:
        """Whether the operation does (`streams`)."""
        return streams(self.op)

    @property
    def tasks(self) -> int:
        """How many pieces of work there are; a stream is one."""
        return 1 if self.streams else len(self.inputs[0].shards)

    def context(self, shard: int, opened: Mapping[str, Any]) -> Context:
        """The context in which the operation works."""
        keys = {name: resource.content_key for name, resource in self.resources.items()}
        return Context(seed=self.seed, shard=shard, prepared=self.prepared, resources=opened, keys=keys)

    def output(self, index: int) -> Output:
        """The writer of output shard `index`, with nothing in it yet."""
        return Output(self.op, index, self.attempt, self.max_rejected)


def streams(op: Op) -> bool:
    """Whether `op` works on everything at once, in one stream, rather than shard by shard."""
    return isinstance(op, Read | GatherAll | Blend)


def work(
    job: Job, index: int, opened: Mapping[str, Any], advance: Advance, turn: AbstractContextManager[Any] | None = None
) -> list[Done]:
    """Do one piece of work; `advance` is called for every few input rows (of a stream: output rows) done.

    Where two threads work on two pieces, `turn` lets the operation itself run in one of them at a time.
    """
    if job.streams:
        return _stream(job, opened, advance)
    ctx, output = job.context(index, opened), job.output(index)
    try:
        for number, rows in enumerate(_chunks(job, index)):
            with turn or nullcontext():
                result = _chunk(job, index, number, rows, ctx)
                advance(rows.num_rows)
            output.add(result, rows.num_rows)
        return [replace(output.finish(), facts=job.op.facts(ctx))]
    except BaseException:
        output.abort()
        raise


def _chunks(job: Job, index: int) -> Iterator[pa.Table]:
    if isinstance(job.op, Gather):
        yield job.inputs[0].read_shard(index)
    else:
        yield from job.inputs[0].batches(index, job.rows_per_chunk)


def _chunk(job: Job, index: int, number: int, rows: pa.Table, ctx: Context) -> Result:
    """The result of one chunk: worked out, or for paid work found among the kept ones of an earlier run."""
    given = job.inputs[0]
    where = f"shard {index} of {given.url}, from row {number * job.rows_per_chunk}"
    if not job.op.paid:
        return result_of(job.op, rows, ctx, where)
    name = f"shard-{index:05d}-chunk-{number:06d}"
    source = f"{given.shards[index].sha256}:{number}x{job.rows_per_chunk}"
    kept = job.chunks.find(name, source)
    return kept or job.chunks.keep(name, source, result_of(job.op, rows, ctx, where))


def _stream(job: Job, opened: Mapping[str, Any], advance: Advance) -> list[Done]:
    cutter, ctx = _Cutter(job), job.context(0, opened)
    try:
        for result in results_of(job.op, job.inputs, ctx):
            cutter.add(result)
            advance(result.rows.num_rows)
        facts = job.op.facts(ctx)
        return [replace(done, facts=facts) for done in cutter.finish()]
    except BaseException:
        cutter.abort()
        raise


class _Cutter:
    """Cuts a stream into shards of `rows_per_shard` rows, or a few more where a prompt's samples go on."""

    def __init__(self, job: Job) -> None:
        self._job, self._output, self._done = job, job.output(0), list[Done]()
        self._group: pa.Scalar | None = None

    def add(self, result: Result) -> None:
        rows = result.rows
        rejected = 0 if result.rejected is None else result.rejected.num_rows
        self._output.add(Result(rows.slice(0, 0), result.rejected, result.counts), rows.num_rows + rejected)
        while rows.num_rows:
            head = self._room(rows)
            if head:
                self._output.add(Result(rows.slice(0, head)), 0)
                self._group = rows[_GROUP][head - 1] if _GROUP in rows.column_names else None
            rows = rows.slice(head)
            if rows.num_rows:
                self._done.append(self._output.finish())
                self._output = self._job.output(len(self._done))

    def finish(self) -> list[Done]:
        return [*self._done, self._output.finish()]

    def abort(self) -> None:
        self._output.abort()

    def _room(self, rows: pa.Table) -> int:
        """How many of `rows` still belong into the open shard."""
        room = self._job.rows_per_shard - self._output.rows
        if room >= rows.num_rows or _GROUP not in rows.column_names:
            return max(0, min(room, rows.num_rows))
        room = max(0, room)
        last = rows[_GROUP][room - 1] if room else self._group
        if last is None or not last.is_valid:
            return room
        end = pc.index(pc.equal(rows[_GROUP].slice(room), last), False).as_py()
        return rows.num_rows if end < 0 else room + end
