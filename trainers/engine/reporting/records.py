"""What training saw of every row, as a Dataset: gathered with a step's sums, spooled to disk, published at the end.

Rows wait in memory until the next save (or until there are `MOST_WAITING`), then go to `<work>/records/`, one file per
stretch of steps, each written whole or not at all: its SHA-256, then Parquet. One that is damaged is an error when the
run goes on, and never a wrong row. A save is made after its steps are on disk, and a run that goes on takes back what
lies behind its save; so every step is there exactly once, however often the run was killed. Rows stand in the order of
the steps and, within a step, of the data's order; neither depends on the layout.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.canonical import json_digest
from schemas.dataset import Attempt
from schemas.errors import IntegrityError, StorageError
from schemas.manifest import File, Parent
from schemas.rows.records import records_of
from schemas.store.commit import find_existing
from schemas.store.ownfiles import own_folder, read_verified, replace_verified

MOST_WAITING = 1 << 17
ROWS_PER_SHARD = 1 << 20


def records_key(run_key: str) -> str:
    """The identity of the records of the run whose checkpoint has the key `run_key`."""
    return json_digest({"records": run_key})


@dataclass(frozen=True)
class RecordsManifest:
    """What the manifest of the records says of the run."""

    task_key: str
    op: Mapping[str, Any]
    parents: Sequence[Parent]
    seed: int


def are_there(url: str, task_key: str, parents: Sequence[Parent]) -> bool:
    """Whether the records of this very run are published; `ConflictError` when something else stands at `url`, or those
    of a run over other content than `parents` have.
    """
    return find_existing(url, task_key, "dataset", parents) is not None


class Records:
    """The records of a run in `folder`; used by its first process only. `first`: the step it goes on after."""

    def __init__(self, folder: Path, key: str, row_metrics: Sequence[str], first: int) -> None:
        self.folder, self.schema = folder, records_of(key, row_metrics)
        self._waiting: list[pa.Table] = []
        self._num_waiting = 0
        self._since = self._until = first
        _rewind(folder, first)

    @property
    def missing(self) -> list[tuple[int, int]]:
        """The stretches of steps, first and last, that no record was made of (the run went without for a while)."""
        gaps, next_step = [], 1
        for start, stop in [*sorted(_spans(self.folder)), (self._since + 1, self._until)]:
            if start > next_step:
                gaps.append((next_step, start - 1))
            next_step = max(next_step, stop + 1)
        return gaps

    def add(
        self, step: int, epoch: int, names: Sequence[str], sources: Sequence[str | None] | None, rows_RN: np.ndarray
    ) -> None:
        """The rows of step `step` (from 1): their keys, sources, and [R, 2 + N] sums, weights and row metrics."""
        assert len(names) == len(rows_RN), f"{len(names)} keys, {len(rows_RN)} rows"
        weights = rows_RN[:, 1]
        losses = np.divide(rows_RN[:, 0], weights, out=np.zeros(len(rows_RN)), where=weights > 0)
        columns = [
            pa.array(names, pa.string()),
            pa.array(np.full(len(names), step, np.int32)),
            pa.array(np.full(len(names), epoch, np.int32)),
            pa.nulls(len(names), pa.string()) if sources is None else pa.array(sources, pa.string()),
            pa.array(weights),
            pa.array(losses.astype(np.float32), mask=weights <= 0),
            *(pa.array(values) for values in rows_RN[:, 2:].astype(np.float32).T),
        ]
        self._waiting.append(pa.Table.from_arrays(columns, schema=self.schema.arrow))
        self._num_waiting += len(names)
        self._until = step
        if self._num_waiting >= MOST_WAITING:
            self.flush()

    def flush(self) -> None:
        """Put what waits on disk: due before a save."""
        if self._waiting:
            _write(self.folder, (self._since + 1, self._until), pa.concat_tables(self._waiting))
        self._since, self._waiting, self._num_waiting = self._until, [], 0

    def publish(self, url: str, manifest: RecordsManifest) -> None:
        """Make the dataset at `url`, unless it stands there, and remove the files."""
        self.flush()
        if not are_there(url, manifest.task_key, manifest.parents):
            facts = {"missing_steps": [list(gap) for gap in self.missing]}
            with Attempt.begin(url, self.schema) as attempt:
                files = list(_shards(attempt, _read(self.folder)))
                attempt.commit(
                    files,
                    op=manifest.op,
                    parents=manifest.parents,
                    seed=manifest.seed,
                    task_key=manifest.task_key,
                    facts=facts,
                )
        shutil.rmtree(self.folder, ignore_errors=True)


def _shards(attempt: Attempt, tables: Iterator[pa.Table]) -> Iterator[File]:
    """Write shards of `ROWS_PER_SHARD` rows, the last of what is left; at least one."""
    number, room = 0, ROWS_PER_SHARD
    writer = attempt.shard(0)
    try:
        for table in tables:
            at = 0
            while at < table.num_rows:
                if not room:
                    yield writer.finish()
                    number, room = number + 1, ROWS_PER_SHARD
                    writer = attempt.shard(number)
                part = table.slice(at, room)
                writer.write(part)
                at, room = at + part.num_rows, room - part.num_rows
        yield writer.finish()
    except BaseException:
        writer.abort()
        raise


def _spans(folder: Path) -> list[tuple[int, int]]:
    """The stretches of steps on disk; of two that begin alike only the shorter: it was taken back later."""
    spans: dict[int, int] = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := re.fullmatch(r"steps-(\d{9,})-(\d{9,})\.records", path.name):
            start, stop = int(match.group(1)), int(match.group(2))
            spans[start] = min(stop, spans.get(start, stop))
    return sorted(spans.items())


def _rewind(folder: Path, first: int) -> None:
    """Forget all steps after `first`."""
    kept = set()
    for span in _spans(folder):
        if span[0] > first:
            continue
        table = _table(_path(folder, span))
        if span[1] <= first:
            kept.add(_path(folder, span).name)
        else:
            kept.add(_write(folder, (span[0], first), table.filter(pc.less_equal(table["step"], first))))
    for path in list(folder.iterdir()) if folder.is_dir() else []:
        if path.name not in kept:
            path.unlink()


def _read(folder: Path) -> Iterator[pa.Table]:
    return (_table(_path(folder, span)) for span in _spans(folder))


def _table(path: Path) -> pa.Table:
    """The rows of one file, which is the one that was written."""
    try:
        return pq.read_table(pa.py_buffer(read_verified(path)))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _damaged(path, error) from None


def _write(folder: Path, span: tuple[int, int], table: pa.Table) -> str:
    """Write one file, whole and durable; its name."""
    path, buffer = _path(folder, span), pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    try:
        own_folder(folder)
        replace_verified(path, buffer.getvalue(), durable=True)
    except StorageError as error:
        raise StorageError(
            "records-unwritten",
            f"the records of steps {span[0]} to {span[1]} cannot be written: {error.found}",
            where=str(path),
            kept="the saves, and the records of the steps before",
            next="make room and run the same command again",
        ) from error
    return path.name


def _path(folder: Path, span: tuple[int, int]) -> Path:
    return folder / f"steps-{span[0]:09d}-{span[1]:09d}.records"


def _damaged(path: Path, error: Exception) -> IntegrityError:
    return IntegrityError(
        "records-damaged",
        f"{path.name} cannot be read: {str(error).splitlines()[0]}",
        where=str(path),
        kept="the saves and all other files; nothing was changed",
        next=f"remove {path} to go on without the records of its steps, or run again from the start",
    )
