"""Which rollouts of an online run stay: all, those of the last steps, those of every so-manieth step.

    {"last": 20, "every": 100}          a step stays that either of them names

Those of other steps go once no save is left that a run would go on from and need them for, so a run that was killed is
the run that was not, and draws nothing twice. What goes in one step is the manifest, renamed to `_dropped.json`; its
files follow, and what a kill leaves of them goes the next time. That file stays: how many rows there were, of which
weights, and what their mean reward was. Answers to held-out prompts stay, too.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from schemas.manifest import MANIFEST, Manifest
from schemas.run_layout import DROPPED, ROLLOUTS
from schemas.setting_faults import check_ranges
from schemas.store.commit import read_manifest

_NAME = re.compile(r"(?P<kind>step|warmup)=(?P<number>\d+)-[0-9a-f]{8}(?:\.round=\d+)?(?:\.(?:answers|prompts))?")


@dataclass(frozen=True, kw_only=True)
class KeepRollouts:
    """The steps whose rollouts stay: the `last` so many, and those that `every` divides; all where neither is given.
    Rounds of a warm-up count as steps before the first.
    """

    last: int | None = None
    every: int | None = None

    def __post_init__(self) -> None:
        given = {name: number for name, number in vars(self).items() if number is not None}
        check_ranges("keep_rollouts", **{name: (one, one >= 1, "at least 1") for name, one in given.items()})

    def stays(self, step: int, made: int) -> bool:
        """Whether the rollouts of `step`, from 1, stay when so many steps are `made`."""
        among_last = self.last is not None and step > made - self.last
        divided = self.every is not None and step > 0 and step % self.every == 0
        return among_last or divided or (self.last is None and self.every is None)


def drop(run: Path, keep: KeepRollouts, *, made: int, needed: float, warmup: int) -> None:
    """Remove what need not stay of the rollouts in the folder of a run that has `made` so many steps; `needed` is the
    first step, from 1, whose rows a run that goes on reads, `warmup` how many rounds there were before step 1.
    """
    if keep == KeepRollouts() or not (run / ROLLOUTS).is_dir():
        return
    for place in sorted((run / ROLLOUTS).iterdir()):
        match = _NAME.fullmatch(place.name)
        if match is None:
            continue
        step = int(match["number"]) - (warmup if match["kind"] == "warmup" else 0)
        if step < needed and not keep.stays(step, made):
            _drop(place)


def _drop(place: Path) -> None:
    """Leave the manifest of the dataset at `place` alone, under another name."""
    with suppress(FileNotFoundError):  # another process of the same run does so, too
        if (place / MANIFEST).exists():
            (place / MANIFEST).replace(place / DROPPED)
            _make_durable(place)
        if (place / DROPPED).exists():
            for one in [path for path in place.iterdir() if path.name != DROPPED]:
                shutil.rmtree(one) if one.is_dir() else one.unlink()


def _make_durable(place: Path) -> None:
    number = os.open(place, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def made_again(place: str) -> None:
    """Forget that what stands at `place` was dropped once."""
    Path(place, DROPPED).unlink(missing_ok=True)


def manifest_of(place: str) -> Manifest | None:
    """The manifest of the dataset at `place`, or the one that stayed of it; None where neither is there."""
    dropped = Path(place, DROPPED)
    if (standing := read_manifest(place)) is not None or not dropped.is_file():
        return standing
    return Manifest.from_bytes(dropped.read_bytes(), str(dropped))
