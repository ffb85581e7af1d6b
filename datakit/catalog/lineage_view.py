"""The view `lineage`: what every result was made of, one input a row, so that SQL goes both ways along it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from datakit.catalog.lineage import Lineage
from datakit.catalog.workspace import Entry
from schemas.run_layout import RECORDS_END

LINEAGE: Mapping[str, tuple[str, str]] = {
    "result": ("VARCHAR", "the place of a dataset or checkpoint"),
    "kind": ("VARCHAR", "dataset or checkpoint"),
    "op": ("VARCHAR", "what made it"),
    "input": ("VARCHAR", "the place of one thing that it was made of, as far as that is there"),
    "input_kind": ("VARCHAR", "dataset or checkpoint"),
    "role": ("VARCHAR", "data, init, validation, the number of an input; model: it answered or scored; run: records"),
}


def edges(entries: Sequence[Entry], lineage: Lineage) -> Iterator[dict[str, Any]]:
    """Each of `entries` with each thing that it was made of."""
    chosen = {entry.place for entry in entries}
    for index, entry in enumerate(lineage.entries):
        if entry.place not in chosen:
            continue
        roles = {one.place: name for name, *_ in entry.made.parents for one in lineage.inputs(entry, name)}
        for above in dict.fromkeys(lineage.direct[index]):
            given = lineage.entries[above]
            other = "run" if f"{given.place}{RECORDS_END}" == entry.place else "model"
            yield {
                "result": entry.place,
                "kind": entry.made.kind,
                "op": entry.made.op,
                "input": given.place,
                "input_kind": given.made.kind,
                "role": roles.get(given.place, other),
            }
