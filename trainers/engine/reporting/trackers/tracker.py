"""What a tracker is: four calls. And all trackers of a run, of which none can stop it.

A run that is killed goes on from its newest save, so some steps are logged twice. A tracker must show each once: one
that can rewrite its history goes back to `Facts.first`, the others leave out what they logged before (`Memory`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from schemas.run_layout import METRICS
from schemas.store.ownfiles import own_folder, replace_file

Status = Literal["finished", "stopped", "failed"]
Cell = str | float | None
"""A figure as it is shown, or a number; None: nothing was measured."""


@dataclass(frozen=True)
class Facts:
    """A run as a tracker sees it.

    `folder` is the run's own; `settings` are its configuration as dotted names. This start goes on after step `first`;
    starts before it logged steps up to `last_logged` (0: none).
    """

    name: str
    folder: Path
    settings: Mapping[str, Any]
    first: int = 0
    last_logged: int = 0


class Tracker(Protocol):
    """A place for figures. `name` is what `Run.track` calls it, `package` what has to be installed."""

    name: ClassVar[str]
    package: ClassVar[str]

    def start(self, facts: Facts) -> None:
        """Begin, or go on with, the run; `ImportError` where the package is not there."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """The figures of one step; they do not fall behind `Facts.first`."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """A table of figures, in place of an earlier one of that name; nothing where the tracker shows none."""

    def close(self, status: Status) -> None:
        """End the run there as finished, stopped or failed; nothing is logged afterwards."""


class Memory:
    """What a tracker keeps of a run from start to start: its id there, in `<folder>/trackers/<name>.json`."""

    def __init__(self, name: str, facts: Facts) -> None:
        self._path = facts.folder / "trackers" / f"{name}.json"
        self.id: str | None = None
        if self._path.exists():
            self.id = str(json.loads(self._path.read_text(encoding="utf-8"))["id"])
        self.last_logged = max(facts.first, facts.last_logged) if self.id is not None else 0
        if facts.first == 0 and facts.last_logged == 0:
            self.id = None

    def keep(self, run_id: str) -> None:
        """Write the id that the run has there to the file, for the next start."""
        self.id = run_id
        own_folder(self._path.parent)
        replace_file(self._path, json.dumps({"id": run_id}) + "\n")


class Trackers:
    """Several trackers as one; whichever fails is reported once through `say`, and left out from then on: `work` goes
    on, and its figures are in `kept` all the same.
    """

    def __init__(
        self,
        trackers: list[Tracker],
        facts: Facts,
        say: Callable[[str], None],
        *,
        work: str = "training",
        kept: str = METRICS,
    ) -> None:
        self._say, self._work = say, work
        self._trackers: list[Tracker] = []
        for tracker in trackers:
            try:
                tracker.start(facts)
            except ImportError:
                say(f"no {tracker.package} here: figures go to {kept}, not to {tracker.name}")
            except Exception as error:
                self._report(tracker, error)
            else:
                self._trackers.append(tracker)

    @property
    def names(self) -> list[str]:
        """Trackers that none of their calls has failed yet."""
        return [tracker.name for tracker in self._trackers]

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """`Tracker.log` of each; one that fails is left out from then on."""
        self._each(lambda tracker: tracker.log(step, figures))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """`Tracker.table` of each that is left."""
        self._each(lambda tracker: tracker.table(name, columns, rows))

    def close(self, status: Status) -> None:
        """`Tracker.close` of each that is left; nothing is logged afterwards."""
        self._each(lambda tracker: tracker.close(status))
        self._trackers = []

    def _each(self, action: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                action(tracker)
            except Exception as error:
                self._trackers.remove(tracker)
                self._report(tracker, error)

    def _report(self, tracker: Tracker, error: Exception) -> None:
        message = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        self._say(f"warning: {tracker.name} failed ({message}); {self._work} goes on without it")
