"""The command that makes a column which rows lack, read off what operations add and which rows formats become."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from datakit.formats.forms import FORMS
from datakit.label import Logprobs
from datakit.op import Op
from datakit.registry import OPS
from datakit.tokenize import Sequences
from pipelines.graph.backend import roles_of
from schemas import Schema
from schemas.errors import ConfigError
from trainers.algorithm import Algorithm
from trainers.registry import algorithms


@dataclass(frozen=True, kw_only=True)
class Maker:
    """A command, the columns that its rows must hold and those that it adds; the operation that it runs over rows."""

    command: str
    takes: frozenset[str]
    adds: frozenset[str]
    op: Op | None = None


@functools.cache
def makers() -> Sequence[Maker]:
    """Every operation that adds columns to rows, by the settings it names (`Op.makes`) and those that algorithms ask
    for, then every import.
    """
    settings = [(kind, params) for kind in OPS.values() for params in kind.makes]
    settings += [one for algorithm in algorithms().values() for one in _declared(algorithm)]
    labels: dict[str, Maker] = {}
    for kind, params in settings:
        op = kind.of(params)
        family, name = op.name.split(".")
        words = [family.capitalize(), "--op", name]
        words += ["--tokenizer", "CHECKPOINT"] if "tokenizer" in op.needs else []
        words += ["--model", "CHECKPOINT"] if roles_of(op) else []
        words += ["--params", f"'{json.dumps(params)}'"] if params else []
        adds, command = frozenset(op.gives(op.takes).names) - {*op.takes.names}, " ".join(words)
        labels[command] = Maker(command=command, takes=frozenset(op.takes.names), adds=adds, op=op)
    imports = (
        Maker(command=f"Import --files FILE --format {form.name}", takes=frozenset(), adds=frozenset(form.schema.names))
        for form in FORMS.values()
    )
    return [*labels.values(), *imports]


def logprobs_of(algorithm: Algorithm) -> Logprobs:
    """The question whose answers are what `algorithm` reads of a reference about each of its sequences; where it reads
    none, under names of their own.
    """
    columns = ((one.ids, one.mask or "", one.reference or f"logprob_{one.ids}") for one in algorithm.sequences)
    return Logprobs(columns=tuple(columns), per="row")


def _declared(algorithm: Algorithm) -> Iterator[tuple[type[Op], dict[str, Any]]]:
    """Operations with settings under which they make columns that `algorithm` reads: tokens of texts beside an answer,
    what a reference gives.
    """
    texts = (sequence.text for sequence in algorithm.sequences[1:])
    names = [name for name in texts if name not in Sequences().names]
    if names:
        yield Sequences, {"names": names}
    if algorithm.references:
        yield Logprobs, {"per": "row", "columns": [[*each] for each in logprobs_of(algorithm).columns]}


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
        useful = _most([maker for maker in known if maker.adds & lacking and maker.command not in tried], lacking)
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


def _most(useful: Sequence[Maker], lacking: Collection[str]) -> list[Maker]:
    """Of `useful`, what no other run of the same operation adds with more of `lacking`: a model is asked once."""
    adds = {maker.command: maker.adds & {*lacking} for maker in useful}
    return [
        one
        for one in useful
        if not any(type(one.op) is type(other.op) and adds[one.command] < adds[other.command] for other in useful)
        or one.op is None
    ]
