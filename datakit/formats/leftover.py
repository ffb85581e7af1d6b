"""What outside files hold besides the keys that a format reads: counted and reported, or typed to be carried along."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from datakit.formats.keys import TEXT, Key
from datakit.formats.lines import Block, Fault
from datakit.formats.parse import Parsed, loaded
from schemas.manifest import Manifest

LEFT_OUT = "left_out."
"""What counts of names that were not read begin with."""


def left_counts(parsed: Parsed) -> dict[str, float]:
    """Counts for a result: how many rows held each name that was not read."""
    return {LEFT_OUT + name: float(count) for name, count in parsed.left.items()}


def left_out(manifest: Manifest) -> tuple[str, ...]:
    """One line about all names that were not read, most rows first; none where everything was."""
    counts = manifest.stats.get("counts", {})
    names = {name.removeprefix(LEFT_OUT): int(count) for name, count in counts.items() if name.startswith(LEFT_OUT)}
    if not names:
        return ()
    ordered = sorted(names, key=lambda name: (-names[name], name))
    listed = ", ".join(f"{name} ({names[name]:,} rows)" for name in ordered)
    plain = next((name for name in ordered if not name.startswith("turns' ")), "")
    hint = f'; to carry one along: --params \'{{"keep": ["{plain}"]}}\'' if plain else ""
    return (f"left out: {listed}{hint}",)


def types_in(paths: Sequence[str], blocks: Iterable[Block]) -> tuple[tuple[str, str], ...]:
    """The type of each path's values over all lines: bool, int64, double, string, or json where a value is nested or
    kinds differ.
    """
    keys = [Key(path, TEXT, mapped=path) for path in paths]
    kinds: list[set[str]] = [set() for _ in keys]
    for block in blocks:
        for number, line in zip(block.numbers.tolist(), block.data.split(b"\n"), strict=False):
            record = loaded(line, number)
            if isinstance(record, Fault) or not isinstance(record[0], dict):
                continue
            for key, types in zip(keys, kinds, strict=True):
                name, value = key.value_in(record[0])
                if name:
                    types.add(_kind(value))
    return tuple((path, _common(types)) for path, types in zip(paths, kinds, strict=True))


def types_of(paths: Sequence[str], tables: Iterable[pa.Table]) -> tuple[tuple[str, str], ...]:
    """As `types_in`, of the rows of tables."""
    keys = [Key(path, TEXT, mapped=path) for path in paths]
    kinds: list[set[str]] = [set() for _ in keys]
    for table in tables:
        for record in table.to_pylist():
            for key, types in zip(keys, kinds, strict=True):
                name, value = key.value_in(record)
                if name:
                    types.add(_kind(value))
    return tuple((path, _common(types)) for path, types in zip(paths, kinds, strict=True))


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64" if -(1 << 63) <= value < 1 << 63 else "json"
    if isinstance(value, float):
        return "double"
    return "string" if isinstance(value, str) else "json"


def _common(kinds: set[str]) -> str:
    if not kinds:
        return "string"
    if kinds == {"int64", "double"}:
        return "double"
    return kinds.pop() if len(kinds) == 1 else "json"
