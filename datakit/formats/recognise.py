"""Which format a file is in, by its first rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from datakit.formats.columnar import Columnar
from datakit.formats.forms import FORMS
from datakit.formats.layouts import reader_of
from datakit.formats.leftover import LEFT_OUT
from datakit.op import Context, Read
from datakit.registry import op_of
from schemas.errors import DataError, QuiverError


def names_left(read: Read) -> int | None:
    """How many names a reader leaves out of its first rows; None where it makes no row of them."""
    try:
        first = next(iter(read.read(Context())), None)
    except DataError:
        return None
    if first is None:
        return 0
    return sum(name.startswith(LEFT_OUT) for name in first.counts) if first.rows.num_rows else None


def fitting(place: str, forms: Iterable[str] = FORMS) -> list[str]:
    """Those of `forms` that make rows of the beginning of the file `place`, those that leave the fewest names unread
    first; empty for a file that no reader takes.

    The names of a file's columns are read once: formats that need others do not open it.
    """
    left: dict[str, int] = {}
    there: list[str] | None = None
    try:
        reader, given = reader_of((place,))
    except QuiverError:
        return []
    given["files"] = [place]
    for form in forms:
        try:
            pinned: Any = op_of(reader, {**given, "format": form}).pinned()
            given["digests"] = list(pinned.digests)
            if isinstance(pinned, Columnar):
                there = columns_of(pinned) if there is None else there
                if there and pinned.lacks(there):
                    continue
            unread = names_left(pinned)
        except QuiverError:
            continue
        if unread is not None:
            left[form] = unread
    return sorted(left, key=lambda form: left[form])


def columns_of(read: Columnar) -> list[str]:
    """Names of the columns of a reader's first file; none where its beginning cannot be read."""
    try:
        first = next(iter(read.batches(read.files[0], read.digests[0], (), ())), None)
    except DataError:
        return []
    return [] if first is None else [*first.table.column_names, *first.others]


def refusal(read: Read) -> tuple[str, str]:
    """Why a reader makes no row of the beginning of its files, and the flag that would have it do so; both empty where
    that is not known.
    """
    try:
        first = next((one for one in read.read(Context()) if one.rows.num_rows or one.rejected is not None), None)
    except DataError as error:
        return error.found or error.what, error.next
    if first is None or first.rejected is None or not first.rejected.num_rows:
        return "", ""
    row = first.rejected.slice(0, 1).to_pylist()[0]
    reason, detail = row["reason"] or "", row["threshold"] or ""
    place = "" if row["byte"] is None else f" in {row['place']}"
    return (f"{reason} ({detail})" if detail else reason) + place, read.advice(reason, detail)
