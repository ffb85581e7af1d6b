"""What a person sees of a dataset: a few lines of text, a small HTML table, an indented tree of its ancestors.

Whatever comes from a manifest or from rows is outside data: control characters are escaped, and HTML besides.
"""

from __future__ import annotations

import html as markup
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from schemas.errors import QuiverError, counted, printable
from schemas.installed import as_run
from schemas.manifest import Manifest, Parent
from schemas.schema import Schema
from schemas.stats import std
from schemas.store import commit
from schemas.store.storage import shown

_WIDTH = 100
_COLUMN_LINES = 4
_ROWS_SHOWN = 5
_CELL = 120
_NUMBERS = {"count", "mean", "m2"}
_HUGE = 1e300
_DEEPEST, _INPUTS, _LINES = 30, 50, 200
"""Of a tree of ancestors: generations, inputs of one dataset, lines after which no more inputs are named."""


def text(url: str, manifest: Manifest, schema: Schema, width: int = _WIDTH) -> str:
    """At most ten lines of `width` characters of what the manifest says; no file is read, so a dataset that is gone has
    them too. `schema` is that of its rows as they are read.
    """
    return "\n".join([f"Dataset {shown(url)}", *(f"  {line}" for line in _facts(manifest, schema, width - 2))])


def html(facts: str, first: Callable[[int], pa.Table]) -> str:
    """Lines of `text`, and the `first` rows as a table; where they cannot be read, the error's lines instead."""
    head = f"<pre>{markup.escape(facts)}</pre>"
    try:
        rows = first(_ROWS_SHOWN)
    except QuiverError as error:
        return f"<div>{head}<pre>{markup.escape(error.render())}</pre></div>"
    names = "".join(f"<th>{_cell(name)}</th>" for name in rows.column_names)
    lines = (
        "".join(f"<td>{_cell('' if value is None else value)}</td>" for value in row.values())
        for row in rows.to_pylist()
    )
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<div>{head}<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>"


def lineage(url: str, manifest: Manifest) -> str:
    """An indented text of a dataset and its ancestors, with sizes, as far as they can be read. Where there are too many
    for a screen, a line says what is left out and how it is seen.
    """
    lines: list[str] = []
    _trace(url, manifest, lines, set())
    return "\n".join(lines)


def _facts(manifest: Manifest, schema: Schema, width: int) -> Iterator[str]:
    shards, key = counted(len(manifest.files), "shard"), f", key {shown(', '.join(schema.key))}" if schema.key else ""
    kind = f"{rows_of(manifest.num_rows, schema.name)} v{schema.version}"
    yield f"{kind}, {shards}, {human_bytes(manifest.num_bytes)}{key}"
    rejected = sum(file.rows for file in manifest.rejected)
    if rejected:
        reasons = ", ".join(
            f"{shown(name)} {shown(count)}" for name, count in _object(manifest.stats, "rejected").items()
        )
        predicate = _object(manifest.op, "params").get("predicate")
        against = f" (of {printable(predicate)})" if isinstance(predicate, str) else ""
        yield _cut(f"{rejected:,} rejected: {reasons}{against}", width)
    if manifest.op:
        inputs = ", ".join(_input(parent) for parent in manifest.parents)
        yield _cut(f"made by {shown(manifest.op.get('name', ''))}{f' of {inputs}' if inputs else ''}", width)
        if settings := ", ".join(_settings(_object(manifest.op, "params"))):
            yield _cut(f"with {settings}", width)
    columns = ", ".join(f"{shown(column.name)}: {_kind(column.type)}" for column in schema.columns)
    yield from textwrap.wrap(f"columns {columns}", width, max_lines=_COLUMN_LINES, placeholder=" ...")
    means = [
        f"{shown(column.name)} {figures['mean']:.4g} ± {std(figures):.2g}"
        for column in schema.columns
        if (figures := _numbers(manifest.stats, column.name)).keys() >= _NUMBERS and column.name not in schema.key
    ]
    if means:
        yield _cut("mean ± deviation " + ", ".join(means), width)


def rows_of(count: int, kind: str) -> str:
    """`271 rows of prompts`; rows that have no name of their own are rows."""
    return counted(count, "row") + ("" if kind == "rows" else f" of {shown(kind)}")


def _input(parent: Parent) -> str:
    """What a parent is called: an input by the last part of its place, a resource by its role too."""
    place = shown(parent.url.rstrip("/").rpartition("/")[2])
    return place if parent.name.isdecimal() else f"{place} ({shown(parent.name)})"


def _settings(params: Mapping[str, Any]) -> Iterator[str]:
    """The settings of an operation that say something, one value each."""
    for name, value in params.items():
        if isinstance(value, str | int | float) and value is not False and value != "":
            yield f"{shown(name)} {printable(value)}"


def _object(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object inside a manifest; an empty one where it is something else."""
    value = values.get(name)
    return value if isinstance(value, Mapping) else {}


def _numbers(stats: Mapping[str, Any], column: str) -> dict[str, float]:
    """The finite moments of a column."""
    figures = _object(_object(stats, "columns"), column)
    return {name: value for name, value in figures.items() if isinstance(value, int | float) and abs(value) < _HUGE}


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list[{_kind(kind.value_type)}]"
    return "struct" if pa.types.is_struct(kind) else printable(kind, 24)


def _cut(line: str, width: int) -> str:
    return textwrap.shorten(line, width, placeholder=" ...")


def _cell(value: Any) -> str:
    return markup.escape(printable(value, _CELL))


def _trace(url: str, manifest: Manifest, lines: list[str], seen: set[str], *, depth: int = 0, name: str = "") -> None:
    op = manifest.op.get("name", manifest.kind)
    rows, files = counted(manifest.num_rows, "row"), counted(len(manifest.files), "file")
    size = f"{rows}, {files}, {human_bytes(manifest.num_bytes)}"
    rejected = sum(file.rows for file in manifest.rejected)
    rejects = f", {rejected} rejected" if rejected else ""
    label = f"{name}: " if name and not name.isdecimal() else ""
    indent, below = "  " * depth, "  " * (depth + 1)
    lines.append(f"{indent}{label}{shown(op)}  {size}{rejects}  [{manifest.content_digest[:12]}]  {shown(url)}")
    if manifest.content_digest in seen or not manifest.parents:
        return
    seen.add(manifest.content_digest)
    if depth == _DEEPEST:
        lines.append(f"{below}... what that was made of: {as_run(f'quiver show {shown(url)}')}")
        return
    for number, parent in enumerate(manifest.parents):
        if number == _INPUTS or len(lines) >= _LINES:
            left = len(manifest.parents) - number
            lines.append(f"{below}... {counted(left, 'more input')}: {as_run(f'quiver show {shown(url)}')}")
            return
        known = reachable(url, parent)
        if isinstance(known, Manifest):
            _trace(parent.url, known, lines, seen, depth=depth + 1, name=shown(parent.name))
        else:
            lines.append(f"{below}{shown(parent.name)}: {known}  [{parent.content_digest[:12]}]  {shown(parent.url)}")


def reachable(url: str, parent: Parent) -> Manifest | str:
    """The parent's manifest if it is in the same kind of place and still the one that was used."""
    if url.partition("://")[1:2] != parent.url.partition("://")[1:2] or len(parent.url) > 4096:
        return "(in another store, not followed)"
    try:
        manifest = commit.read_manifest(parent.url)
    except (QuiverError, OSError):
        return "(cannot be read)"
    if manifest is None:
        return "(gone)"
    return manifest if manifest.content_digest == parent.content_digest else "(replaced since)"


def human_bytes(size: int) -> str:
    """A size in the unit that a person would take: `1.2 MB`."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
