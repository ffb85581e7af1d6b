"""Weights & Biases: offline in `<folder>/wandb` (`wandb sync` sends it later), online where the user is logged in.

`WANDB_MODE`, `WANDB_PROJECT` and the other variables of its own hold as ever. A later start goes on with the same run
id; its history cannot be rewritten, so steps logged before are left out.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from schemas.store.ownfiles import own_folder
from trainers.engine.reporting.trackers.tracker import Cell, Facts, Memory, Status


class Wandb:
    """A run of the project `quiver`, or of `WANDB_PROJECT`."""

    name: ClassVar[str] = "wandb"
    package: ClassVar[str] = "wandb"

    def start(self, facts: Facts) -> None:
        """Begin the run, or resume it."""
        import wandb

        memory = Memory(self.name, facts)
        run_id = memory.id or uuid.uuid4().hex[:16]
        own_folder(facts.folder)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "quiver"),
            name=os.environ.get("WANDB_NAME", facts.name),
            id=run_id,
            resume="allow",
            dir=str(facts.folder),
            mode=_mode(bool(wandb.login(prompt=False))),
            config=dict(facts.settings),
            settings=wandb.Settings(silent=True, console="off"),
        )
        memory.keep(run_id)
        self._logged = memory.last_logged

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """One row of the run's history; a step that was logged is passed over."""
        if step > self._logged:
            self._run.log(dict(figures), step=step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """A `wandb.Table`, beside the history."""
        import wandb

        self._run.log({name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])})

    def close(self, status: Status) -> None:
        """Finish; anything but a finished run has exit code 1 there."""
        self._run.finish(exit_code=0 if status == "finished" else 1)


def _mode(logged_in: bool) -> Literal["offline"] | None:
    return None if "WANDB_MODE" in os.environ or logged_in else "offline"
