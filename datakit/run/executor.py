"""Where the pieces of a job are worked on: in processes of this machine (`datakit.run.runner`), or on a Ray cluster
(`datakit.run.on_ray`). Which, is chosen at the edge; the bytes that come out are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from datakit.run.output import Done
from datakit.run.progress import Reporter
from datakit.run.work import Job


class Executor(Protocol):
    """Starts workers for a job, hands them its pieces, watches them, and ends them, however the work ends."""

    @property
    def name(self) -> str:
        """What it is called in a manifest."""

    @property
    def processes(self) -> int:
        """How many workers were asked for; 0: none of their own, or as many as there is room for."""

    def run(self, job: Job, reporter: Reporter) -> Iterator[list[Done]]:
        """The finished pieces of `job`, as they finish; `reporter` gets the rows done. Raises what a worker tells, and
        `WorkerError` for one that is silent for `job.hang_seconds`, or that is lost for good.
        """
