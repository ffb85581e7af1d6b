"""The six shapes at work: how each turns rows into a `Result`, with its input checked and its failures named.

An operation that raises is blamed with its name, the fault and the first row it cannot do. Faults that are
reported already (`QuiverError`) and those of the machine (memory, interrupts) pass as they are.
"""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from datakit.columns.rejections import rejected_rows
from datakit.op import (
    Blend,
    Context,
    Expand,
    FilterDecision,
    Gather,
    GatherAll,
    Keep,
    Label,
    LabelResult,
    Op,
    Read,
    Result,
)
from schemas import Schema, with_columns
from schemas.dataset import Dataset
from schemas.errors import DataError, QuiverError, printable

_OURS = Path(__file__).parents[2]
_NOT_THEIRS = (
    *(f"{_OURS / package}/" for package in ("schemas", "datakit", "trainers", "pipelines")),
    *(f"{sysconfig.get_paths()[kind]}/" for kind in ("stdlib", "purelib", "platlib")),
)


def result_of(op: Op, rows: pa.Table, ctx: Context, where: str) -> Result:
    """What a Label, Keep, Expand or Gather makes of `rows`; `DataError` for bad rows and a raising op."""
    rows = _checked(op.takes, rows, where)
    try:
        return _apply(op, rows, ctx)
    except (QuiverError, MemoryError):
        raise
    except Exception as fault:
        first = 0 if op.paid else _first_failing(lambda some: _apply(op, some, ctx), rows)
        raise failed(op, fault, f"row {row_name(rows, first)}", where) from fault


def results_of(op: Op, inputs: Sequence[Dataset], ctx: Context) -> Iterator[Result]:
    """What a stream (Read, GatherAll or Blend) yields; `DataError` for an op that raises."""
    rows, last = 0, ""
    results: Iterator[Result] | None = None
    while True:
        try:
            results = _results(op, inputs, ctx) if results is None else results
            result = next(results, None)
        except (QuiverError, MemoryError):
            raise
        except Exception as fault:
            after = f"after {rows} rows, the last {last}" if rows else "before the first row"
            raise failed(op, fault, after, ", ".join(given.url for given in inputs)) from fault
        if result is None:
            return
        if result.rows.num_rows:
            rows, last = rows + result.rows.num_rows, row_name(result.rows, result.rows.num_rows - 1)
        yield result


def failed(op: Op, fault: BaseException, row: str, where: str) -> DataError:
    """The error that blames `op` for raising `fault`."""
    frame = _blamed(fault)
    place = f" (line {frame.lineno} of {frame.filename})" if frame else ""
    return DataError(
        "op-failed",
        f"{row} in {op.name}: {type(fault).__name__}: {printable(fault, 200)}",
        found=f"{type(fault).__name__}{place}",
        where=where,
        kept=kept_by(op),
        next=f"mend {'that line' if frame else op.name}, or look at that row; then run the same command again",
    )


def _blamed(fault: BaseException) -> traceback.FrameSummary | None:
    """Where the fault was made: the last line that is neither ours nor a library's, as in a user's function; else the
    last of all.
    """
    frames = traceback.extract_tb(fault.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith(("<", *_NOT_THEIRS))]
    return next(reversed(theirs or frames), None)


def kept_by(op: Op) -> str:
    """What survives a failure of `op`."""
    chunks = "finished chunks, which the next run uses; " if op.paid else ""
    return f"{chunks}nothing of this output is visible"


def row_name(rows: pa.Table, row: int) -> str:
    """What to call a row: where a reader found it, else its first text (`prompt_id=...`), else its number."""
    if "place" in rows.column_names and rows["place"][row].is_valid:
        return printable(rows["place"][row].as_py())
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            return f"{name}={printable(column[row].as_py())}"
    return str(row)


def _checked(takes: Schema, rows: pa.Table, where: str) -> pa.Table:
    if not takes.columns:
        return rows
    taken = takes.check(rows.select(takes.names), where)
    retyped = {name: taken[name] for name in takes.names if rows[name].type != taken[name].type}
    return with_columns(rows, retyped) if retyped else rows


def _apply(op: Op, rows: pa.Table, ctx: Context) -> Result:
    if isinstance(op, Label):
        result = _labelled(op, rows, op.label(rows, ctx))
        return replace(result, counts=op.counts(result.rows, ctx))
    if isinstance(op, Keep):
        kept = op.keep(rows, ctx)
        _whole(op, kept, rows)
        return Result(rows.filter(kept.keep), rejected_rows(rows, kept), kept.counts)
    if isinstance(op, Expand):
        return op.expand(rows, ctx)
    assert isinstance(op, Gather), f"{op.name} has no shape that works on rows: {type(op).__mro__}"
    return op.gather(rows, ctx)


def _labelled(op: Label, rows: pa.Table, labels: Mapping[str, pa.Array | pa.ChunkedArray] | LabelResult) -> Result:
    columns, kept = (labels.columns, labels.kept) if isinstance(labels, LabelResult) else (labels, None)
    declared = {column.name for column in op.adds}
    if set(columns) != declared:
        raise ValueError(f"columns {sorted(columns)} came, {sorted(declared)} are declared")
    for name, values in columns.items():
        if len(values) != rows.num_rows:
            raise ValueError(f"{name} has {len(values)} values for {rows.num_rows} rows")
    out = with_columns(rows, columns)
    if kept is None:
        return Result(out)
    _whole(op, kept, rows)
    return Result(out.filter(kept.keep), rejected_rows(rows, kept))


def _whole(op: Op, kept: FilterDecision, rows: pa.Table) -> None:
    if len(kept.keep) != rows.num_rows or kept.keep.null_count:
        raise ValueError(f"{len(kept.keep)} decisions, {kept.keep.null_count} of them null, for {rows.num_rows} rows")


def _results(op: Op, inputs: Sequence[Dataset], ctx: Context) -> Iterator[Result]:
    if isinstance(op, Read):
        return iter(op.read(ctx))
    if isinstance(op, GatherAll):
        return iter(op.gather_all(inputs[0], ctx))
    assert isinstance(op, Blend), f"{op.name} has no shape that streams: {type(op).__mro__}"
    return iter(op.blend(inputs, ctx))


def _first_failing(call: Callable[[pa.Table], object], rows: pa.Table) -> int:
    """The row at which the shortest failing head of `rows` ends; 0 where no head fails on its own."""

    def fails(count: int) -> bool:
        try:
            call(rows.slice(0, count))
        except Exception:
            return True
        return False

    good, bad = 0, rows.num_rows
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (good, middle) if fails(middle) else (middle, bad)
    return max(0, bad - 1)
