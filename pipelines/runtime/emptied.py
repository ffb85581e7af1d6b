"""Rows of which a stage set every one aside (too long, refused by a template): what reads them has nothing to do."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from datakit.op import Label
from pipelines.cli import invocation
from pipelines.graph.node import Node
from pipelines.graph.nodes import Table
from pipelines.graph.resolve import near
from schemas import Dataset
from schemas.errors import DataError, printable
from schemas.manifest import Manifest

_READ_BYTES = 1 << 26
"""Bytes of rejected rows that are read, at most, to say how long they are."""


def check_emptied(node: Node, length_flag: str) -> None:
    """`DataError` where `node` reads rows that are there, and are none because a stage above set all of them aside;
    what filters leave out on purpose is no fault. `length_flag` decides how many tokens a row may have.
    """
    for given in node.parents.values():
        for emptied, made in _emptied(given):
            raise _nothing_left(emptied, made, length_flag)


def _emptied(node: Node) -> Iterator[tuple[Table, Manifest]]:
    made = node.manifest() if isinstance(node, Table) else None
    if not isinstance(node, Table) or made is None or made.num_rows:
        return
    if not made.rejected:
        for given in node.inputs:
            yield from _emptied(given)
    elif isinstance(node.op, Label):
        yield node, made


def _nothing_left(node: Table, made: Manifest, length_flag: str) -> DataError:
    reasons, limit = made.stats["rejected"], getattr(node.op, "max_length", None)
    gone = sum(file.rows for file in made.rejected)
    rows = "the only row" if gone == 1 else f"all {gone:,} rows"
    show = f"quiver show {shlex.quote(near(node.url) + '/rejected')}"
    if limit is None or [*reasons] != ["too-long"]:
        named = ", ".join(f"{printable(reason)} {count:,}" for reason, count in reasons.items())
        return DataError(
            "no-rows",
            f"nothing is left of {rows} of {node.label}: set aside as {named}",
            expected="at least one row",
            where=node.url,
            kept="every finished stage, and these rows with their reasons",
            next=show,
        )
    lengths = _lengths(node.url, made)
    shortest, longest = pc.min(lengths).as_py(), pc.max(lengths).as_py()
    return DataError(
        "no-rows",
        f"{rows} of {node.label} {'is' if gone == 1 else 'are'} longer than {limit} tokens",
        expected=f"at most {limit} tokens, which {length_flag} decides",
        found="" if longest is None else f"{shortest:,.0f} tokens the shortest, {longest:,.0f} the longest",
        where=node.url,
        kept="every finished stage, and these rows with their reasons",
        next=(longest and _longer(node, limit, int(shortest), int(longest), length_flag)) or show,
    )


def _lengths(url: str, made: Manifest) -> pa.ChunkedArray:
    """Tokens of the rejected rows; none where they are too many to be read for this."""
    if sum(file.bytes for file in made.rejected) > _READ_BYTES:
        return pa.chunked_array([], pa.float64())
    table = Dataset.open(url).read_rejected()
    assert table is not None
    return table["value"]


def _longer(node: Table, limit: int, shortest: int, longest: int, length_flag: str) -> str:
    """The flag with a number that as many rows fit as the tokenizer's model reads; empty where the command has not
    given it, or where it reads none. What the flag has beyond `limit` (the room of an answer) stays.
    """
    given, tokenizer = invocation.value(length_flag), node.resources.get("tokenizer")
    most = None if tokenizer is None else tokenizer.max_sequence_length
    room = int(given) - limit if given.isdecimal() else 0
    fits = longest if most is None else min(longest, most - room)
    return f"{length_flag} {fits + room}" if given.isdecimal() and fits >= shortest else ""
