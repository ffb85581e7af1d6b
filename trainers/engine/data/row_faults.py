"""Rows that cannot be trained on, gathered over a whole dataset before a run begins."""

from __future__ import annotations

import numpy as np

from schemas.errors import DataError, counted, printable
from trainers.engine.data.columns import Columns
from trainers.engine.data.row_groups import RowGroups


class RowFaults:
    """Rows that cannot be trained on, by reason: how many, and the first few by name."""

    def __init__(self) -> None:
        self.by_reason: dict[str, tuple[int, list[str]]] = {}

    def add(self, reason: str, wrong: np.ndarray, columns: Columns) -> None:
        """Count the rows where `wrong` is true."""
        rows = np.flatnonzero(wrong)
        if len(rows):
            count, names = self.by_reason.get(reason, (0, []))
            more = [columns.name(int(row)) for row in rows[: 3 - len(names)]] if len(names) < 3 else []
            self.by_reason[reason] = (count + len(rows), names + more)

    def throw(self, groups: RowGroups, who: str) -> None:
        """Raise `DataError` if anything was added."""
        if self.by_reason:
            texts = [
                f"{reason}: {counted(count, 'row')}, first {', '.join(map(printable, names))}"
                for reason, (count, names) in self.by_reason.items()
            ]
            raise DataError(
                "untrainable-rows",
                f"{who} cannot train on every row; " + "; ".join(texts),
                where=groups.where,
                kept=groups.kept,
                next="filter these rows out (rejected rows keep their reason) and train on what is left",
            )
