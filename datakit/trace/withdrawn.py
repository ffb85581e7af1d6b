"""What rows reach: which checkpoints learnt from them, and what stands on these, so must be made again without them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from datakit.catalog.trained_on import trainings
from datakit.catalog.workspace import Entry
from datakit.trace.row_trace import Tracer
from datakit.trace.scans import Id
from schemas.run_layout import RECORDS_END

Reach = Literal["holds", "learnt", "stands on", "made of"]
"""`holds`: a dataset with the rows, or rows made of them. `learnt`: a checkpoint whose data hold such rows, or whose
records name them (answers that an online run drew).
`stands on`: made with such a checkpoint (it began as it, it answered or scored). `made of`: of a dataset that holds
them, without them: a quantile, a vocabulary, a choice may have been another one.
"""


@dataclass(frozen=True)
class Reached:
    """A result that would be another one without the rows; `rows` of it are these, or were made of them."""

    entry: Entry
    reach: Reach
    rows: int

    @property
    def again(self) -> bool:
        """Whether it has to be trained again for the rows to be gone from it."""
        return self.entry.made.kind == "checkpoint" and self.reach in ("learnt", "stands on")


def reached(tracer: Tracer, rows: set[Id]) -> Iterator[Reached]:
    """Everything that `rows` reach, in the order of the graph; of every variant that is there."""
    by_entry = tracer.holding(rows)
    entries, reach = tracer.lineage.entries, dict[int, Reach]()
    saw = {entries[index].place.removesuffix(RECORDS_END) for index in by_entry
           if entries[index].place.endswith(RECORDS_END)}  # fmt: skip
    for index in tracer.lineage.ordered():
        above = {reach[one] for one in tracer.lineage.direct[index] if one in reach}
        if entries[index].made.kind == "checkpoint" and (
            entries[index].place in saw
            or any(one.role == "data" and one.data in by_entry for one in trainings(tracer.lineage, index))
        ):
            reach[index] = "learnt"
        elif above & {"learnt", "stands on"}:
            reach[index] = "stands on"
        elif index in by_entry:
            reach[index] = "holds"
        elif above:
            reach[index] = "made of"
        if index in reach and not entries[index].place.endswith(RECORDS_END):
            yield Reached(entries[index], reach[index], len(by_entry.get(index, ())))
