"""Whether every row of a dataset has a key of its own, over all shards, in a fixed amount of memory.

Workers hash the key columns of what they write, eight bytes a row, and sort the hashes of a shard. Here these sorted
runs are merged, a range of hashes at a time; more than a few million of them wait in a temporary file. Equal hashes are
only a suspicion: the rows behind them are read again and their keys compared themselves.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.seeded import GOLDEN_GAMMA, mixed
from schemas import Schema
from schemas.errors import printable
from schemas.manifest import File
from schemas.shards import open_shard
from schemas.store.storage import guarded

Hashes = npt.NDArray[np.uint64]

IN_MEMORY = 1 << 22
"""Hashes (32 MB) that are held, and compared at a time."""

_SUSPECTS = 4096
_GATHERED = 1 << 22
_NULL = np.uint64(0xA5A5A5A5A5A5A5A5)


def hashes(rows: pa.Table, key: Sequence[str]) -> Hashes:
    """A 64-bit hash of the columns `key` for every row; equal for equal keys, in whatever process."""
    state: Hashes = np.zeros(rows.num_rows, np.uint64)
    for name in key:
        state = mixed(GOLDEN_GAMMA + (state ^ _column(rows[name].combine_chunks())))
    return state


class Runs:
    """Sorted hashes, one run a shard."""

    def __init__(self) -> None:
        self._runs: list[Hashes] = []
        self._in_memory = 0

    def add(self, run: Hashes) -> None:
        """Take the sorted hashes of one more shard."""
        self._runs.append(run)
        self._in_memory += len(run)
        if self._in_memory > IN_MEMORY:
            self._spill()

    def suspects(self) -> Hashes:
        """Hashes that occur more than once, the smallest few thousand of them."""
        total = sum(map(len, self._runs))
        parts = total // IN_MEMORY + 1
        edges = [round(part * 2.0**64 / parts) for part in range(1, parts)]
        repeats: list[Hashes] = []
        starts = [0] * len(self._runs)
        for edge in [*edges, None]:
            ends = [len(run) if edge is None else int(np.searchsorted(run, np.uint64(edge))) for run in self._runs]
            slices = [run[start:end] for run, start, end in zip(self._runs, starts, ends, strict=True)]
            here = np.sort(np.concatenate(slices)) if slices else np.empty(0, np.uint64)
            repeats.append(np.unique(here[1:][here[1:] == here[:-1]]))
            starts = ends
            if sum(map(len, repeats)) > _SUSPECTS:
                break
        return np.concatenate(repeats)[:_SUSPECTS]

    def _spill(self) -> None:
        """Move what is held to a temporary file that nobody else sees; the runs stay what they were, mapped."""
        with guarded("write", tempfile.gettempdir()), tempfile.TemporaryFile() as file:
            for number, run in enumerate(self._runs):
                if len(run) and not isinstance(run, np.memmap):
                    start = file.tell()
                    file.write(run.tobytes())
                    file.flush()
                    self._runs[number] = np.memmap(file, np.uint64, "r", start, run.shape)
        self._in_memory = 0


def repeated(folder: str, files: Sequence[File], schema: Schema, suspects: Hashes) -> list[str]:
    """What to say of every key that really stands in several rows of the shards `files` below `folder`: the key, and
    its first two places.
    """
    places: dict[tuple[object, ...], list[str]] = {}
    for number, file in enumerate(files):
        with open_shard(folder, file, schema, "size") as parquet:
            start = 0
            for group in range(parquet.num_row_groups):
                rows = parquet.read_row_group(group, columns=list(schema.key))
                for at in np.flatnonzero(np.isin(hashes(rows, schema.key), suspects)).tolist():
                    key = tuple(repr(rows[name][at].as_py()) for name in schema.key)
                    places.setdefault(key, []).append(f"part {number} row {start + at}")
                start += rows.num_rows
    named = {", ".join(map(str, key)): at for key, at in places.items() if len(at) > 1}
    return [f"{printable(key)} in {at[0]} and {at[1]}" for key, at in named.items()]


def _column(values: pa.Array) -> Hashes:
    kind = values.type
    if pa.types.is_floating(kind):
        floats: npt.NDArray[np.float64] = _filled(values.cast(pa.float64()), 0.0).astype(np.float64)
        state: Hashes = mixed(GOLDEN_GAMMA + (floats + 0.0).view(np.uint64))
    elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        plain = values.cast(pa.int8()) if pa.types.is_boolean(kind) else values
        state = mixed(GOLDEN_GAMMA + _filled(plain, 0).astype(np.uint64))
    else:
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        state = _texts(values if text else pa.array(map(repr, values.to_pylist()), pa.string()))
    return np.where(np.asarray(values.is_null()), _NULL, state) if values.null_count else state


def _filled(values: pa.Array, value: float) -> npt.NDArray[np.generic]:
    return np.asarray(pc.fill_null(values, value) if values.null_count else values)


def _texts(values: pa.Array) -> Hashes:
    """Texts of one length at a time, eight bytes a step."""
    values = values.cast(pa.large_string())
    state: Hashes = np.zeros(len(values), np.uint64)
    if not len(values):
        return state
    _, places, text = values.buffers()
    ends = np.frombuffer(places, np.int64, len(values) + 1, 8 * values.offset)
    data = np.frombuffer(text or b"", np.uint8)
    lengths = np.diff(ends)
    for length in np.unique(lengths).tolist():
        chosen = np.flatnonzero(lengths == length)
        step = max(1, _GATHERED // max(1, length))
        for some in np.split(chosen, range(step, len(chosen), step)):
            state[some] = _same_length(data, ends[some], length)
    return state


def _same_length(data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], length: int) -> Hashes:
    words = np.zeros((len(starts), -(-length // 8) * 8), np.uint8)
    if len(starts) and np.all(np.diff(starts) == length):
        words[:, :length] = data[starts[0] : starts[0] + length * len(starts)].reshape(len(starts), length)
    else:
        words[:, :length] = data[starts[:, None] + np.arange(length)]
    state: Hashes = np.full(len(starts), length + 1, np.uint64)
    for column in words.view(np.uint64).T:
        state = mixed(GOLDEN_GAMMA + (state ^ column))
    return state
