"""One operation over its inputs, published as one dataset: check first, work in parallel, publish last.

    scored = apply(Length(column="response"), samples, "data/lengths-3f2a91c0")

Before any work the inputs' schemas, the resources and the place are checked. Then each input shard becomes
the output shard of the same number (`Read`, `GatherAll` and `Blend` give one stream, cut into shards). Rows
that an operation drops stand in `rejected/` with a reason. The manifest is written last; until then nothing
is visible, afterwards nothing changes. The same operation on the same inputs with the same seed gives the
same bytes, whatever `processes` is, and wherever they are (`datakit.run.executor`).
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pyarrow as pa

from datakit.columns.unique import Runs, repeated
from datakit.op import REJECTION_COLUMNS, Blend, Op, Read
from datakit.run.chunks import Chunks, remove_stale
from datakit.run.executor import Executor
from datakit.run.facts import check_tokenizers, facts_of
from datakit.run.output import Done, check_budget
from datakit.run.progress import OnProgress, Reporter
from datakit.run.resource import Resource, check_needs
from datakit.run.runner import Local
from datakit.run.shapes import failed, kept_by
from datakit.run.work import Job, streams
from schemas import Schema
from schemas.canonical import canonical
from schemas.dataset import Attempt, Dataset
from schemas.errors import ConfigError, DataError, QuiverError
from schemas.manifest import Parent, task_key_of
from schemas.shards import ROWS_PER_SHARD
from schemas.store.commit import attempt_path, find_existing

ROWS_PER_CHUNK = 8_192
"""Rows that a Label or Keep works on at a time; bounds memory, never changes rows."""

_EXAMPLES = 5


def apply(
    op: Op,
    inputs: Dataset | Sequence[Dataset],
    into: str,
    *,
    resources: Mapping[str, Resource] | None = None,
    seed: int = 0,
    processes: int = 0,
    on_progress: OnProgress | None = None,
    max_rejected: int | float | None = None,
    rows_per_shard: int = ROWS_PER_SHARD,
    rows_per_chunk: int = ROWS_PER_CHUNK,
    task_key: str | None = None,
    hang_seconds: float | None = None,
    executor: Executor | None = None,
) -> Dataset:
    """Run `op` over `inputs` and publish the result at the URL `into`.

    `resources` holds what `op.needs`, by name. `processes` 0 works in this process, n in n workers, with the same
    bytes as result. `max_rejected` is how many rows may be rejected before the run fails, as a number or (a float) as
    a share of the input rows; None: the operation's own limit, mostly none. `task_key` where the caller knows
    it already; a dataset of that key at `into` is returned as it is. Finished chunks of paid operations survive
    a failure and are used again by the next run of the same task. A worker that is silent for `hang_seconds` has failed
    (a stream may be, while it computes); None: wait. `executor`: who works instead of `processes` of this machine.

    Raises `ConfigError` (2) before any work; `DataError` (10) for rows that break a contract, an operation that raises
    (`op-failed`), too many rejected rows or a key that two rows have; `WorkerError` (14); `ConflictError` (15).
    """
    assert min(processes + 1, rows_per_shard, rows_per_chunk) > 0, processes
    given, resources = (inputs,) if isinstance(inputs, Dataset) else tuple(inputs), resources or {}
    op = op.with_outputs({name: resource.outputs for name, resource in resources.items()}).pinned()
    schema = check(op, tuple(dataset.schema for dataset in given), resources)
    check_tokenizers(op, given, resources)
    task_key = task_key or _task_key(op, given, resources, seed)
    if find_existing(into, task_key, "dataset", _parents(given)) is not None:
        remove_stale(into)
        return Dataset.open(into)
    chunks = Chunks(into, task_key)
    reporter = Reporter(op.name, None if streams(op) else sum(one.num_rows for one in given), on_progress)
    prepared = _prepared(op, given)
    with _attempt(into, schema, rejected_schema(op, given, schema)) as attempt:
        job = Job(
            op=op,
            inputs=given,
            attempt=attempt,
            chunks=chunks,
            resources=resources,
            prepared=prepared,
            seed=seed,
            rows_per_chunk=getattr(op, "rows_per_chunk", rows_per_chunk),
            rows_per_shard=rows_per_shard,
            max_rejected=_limit(op, max_rejected, given),
            hang_seconds=hang_seconds,
        )
        executor = executor or Local(processes)
        done = _within_budget(job, executor.run(job, reporter), max_rejected)
        dataset = _commit(job, done, task_key, reporter.seconds, executor)
    chunks.drop()
    reporter.reach(reporter.rows, force=True)
    return dataset


def _parents(inputs: Sequence[Dataset]) -> list[Parent]:
    """The inputs as the manifest of what is made of them names them."""
    return [dataset.as_parent(str(number)) for number, dataset in enumerate(inputs)]


def _task_key(op: Op, inputs: Sequence[Dataset], resources: Mapping[str, Resource], seed: int) -> str:
    keys = {name: resource.content_key for name, resource in resources.items()}
    return task_key_of(op.to_json(), [dataset.task_key for dataset in inputs], keys, seed)


@contextmanager
def _attempt(into: str, schema: Schema, rejected: Schema) -> Iterator[Attempt]:
    """An attempt that is discarded by whatever is raised before it is committed."""
    attempt = Attempt.begin(into, schema, rejected)
    try:
        yield attempt
    except BaseException:
        attempt.discard()
        raise


def check(op: Op, inputs: Sequence[Schema], resources: Mapping[str, Resource]) -> Schema:
    """The schema that would come out; raises what can be known without rows."""
    arity = "no input" if isinstance(op, Read) else "one input or more" if isinstance(op, Blend) else "one input"
    fits = {
        "no input": len(inputs) == 0,
        "one input": len(inputs) == 1,
        "one input or more": len(inputs) >= 1,
    }
    if not fits[arity]:
        raise ConfigError(
            "inputs",
            f"{op.name} takes {arity}, got {len(inputs)}",
            expected=arity,
            found=str(len(inputs)),
            kept="nothing was started",
        )
    check_needs(op, resources)
    for schema in inputs:
        schema.requires(op.takes, op.name)
        for name, resource in resources.items():
            schema.requires(resource.takes, f"the {name} of {op.name}")
    return op.gives(*inputs)


def rejected_schema(op: Op, inputs: Sequence[Dataset], schema: Schema) -> Schema:
    """Rows that go: the input's columns (a stream's: the output's), none of them required, and the reason."""
    rows = inputs[0].schema if inputs and not isinstance(op, Blend) else schema
    columns = tuple(replace(column, nullable=True, finite=False) for column in rows.columns)
    return Schema(f"rejected {rows.name}", rows.version, columns).adding(*op.rejects, *REJECTION_COLUMNS)


def _prepared(op: Op, inputs: Sequence[Dataset]) -> Mapping[str, Any]:
    if not inputs:
        return {}
    try:
        return op.prepare(inputs[0])
    except (QuiverError, MemoryError):
        raise
    except Exception as fault:
        raise failed(op, fault, "preparation", inputs[0].url) from fault


def _limit(op: Op, max_rejected: int | float | None, inputs: Sequence[Dataset]) -> int | None:
    """The number of rejected rows at which work may stop; None where it cannot be known before the end."""
    if max_rejected is None:
        return op.max_rejected
    if isinstance(max_rejected, int):
        return max_rejected
    return int(max_rejected * sum(dataset.num_rows for dataset in inputs)) if inputs else None


def _within_budget(job: Job, pieces: Iterator[list[Done]], max_rejected: int | float | None) -> list[Done]:
    """All finished shards in order; stops as soon as too many rows are rejected, and for a key that stands twice."""
    done: list[Done] = []
    reasons: dict[str, int] = {}
    details: dict[str, str] = {}
    keys = Runs()
    for piece in pieces:
        done += [replace(shard, keys=shard.keys[:0]) for shard in piece]
        for shard in piece:
            keys.add(shard.keys)
            for reason, count in shard.reasons.items():
                reasons[reason] = reasons.get(reason, 0) + count
        examples = [name for shard in done for name in shard.examples]
        for shard in piece:
            details = {**shard.details, **details}
        check_budget(job.op, reasons, sum(shard.rows_in for shard in done), job.max_rejected, examples, details)
    if isinstance(max_rejected, float):
        rows = sum(shard.rows_in for shard in done)
        examples = [name for shard in done for name in shard.examples]
        check_budget(job.op, reasons, rows, int(max_rejected * rows), examples, details)
    done.sort(key=lambda shard: shard.file.path)
    _check_keys(job, done, keys)
    return done


def _check_keys(job: Job, done: Sequence[Done], keys: Runs) -> None:
    """Raise `DataError` where two rows, of one shard or of two, have the same key."""
    suspects = keys.suspects()
    if not len(suspects):
        return
    schema = job.attempt.schema
    folder = attempt_path(job.attempt.url, job.attempt.name)
    repeats = repeated(folder, [shard.file for shard in done], schema, suspects)
    if repeats:
        raise DataError(
            "duplicate-id",
            f"{len(repeats)} {', '.join(schema.key)} of {job.op.name} stand in several rows, first {repeats[0]}",
            expected=f"rows of kind {schema.name} with a {', '.join(schema.key)} of their own",
            found="; ".join(repeats[1:_EXAMPLES]),
            where=", ".join(given.url for given in job.inputs),
            kept=kept_by(job.op),
            next=job.op.mends_repeats,
        )


def _commit(job: Job, done: Sequence[Done], task_key: str, seconds: float, executor: Executor) -> Dataset:
    counts: dict[str, float] = {}
    for shard in done:
        for name, count in shard.counts.items():
            counts[name] = counts.get(name, 0) + count
    return job.attempt.commit(
        [shard.file for shard in done],
        [shard.rejected for shard in done if shard.rejected is not None],
        op=job.op.to_json(),
        parents=_parents(job.inputs),
        seed=job.seed,
        task_key=task_key,
        stats={"counts": dict(sorted(counts.items()))},
        facts=facts_of(job.op, job.inputs, job.resources, job.attempt.schema) | dict(done[0].facts if done else {}),
        runtime_info={
            **_checks(done),
            "seconds": round(seconds, 3),
            "executor": executor.name,
            "processes": executor.processes,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "pyarrow": pa.__version__,
        },
    )


def _checks(done: Sequence[Done]) -> dict[str, Any]:
    """What each worker found of the models that were asked, by role, every different finding once."""
    by_role: dict[str, dict[str, Any]] = {}
    for shard in done:
        for role, check in shard.checks.items():
            by_role.setdefault(role, {})[canonical(check)] = check
    return {"checks": {role: list(checks.values()) for role, checks in sorted(by_role.items())}} if by_role else {}
