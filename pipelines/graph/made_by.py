"""The command that makes a column which rows lack, read off what operations add and which rows formats become."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from datakit.formats.forms import FORMS
from datakit.op import Op
from datakit.registry import OPS
from pipelines.graph.backend import roles_of
from schemas import Schema
from schemas.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Maker:
    """A command, the columns that its rows must hold and those that it adds; the operation that it runs over rows."""

    command: str
    takes: frozenset[str]
    adds: frozenset[str]
    op: Op | None = None


@functools.cache
def makers() -> Sequence[Maker]:
    """Every operation that adds columns to rows, by the settings it names (`Op.makes`), then every import."""
    labels = []
    for kind in OPS.values():
        for params in kind.makes:
            op = kind.of(params)
            family, name = op.name.split(".")
            words = [family.capitalize(), "--op", name]
            words += ["--tokenizer", "CHECKPOINT"] if "tokenizer" in op.needs else []
            words += ["--model", "CHECKPOINT"] if roles_of(op) else []
            words += ["--params", f"'{json.dumps(params)}'"] if params else []
            adds = frozenset(op.gives(op.takes).names) - {*op.takes.names}
            labels.append(Maker(command=" ".join(words), takes=frozenset(op.takes.names), adds=adds, op=op))
    imports = (
        Maker(command=f"Import --files FILE --format {form.name}", takes=frozenset(), adds=frozenset(form.schema.names))
        for form in FORMS.values()
    )
    return [*labels, *imports]


def adding(column: str, rows: Schema) -> Op:
    """The operation that needs nothing but `rows` to add `column`; `ConfigError` where there is none."""
    for maker in makers():
        if maker.op is not None and not maker.op.needs and column in maker.adds and maker.takes <= {*rows.names}:
            return maker.op
    raise ConfigError("no-column", f"no operation adds {column} to rows of {rows.name}", kept="nothing was started")


def next_command(missing: Collection[str], rows: Schema, place: str, needed: Collection[str] = ()) -> str:
    """What to run over the rows at `place` so that they come closer to holding `missing`; empty where nothing does.

    Of the commands that add some of it: one that can run at once before one that cannot, then the one that adds most.
    Where none can run, the one that makes what the best of them lacks. Only where no command over these rows comes of
    that, an import of others; it gives what is `needed` of the columns that are there, too.
    """
    operations = [maker for maker in makers() if maker.op is not None]
    made = _closer(operations, missing, rows)
    if made is not None:
        return f"luigi --module pipelines {made.command} --data {place}"
    there = {*needed} & {*rows.names}
    imports = [maker for maker in makers() if maker.op is None and not (maker.adds & {*missing} and there - maker.adds)]
    made = _closer([*operations, *imports], missing, rows)
    return "" if made is None else f"luigi --module pipelines {made.command}"


def unsure(needed: Schema, rows: Schema) -> tuple[str, ...]:
    """Columns of `needed` that may be null in rows of the schema `rows`, and may not in those that are needed."""
    return tuple(one.name for one in needed.columns if one.name in rows and rows[one.name].nullable > one.nullable)


def without_nulls(needed: Schema, rows: Schema, place: str) -> str:
    """What to run over the rows at `place` so that no column of `needed` may be null; empty where none is."""
    columns = unsure(needed, rows)
    params = json.dumps({"columns": columns})
    return f"luigi --module pipelines Filter --op not_null --params '{params}' --data {place}" if columns else ""


def _closer(known: Sequence[Maker], missing: Collection[str], rows: Schema) -> Maker | None:
    """One of `known` that `rows` suffice for; a way that ends where nothing helps is left for the next best."""
    tried: set[str] = set()
    lacking = {*missing}
    while True:
        useful = [maker for maker in known if maker.adds & lacking and maker.command not in tried]
        if not useful and lacking == {*missing}:
            return None
        if not useful:
            lacking = {*missing}
            continue
        lacks = {maker.command: maker.takes - {*rows.names} for maker in useful}
        best = min(useful, key=lambda maker: (len(lacks[maker.command]), -len(maker.adds & lacking)))
        if not lacks[best.command]:
            return best
        tried.add(best.command)
        lacking = {*lacks[best.command]}
