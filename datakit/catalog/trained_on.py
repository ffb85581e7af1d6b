"""Which rows a checkpoint was trained on, or judged by: the data and validation rows of its training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from datakit.catalog.lineage import Lineage

ONLINE = "online"
"""The operation of a training that draws its rows while it runs."""


@dataclass(frozen=True)
class Training:
    """The part that the entry `data` (its index; None: it is gone) had in a training; `online`: its rows are prompts,
    answered while it ran.
    """

    data: int | None
    role: Literal["data", "validation"]
    online: bool


def trainings(lineage: Lineage, index: int) -> Iterator[Training]:
    """The datasets that the checkpoint with this index was trained on."""
    entry = lineage.entries[index]
    places = {entry.place: at for at, entry in enumerate(lineage.entries)}
    roles: tuple[Literal["data", "validation"], ...] = ("data", "validation")
    for role in roles:
        for data in lineage.inputs(entry, role):
            yield Training(places[data.place], role, online=role == "data" and entry.made.op == ONLINE)
    if any(name == "data" for name, *_ in entry.made.parents) and not lineage.inputs(entry, "data"):
        yield Training(None, "data", online=False)
