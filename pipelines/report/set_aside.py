"""Rows that a recipe's stages could not use, stage by stage: how many of how many, and for which reasons."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from datakit.op import Expand
from pipelines.graph.node import Node
from pipelines.graph.nodes import Table
from pipelines.graph.order import ordered
from pipelines.graph.resolve import near
from schemas.errors import printable
from schemas.manifest import Manifest

_MANY = 0.2
"""The share of a stage's rows above which losing them is worth a warning."""


def set_aside(targets: Sequence[Node], length_flag: str) -> tuple[str, ...]:
    """A note for every stage of a graph that lost rows, what filters leave out on purpose not counted; a warning where
    it lost more than a fifth. `length_flag` decides how long a row may be.
    """
    return tuple(_note(node, made, length_flag) for node, made in _lossy(targets))


def _lossy(targets: Sequence[Node]) -> Iterator[tuple[Table, Manifest]]:
    for node in ordered(targets):
        if isinstance(node, Table) and node.op.loses_rows:
            made = node.manifest()
            if made is not None and made.rejected:
                yield node, made


def _note(node: Table, made: Manifest, length_flag: str) -> str:
    gone = sum(file.rows for file in made.rejected)
    came, reasons = gone + made.num_rows, made.stats["rejected"]
    given = [one.manifest() for one in node.inputs]
    if isinstance(node.op, Expand) and None not in given:
        came = sum(rows.num_rows for rows in given if rows is not None)
    named = ", ".join(f"{printable(reason)} {count:,}" for reason, count in reasons.items())
    many, longest = gone > _MANY * came, getattr(node.op, "max_length", None)
    cure = f"; rows have {longest} tokens at most ({length_flag})" if longest and "too-long" in reasons else ""
    return (
        f"{'warning: ' if many else ''}{gone:,} of {came:,} rows ({gone / came:.0%}) were set aside in {node.label}: "
        f"{named}{cure}; quiver show {shlex.quote(near(node.url))}"
    )
