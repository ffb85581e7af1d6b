"""How far a piece of work is: rows done, rows per second, time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from schemas.errors import counted

INTERVAL = 0.5
"""Seconds between two calls of a progress callback, at least."""


@dataclass(frozen=True)
class Progress:
    """Input rows done of `total` (None where that is not known before the end), after `seconds`; `lost` workers were
    replaced.
    """

    op: str
    rows: int
    total: int | None
    seconds: float
    lost: int = 0

    @property
    def rows_per_second(self) -> float:
        """Mean rate since the start."""
        return self.rows / self.seconds if self.seconds > 0 else 0.0

    @property
    def share(self) -> float | None:
        """Of all rows, those that are done; None while that is unknown."""
        return min(1.0, self.rows / self.total) if self.total else None

    @property
    def eta(self) -> float | None:
        """Seconds left at the mean rate; None while that is unknown."""
        if self.total is None or self.rows == 0 or self.seconds <= 0:
            return None
        return (self.total - self.rows) / self.rows_per_second

    def __str__(self) -> str:
        lost = f", {counted(self.lost, 'lost worker')} replaced" if self.lost else ""
        if not self.rows:
            return f"{self.op}: starting, no row is done yet{lost}"
        of = "" if self.total is None else f" of {self.total:,}"
        left = "" if self.eta is None else f", {self.eta:.0f} s left"
        return f"{self.op}: {self.rows:,}{of} rows, {self.rows_per_second:,.0f} rows/s{left}{lost}"


OnProgress = Callable[[Progress], None]


class Reporter:
    """Calls back at most every `INTERVAL` seconds, and once at the end."""

    def __init__(self, op: str, total: int | None, on_progress: OnProgress | None) -> None:
        self._op, self._total, self._call = op, total, on_progress
        self._start = self._last = time.monotonic()
        self.rows = self.lost = 0

    def reach(self, rows: int, *, force: bool = False) -> None:
        """Tell that `rows` input rows are done in all."""
        self.rows = rows
        now = time.monotonic()
        if self._call is not None and (force or now - self._last >= INTERVAL):
            self._last = now
            self._call(Progress(self._op, rows, self._total, now - self._start, self.lost))

    def advance(self, rows: int) -> None:
        """Tell that `rows` more input rows are done."""
        self.reach(self.rows + rows)

    @property
    def seconds(self) -> float:
        """Seconds since the work began, by a clock that never goes back."""
        return time.monotonic() - self._start
