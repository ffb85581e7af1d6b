"""What would be refused of a user's rows minutes from now, found before anything runs: the first rows of every file are
read, written in the chat templates that they will be written in, and held against the verifier of their answers.

The beginning of a file is one block of it; of that, and of rows that are there, a few are templated, each but once for
every template. What is behind them is refused by the stage itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from datakit.blend import Shuffle, Split
from datakit.filter import NotIn, Window
from datakit.formats.reader import FormatReader
from datakit.op import Context, Expand, Keep, Label, Op, Result
from datakit.run.output import check_rejected
from datakit.run.shapes import result_of, results_of
from datakit.templating.ops import WritesText
from datakit.tokenizers.tokenizer import Tokenizer
from pipelines.graph.gold_answers import check_golds
from pipelines.graph.node import Node
from pipelines.graph.nodes import Table
from pipelines.graph.remade import tokenizer_at
from pipelines.graph.resolve import whole
from schemas.canonical import canonical
from schemas.dataset import Dataset
from schemas.errors import QuiverError, check_all
from schemas.store.commit import read_manifest

_ROWS = 64
"""Rows that are written in a template."""

_AS_THEY_ARE = (Split, Shuffle, Window, NotIn)
"""Operations whose rows are rows of their first input: what is refused there is refused behind them, now or later."""


def rehearse(todo: Sequence[Node], flag: Callable[[FormatReader, str], str]) -> None:
    """Do the `rehearsals` of `todo`; faults of other files and templates are beside the first. A stage alone says so
    itself.
    """
    check_all(rehearsals(todo, flag) if len(todo) > 1 else ())


def rehearsals(todo: Sequence[Node], flag: Callable[[FormatReader, str], str]) -> Iterator[Callable[[], None]]:
    """Checks, each a `DataError`, as the stage itself would have it, where one of the stages `todo` rejects the first
    rows of a file, or those that will be templated, and no rejected row is allowed. `flag` makes that of a command of
    what a reader says next.
    """
    known_rows: dict[int, pa.Table | None] = {}
    written: set[tuple[int, str, str]] = set()

    def read(node: Table, op: FormatReader) -> None:
        try:
            _first_rows(node, known_rows)
        except QuiverError as error:
            known_rows[id(node)] = None
            error.next = flag(op, error.next)
            raise

    def write(node: Table) -> None:
        rows = _first_rows(node.inputs[0], known_rows)
        place = tokenizer_at(node.resources["tokenizer"])
        known = (id(rows), canonical(node.op.to_json()), place)
        if rows is not None and rows.num_rows and known not in written:
            written.add(known)
            _write(node, rows, place)

    def judge(node: Table, op: Op) -> None:
        rows, source = _answered(node.inputs[0], known_rows)
        known = (id(rows), canonical(op.to_json()), "")
        if rows is not None and op.gold in rows.column_names and known not in written:
            written.add(known)
            origin = whole(source)
            try:
                check_golds(op, rows, origin, none_readable=origin is not source)
            except QuiverError as error:
                read_by = getattr(origin, "op", None)
                error.next = flag(read_by, error.next) if isinstance(read_by, FormatReader) else error.next
                raise

    for node in todo:
        if isinstance(node, Table) and isinstance(node.op, FormatReader):
            yield functools.partial(read, node, node.op)
        elif isinstance(node, Table) and node.op.gold:
            yield functools.partial(judge, node, node.op)
        elif isinstance(node, Table) and isinstance(node.op, WritesText):
            yield functools.partial(write, node)


def _answered(node: Node, known_rows: dict[int, pa.Table | None]) -> tuple[pa.Table | None, Node]:
    """The first rows that become those of `node` one by one, as far as they are known, and the node that has them."""
    rows = _first_rows(node, known_rows)
    while rows is None and isinstance(node, Table) and isinstance(node.op, Label | Expand):
        node = node.inputs[0]
        rows = _first_rows(node, known_rows)
    return rows, node


def _first_rows(node: Node, known_rows: dict[int, pa.Table | None]) -> pa.Table | None:
    """First rows of `node` as far as they are known before any work; None where they are not."""
    if id(node) not in known_rows:
        known_rows[id(node)] = _read_first_rows(node, known_rows)
    return known_rows[id(node)]


def _read_first_rows(node: Node, known_rows: dict[int, pa.Table | None]) -> pa.Table | None:
    if node.manifest() is not None:
        return Dataset.open(node.url, "off").first(_ROWS)
    if not isinstance(node, Table):
        return None
    op = node.op
    if isinstance(op, FormatReader):
        first = next(iter(results_of(op, (), Context(seed=node.seed))), None)
        return None if first is None else _kept(op, first).slice(0, _ROWS)
    rows = _first_rows(node.inputs[0], known_rows) if isinstance(op, (Keep, *_AS_THEY_ARE)) else None
    if rows is not None and isinstance(op, Keep):
        return result_of(op, rows, Context(seed=node.seed), node.label).rows if _is_plain(op) else None
    return rows


def _is_plain(op: Op) -> bool:
    """Whether it decides over a row by that row alone."""
    return not op.needs and type(op).prepare is Op.prepare


def _write(node: Table, rows: pa.Table, place: str) -> None:
    tokenizer = _tokenizer(place)
    if tokenizer is not None:
        ctx = Context(seed=node.seed, resources={"tokenizer": tokenizer})
        _kept(node.op, result_of(node.op, rows, ctx, node.label))


def _tokenizer(place: str) -> Any:
    """The tokenizer at `place`; None where there is none yet, or one whose files its own stage has to convert."""
    try:
        manifest = read_manifest(place)
        stored = manifest is not None and manifest.kind == "dataset"
        return Tokenizer.of_dataset(Dataset.open(place)) if stored else Tokenizer.of_folder(place)
    except (QuiverError, OSError):
        return None


def _kept(op: Op, result: Result) -> pa.Table:
    """The rows of `result`, none of which `op` may have rejected."""
    if result.rejected is not None and result.rejected.num_rows and op.max_rejected is not None:
        try:
            check_rejected(op, result.rejected, result.rows.num_rows + result.rejected.num_rows)
        except QuiverError as error:
            error.kept = "nothing was started"
            raise
    return result.rows
