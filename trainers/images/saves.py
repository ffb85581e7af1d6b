"""Periodic saves of a run in `<work>/saves/step-<number>`: all that the next step depends on, the newest of which stay.

A damaged save is reported and the one before it is taken; a save of a run that was configured otherwise is refused.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.errors import ConfigError, IntegrityError, printable
from schemas.manifest import MANIFEST
from schemas.store import commit
from trainers.images import checkpoint
from trainers.images.checkpoint import Adapters, Claims

if TYPE_CHECKING:
    from torch import Tensor

_REMOVED = "removed-"


class Saves:
    """The saves below `folder`; `identity` is what must not change before a run goes on, `keep_last` how many stay."""

    def __init__(self, folder: Path, adapters: Adapters, *, base: str, identity: str, keep_last: int) -> None:
        self.folder, self.adapters, self.base = folder, adapters, base
        self.identity, self.keep_last = identity, keep_last

    def newest(self) -> int:
        """The step of the newest complete save, 0 when there is none."""
        return max((step for step, path in self._steps().items() if (path / MANIFEST).exists()), default=0)

    def write(self, step: int, weights: Mapping[str, Tensor], training: Mapping[str, Tensor]) -> None:
        """Save the state after `step`, then remove saves that need not stay."""
        tensors = {checkpoint.WEIGHTS: weights, checkpoint.TRAINING: training}
        state = {"step": step, "identity": self.identity}
        checkpoint.save(str(self._path(step)), self.adapters, tensors, Claims(), base=self.base, state=state)
        for old in sorted(self._steps())[: -self.keep_last]:
            self._remove(self._path(old))

    def load(self) -> tuple[int, dict[str, Tensor]]:
        """The step of the newest whole save, and its `training`; 0 and nothing where there is no save."""
        damaged: list[IntegrityError] = []
        for step in sorted(self._complete(), reverse=True):
            try:
                saved = checkpoint.open_checkpoint(str(self._path(step)))
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
        shutil.rmtree(self.folder, ignore_errors=True)

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

    def _complete(self) -> list[int]:
        """The steps with a save, whole or damaged; removes what was never finished."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name.startswith(_REMOVED):
                shutil.rmtree(path, ignore_errors=True)
        for step, path in self._steps().items():
            names = os.listdir(path)
            if MANIFEST not in names and all(name.startswith("_attempt-") for name in names):
                commit.sweep(str(self._path(step)))
                shutil.rmtree(path, ignore_errors=True)
        return sorted(self._steps())

    def _remove(self, path: Path) -> None:
        gone = path.with_name(f"{_REMOVED}{path.name}-{os.urandom(4).hex()}")
        try:
            path.rename(gone)
            shutil.rmtree(gone)
        except OSError as error:
            print(f"warning: an old save cannot be removed: {gone.name}: {error.strerror}", file=sys.stderr)

    def _steps(self) -> dict[int, Path]:
        paths = self.folder.iterdir() if self.folder.is_dir() else ()
        return {int(match.group(1)): path for path in paths if (match := re.fullmatch(r"step-(\d{8,})", path.name))}

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"
