"""Periodic saves of a run in `<work>/saves/step-<number>`: all that the next step depends on, the newest of which stay.

A damaged save is reported and the one before it is taken; a save of a run that was configured otherwise is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.errors import ConfigError, IntegrityError, printable
from trainers.images import checkpoint
from trainers.images.checkpoint import Adapters, Claims
from trainers.save_folders import SaveFolders

if TYPE_CHECKING:
    from torch import Tensor


class Saves:
    """The saves below `folder`; `identity` is what must not change before a run goes on, `keep_last` how many stay."""

    def __init__(self, folder: Path, adapters: Adapters, *, base: str, identity: str, keep_last: int) -> None:
        self.folder, self.adapters, self.base = folder, adapters, base
        self.folders = SaveFolders(folder)
        self.identity, self.keep_last = identity, keep_last

    def write(self, step: int, weights: Mapping[str, Tensor], training: Mapping[str, Tensor]) -> None:
        """Save the state after `step`, then remove saves that need not stay."""
        tensors = {checkpoint.WEIGHTS: weights, checkpoint.TRAINING: training}
        state = {"step": step, "identity": self.identity}
        checkpoint.save(str(self.folders.place(step)), self.adapters, tensors, Claims(), base=self.base, state=state)
        for old in sorted(self.folders.places())[: -self.keep_last]:
            self.folders.remove(old)

    def load(self) -> tuple[int, dict[str, Tensor]]:
        """The step of the newest whole save, and its `training`; 0 and nothing where there is no save."""
        damaged: list[IntegrityError] = []
        for step in sorted(self.folders.look()[0], reverse=True):
            try:
                saved = checkpoint.open_checkpoint(str(self.folders.place(step)))
                state: dict[str, Any] = saved.train_state()
                self._check(state)
                return step, saved.tensors(checkpoint.TRAINING)
            except IntegrityError as error:
                damaged.append(error)
                print(f"warning: the save of step {step} is damaged: {error.what}", file=sys.stderr)
        if damaged:
            raise damaged[0]
        return 0, {}

    def finish(self) -> None:
        """Remove the saves of the complete run."""
        self.folders.remove_all()

    def _check(self, state: Mapping[str, Any]) -> None:
        if state.get("identity") != self.identity:
            raise ConfigError(
                "changed-config",
                "the run to go on with was configured otherwise, or stands on another base, reward or prompts",
                found=printable(state.get("identity")),
                where=str(self.folder),
                kept="its saves; nothing was started",
                next="give the old settings, or another out (or work) for a new run",
            )
