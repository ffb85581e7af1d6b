"""What a worker does: one shard in, one shard out, a chunk of rows at a time; or one stream, cut into shards.

Everything here is a function of the job alone, so the bytes that come out do not depend on how many processes
there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datakit.clients.protocols import Compared, Journaled
from datakit.op import Blend, Context, Gather, GatherAll, Op, Read, Result
from datakit.run.ahead import in_order
from datakit.run.chunks import Chunks
from datakit.run.journal import Journal
from datakit.run.output import Done, Output
from datakit.run.resource import Resource
from datakit.run.shapes import result_of, results_of
from schemas.dataset import Attempt, Dataset

Advance = Callable[[int], None]

_GROUP = "prompt_id"
"""A stream is not cut between neighbours that share it, so that the samples of a prompt stay in one shard."""


_WAITING_ROWS = 1 << 14
"""Rows that may be answered and wait for some before them that are not."""


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

    @property
    def streams(self) -> bool:
        """Whether the operation does (`streams`)."""
        return streams(self.op)

    @property
    def concurrency(self) -> int:
        """How many of its calls may be under way at a time: as many as each of its resources answers."""
        asked = [resource.concurrency for name, resource in self.resources.items() if name in self.op.needs]
        return 1 if self.streams else min(asked, default=1)

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


@dataclass(frozen=True)
class Chunk:
    """Some rows of an input shard, its `number`-th of so many."""

    shard: int
    number: int
    rows: pa.Table


Answered = Iterator[tuple[Chunk, Result]]
"""Chunks and what came of them, in order."""


def work(
    job: Job,
    index: int,
    opened: Mapping[str, Any],
    advance: Advance,
    turn: AbstractContextManager[Any] | None = None,
    asked: Asked | None = None,
) -> list[Done]:
    """Do one piece of work; `advance` is called for every few input rows (of a stream: output rows) done.

    Where two threads work on two pieces, `turn` lets the operation itself run in one of them at a time. `asked` are the
    chunks of this piece and of those after it that are asked ahead.
    """
    if job.streams:
        return _stream(job, opened, advance)
    ctx, output = job.context(index, opened), job.output(index)
    answered = _answered(job, index, ctx, advance, turn or nullcontext()) if asked is None else asked.of_shard(index)
    try:
        for chunk, result in answered:
            output.add(result, chunk.rows.num_rows)
        checks = {name: one.compared for name, one in opened.items() if isinstance(one, Compared)}
        return [replace(output.finish(), facts=job.op.facts(ctx), checks=checks)]
    except BaseException:
        output.abort()
        raise


def _answered(job: Job, index: int, ctx: Context, advance: Advance, turn: AbstractContextManager[Any]) -> Answered:
    for chunk in _chunks(job, index):
        with turn:
            result = _chunk(job, chunk, ctx)
            advance(chunk.rows.num_rows)
        yield chunk, result


class Asked:
    """The chunks of `shards`, which one worker does in this order, asked ahead (`datakit.run.ahead`)."""

    def __init__(self, job: Job, opened: Mapping[str, Any], advance: Advance, shards: Sequence[int]) -> None:
        contexts = {index: job.context(index, opened) for index in shards}
        self._answered = in_order(
            lambda chunk: _chunk(job, chunk, contexts[chunk.shard]),
            chain.from_iterable(_chunks(job, index) for index in shards),
            threads=job.concurrency,
            most=max(2 * job.concurrency, _WAITING_ROWS // job.rows_per_chunk),
            ready=lambda chunk: advance(chunk.rows.num_rows),
        )
        self._next: tuple[Chunk, Result] | None = None

    def of_shard(self, index: int) -> Answered:
        """The chunks of the next shard, which is shard `index`."""
        while (answered := self._next or next(self._answered, None)) is not None:
            self._next = answered
            if answered[0].shard != index:
                return
            self._next = None
            yield answered

    def close(self) -> None:
        """Ask nothing more; what is under way is awaited."""
        self._answered.close()


def _chunks(job: Job, index: int) -> Iterator[Chunk]:
    given = job.inputs[0]
    whole = isinstance(job.op, Gather)
    tables = iter([given.read_shard(index)]) if whole else given.batches(index, job.rows_per_chunk)
    return (Chunk(index, number, rows) for number, rows in enumerate(tables))


def _chunk(job: Job, chunk: Chunk, ctx: Context) -> Result:
    """The result of one chunk: worked out, or for paid work found among the kept ones of an earlier run."""
    given, index, number, rows = job.inputs[0], chunk.shard, chunk.number, chunk.rows
    where = f"shard {index} of {given.url}, from row {number * job.rows_per_chunk}"
    if not job.op.paid:
        return result_of(job.op, rows, ctx, where)
    name = f"shard-{index:05d}-chunk-{number:06d}"
    source = f"{given.shards[index].sha256}:{number}x{job.rows_per_chunk}"
    if (kept := job.chunks.find(name, source)) is not None:
        return kept
    journal = job.chunks.journal(name)
    try:
        kept = job.chunks.keep(name, source, result_of(job.op, rows, _journaled(ctx, journal), where))
        journal.drop()
        return kept
    finally:
        journal.close()


def _journaled(ctx: Context, journal: Journal) -> Context:
    """The context in which what is asked elsewhere is written into `journal`, answer by answer."""
    resources = {
        name: one.journaled(journal) if isinstance(one, Journaled) else one for name, one in ctx.resources.items()
    }
    return replace(ctx, resources=resources)


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
