"""How rows come to hold a column that no operation makes: the flag that reads it from their file, or what each row of
that file needs.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from datakit.formats.advice import alike
from datakit.formats.forms import FORMS
from datakit.formats.leftover import LEFT_OUT
from datakit.formats.reader import FormatReader
from datakit.op import Context, Op
from datakit.registry import OPS
from pipelines.graph.node import Node, rows_of
from schemas import Schema
from schemas.errors import QuiverError, printable
from schemas.manifest import Manifest
from schemas.schema import same_type
from schemas.settings import apart_from_defaults
from schemas.store.storage import shown


@dataclass(frozen=True)
class Lack:
    """Columns that `rows` lack: their names, what else is `needed` of them, and the operation that reads them."""

    names: Sequence[str]
    rows: Node
    needed: Schema | None = None
    op: Op | None = None


def there(lack: Lack) -> str:
    """The flags with which the file that `lack.rows` are read from gives what they lack; empty where it has no such
    keys, or where the rows come of no file.
    """
    read = reader_of_rows(lack.rows)
    if read is None:
        return ""
    kept = first_of(read)[1]
    form = _format(lack, read)
    if form or not {*lack.names} <= kept:
        return form or _renamed(lack, read, kept)
    return f"--keep {_listed([*read.keep, *lack.names])}" if _fits(lack, read, lack.names) else ""


def needs(lack: Lack) -> str:
    """What each row of the file needs, in words; empty where the rows come of no file."""
    names, listed = _listed(lack.names), printable(" and ".join(lack.names), 200)
    read = reader_of_rows(lack.rows)
    if read is not None:
        files = printable(", ".join(shown(file) for file in read.files), 200)
        if {*lack.names} <= first_of(read)[1]:
            return f"write {listed} in each row of {files} as {_types(lack)}, then --keep {names}"
        return f"give each row of {files} the key {listed}, then --keep {names}"
    manifest = lack.rows.manifest()
    kind = None if manifest is None else OPS.get(str(manifest.op.get("name")))
    if manifest is None or kind is None or not issubclass(kind, FormatReader):
        return ""
    return _again(manifest, lack.names)


def _again(manifest: Manifest, missing: Sequence[str]) -> str:
    """The import that `manifest` is of, once more with a key that it left out, or what its file needs for that."""
    params: Any = manifest.op["params"]
    files, names = [str(name) for name in params.get("names") or ()], _listed([*params.get("keep", ()), *missing])
    counts = manifest.stats.get("counts", {})
    if not all(LEFT_OUT + name in counts for name in missing):
        listed, place = printable(" and ".join(missing), 200), printable(", ".join(files) or "their file", 200)
        return f"give each row of {place} the key {listed}, and import it again with --keep {names}"
    if not files or not all(map(os.path.isfile, files)):
        return f"import {printable(', '.join(files) or 'their file', 200)} again, with --keep {names}"
    words = ["--files", ",".join(files), "--format", str(params["format"]), "--keep"]
    return f"luigi --module pipelines Import {shlex.join(words)} {names}"


def reader_of_rows(rows: Node) -> FormatReader | None:
    """What reads `rows` from files; None for rows that come of none."""
    read = getattr(rows, "op", None)
    return read if isinstance(read, FormatReader) and read.files else None


def first_of(read: FormatReader) -> tuple[pa.Table | None, set[str]]:
    """The first rows that `read` makes, and the names that it leaves out of them; none where it makes none."""
    with suppress(QuiverError):
        first = next(iter(read.read(Context())), None)
        if first is not None and first.rows.num_rows:
            return first.rows, {name.removeprefix(LEFT_OUT) for name in first.counts if name.startswith(LEFT_OUT)}
    return None, set()


def _renamed(lack: Lack, read: FormatReader, kept: set[str]) -> str:
    """The flags that have the operation read a key of another name, where one of its settings says which it reads."""
    if lack.op is None or len(lack.names) != 1:
        return ""
    other = alike(lack.names[0], sorted(kept))
    params = _reading(lack.op, lack.names[0], other)
    if params is None or not _fits(lack, read, [other]):
        return ""
    return f"--keep {_listed([*read.keep, other])} {_flag_of(params)}"


def misspelt(lack: Lack) -> str:
    """The flag that has the operation read a column of nearly that name which the rows have; empty where they have
    none, or none of the type that it reads.
    """
    rows = rows_of(lack.rows)
    if lack.op is None or len(lack.names) != 1:
        return ""
    params = _reading(lack.op, lack.names[0], alike(lack.names[0], rows.names))
    with suppress(QuiverError):
        if params is not None:
            rows.requires(type(lack.op).of(params).takes, lack.op.name)
            return _flag_of(params)
    return ""


def _reading(op: Op, name: str, other: str) -> dict[str, Any] | None:
    """The settings of `op` with the column `other` in place of `name`; None where no one setting names that."""
    settings = op.params()
    naming = [setting for setting, value in settings.items() if value == name]
    return {**apart_from_defaults(type(op), settings), naming[0]: other} if other and len(naming) == 1 else None


def _flag_of(params: Mapping[str, Any]) -> str:
    return f"--params {shlex.quote(json.dumps(params))}"


def _format(lack: Lack, read: FormatReader) -> str:
    """Another format in which the file gives what is missing, in each of its first rows, and what is needed besides."""
    needed = {*lack.names} | ({*lack.needed.names} & {*rows_of(lack.rows).names} if lack.needed else set())
    for name, form in FORMS.items():
        if name == read.format or not needed <= {*form.schema.names}:
            continue
        with suppress(QuiverError):
            rows = first_of(replace(read, format=name))[0]
            if rows is not None and not any(rows[column].null_count for column in lack.names):
                return f"--format {name}"
    return ""


def _fits(lack: Lack, read: FormatReader, keys: Sequence[str]) -> bool:
    """Whether the first values of `keys` are of the types that are needed of the missing columns, one each."""
    types = tuple((key, "json") for key in keys)
    with suppress(QuiverError):
        rows = first_of(replace(read, keep=tuple(keys), types=types))[0]
        needed = lack.needed
        if rows is None or needed is None:
            return rows is not None
        needed_types = [needed[name].type for name in lack.names]
        given = [rows[key.replace(".", "_")] for key in keys]
        return all(same_type(_type(texts), kind) for texts, kind in zip(given, needed_types, strict=True))
    return False


def _type(texts: pa.ChunkedArray) -> pa.DataType:
    """The type of values given as JSON texts; null where they have none in common."""
    with suppress(pa.ArrowInvalid, pa.ArrowTypeError, ValueError):
        return pa.array([None if text is None else json.loads(text) for text in texts.to_pylist()]).type
    return pa.null()


def _types(lack: Lack) -> str:
    needed_types: Mapping[str, str] = {} if lack.needed is None else {n: str(lack.needed[n].type) for n in lack.names}
    return " and ".join(needed_types.values()) or "a value"


def _listed(names: Sequence[str]) -> str:
    return shlex.quote(",".join(names))
