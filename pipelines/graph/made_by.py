"""The command that makes a column which rows lack, or that says which file does: read off what operations add and which
rows formats become.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from datakit.formats.forms import FORMS
from datakit.label import Logprobs
from datakit.op import Op, Precision
from datakit.registry import OPS
from datakit.tokenize import Sequences
from pipelines.graph.backend import roles_of
from schemas import Schema
from schemas.errors import ConfigError
from schemas.settings import apart_from_defaults
from trainers.algorithm import Algorithm
from trainers.registry import algorithms


@dataclass(frozen=True, kw_only=True)
class Known:
    """Places that a command is given where they are known: the tokenizer that its rows are to speak, and the model that
    the rows of a training are held against, which computes in the `precision` of that training.
    """

    tokenizer: str = ""
    reference: str = ""
    precision: Precision = "fp32"


UNKNOWN = Known()


@dataclass(frozen=True, kw_only=True)
class Maker:
    """An operation with the settings `params`, the columns that its rows must hold and those that it adds; without an
    operation, the format of a file.
    """

    takes: frozenset[str]
    adds: frozenset[str]
    op: Op | None = None
    params: Mapping[str, Any] = field(default_factory=dict, hash=False)
    form: str = ""

    def command(self, known: Known = UNKNOWN) -> str:
        """The command and its flags, `CHECKPOINT` for a model that is not `known`; the page about a format."""
        if self.op is None:
            return f"quiver formats {self.form}"
        op, params = self.op, dict(self.params)
        if op.of_reference and known.precision != op.precision:
            params["precision"] = known.precision
        family, name = op.name.split(".")
        words = ["luigi --module pipelines", family.capitalize(), "--op", name]
        words += ["--tokenizer", shlex.quote(known.tokenizer or _OPEN)] if "tokenizer" in op.needs else []
        model = known.reference if op.of_reference else ""
        words += ["--model", shlex.quote(model or _OPEN)] if roles_of(op) else []
        return " ".join([*words, *(["--params", shlex.quote(json.dumps(params))] if params else [])])


_OPEN = "CHECKPOINT"
"""What stands for a model that only the user knows."""


@functools.cache
def makers() -> Sequence[Maker]:
    """Every operation that adds columns to rows, by the settings it names (`Op.makes`) and those that algorithms ask
    for, then every format.
    """
    settings = [(kind, params) for kind in OPS.values() for params in kind.makes if _needed(kind) <= params.keys()]
    settings += [one for algorithm in algorithms().values() for one in _declared(algorithm)]
    labels: dict[str, Maker] = {}
    for kind, params in settings:
        op = kind.of(params)
        adds = frozenset(op.gives(op.takes).names) - {*op.takes.names}
        maker = Maker(takes=frozenset(op.takes.names), adds=adds, op=op, params=params)
        labels[maker.command()] = maker
    forms = FORMS.values()
    return [
        *labels.values(),
        *(Maker(form=form.name, takes=frozenset(), adds=frozenset(form.schema.names)) for form in forms),
    ]


def _needed(kind: type[Op]) -> set[str]:
    """Settings without a default: an operation that has them is no answer to what is missing, unless it names them."""
    missing = dataclasses.MISSING
    return {one.name for one in dataclasses.fields(kind) if one.default is one.default_factory is missing}


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


def over_rows(missing: Collection[str], rows: Schema, data: str, known: Known = UNKNOWN) -> str:
    """What to run over the rows that the flags `data` name so that they come closer to holding `missing`; empty where
    nothing does.

    Of the commands that add some of it: one that can run at once before one that cannot, then the one that adds most.
    Where none can run, the one that makes what the best of them lacks.
    """
    made = _closer([maker for maker in makers() if maker.op is not None], missing, rows)
    return "" if made is None else f"{made.command(known)} {data}"


def in_format(missing: Collection[str], rows: Schema, needed: Collection[str] = ()) -> str:
    """The page about the format of a file whose rows hold `missing`, or get there by operations, and what is `needed`
    of the columns of `rows`, too; empty where there is none.
    """
    there = {*needed} & {*rows.names}
    known = [maker for maker in makers() if maker.op or not (maker.adds & {*missing} and there - maker.adds)]
    made = _closer(known, missing, rows)
    return "" if made is None or made.op is not None else made.command()


def unsure(needed: Schema, rows: Schema) -> tuple[str, ...]:
    """Columns of `needed` that may be null in rows of the schema `rows`, and may not in those that are needed."""
    return tuple(one.name for one in needed.columns if one.name in rows and rows[one.name].nullable > one.nullable)


def without_nulls(needed: Schema, rows: Schema, data: str) -> str:
    """What to run over the rows that the flags `data` name so that no column of `needed` may be null; empty where none
    is.
    """
    columns = unsure(needed, rows)
    params = shlex.quote(json.dumps({"columns": columns}))
    return f"luigi --module pipelines Filter --op not_null --params {params} {data}" if columns else ""


def in_other_settings(op: Op, rows: Schema) -> str:
    """The flag with settings of `op` under which it reads `rows`, which lack what its own ask for; empty for none."""
    given = apart_from_defaults(type(op), op.params())
    for params in type(op).makes:
        settings = {**given, **params}
        with suppress(ConfigError):
            if settings != given and {*type(op).of(settings).takes.names} <= {*rows.names}:
                return f"--params {shlex.quote(json.dumps(settings))}"
    return ""


def _closer(known: Sequence[Maker], missing: Collection[str], rows: Schema) -> Maker | None:
    """One of `known` that `rows` suffice for; a way that ends where nothing helps is left for the next best."""
    tried: set[str] = set()
    lacking = {*missing}
    while True:
        useful = _most([maker for maker in known if maker.adds & lacking and maker.command() not in tried], lacking)
        if not useful and lacking == {*missing}:
            return None
        if not useful:
            lacking = {*missing}
            continue
        lacks = {maker.command(): maker.takes - {*rows.names} for maker in useful}
        best = min(useful, key=lambda maker: (len(lacks[maker.command()]), -len(maker.adds & lacking)))
        if not lacks[best.command()]:
            return best
        tried.add(best.command())
        lacking = {*lacks[best.command()]}


def _most(useful: Sequence[Maker], lacking: Collection[str]) -> list[Maker]:
    """Of `useful`, what no other run of the same operation adds with more of `lacking`: a model is asked once."""
    adds = {maker.command(): maker.adds & {*lacking} for maker in useful}
    return [
        one
        for one in useful
        if not any(type(one.op) is type(other.op) and adds[one.command()] < adds[other.command()] for other in useful)
        or one.op is None
    ]
