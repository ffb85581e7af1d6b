"""Periodic saves of a run: everything the next step depends on, the newest two of them, and which one to go on from.

A save is a checkpoint with optimizer state in `<work>/saves/step-<number>`. A damaged one is reported and the one
before it is taken; when all are damaged the run stops, because starting afresh in silence would be worse. A save of a
run that was configured otherwise is refused with the differences.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError, IntegrityError, printable
from trainers.engine import checkpoint
from trainers.engine.parallel import Layout

KEPT = 2


class Saves:
    """The saves of one run in `folder`; `identity` is what must not have changed when it goes on."""

    def __init__(
        self, folder: Path, *, model: Any, optimizer: Any, layout: Layout, identity: Mapping[str, Any]
    ) -> None:
        self.folder, self.model, self.optimizer, self.layout = folder, model, optimizer, layout
        self.identity = dict(identity)

    def newest(self) -> int:
        """The step of the newest save, 0 when there is none."""
        return max(self._steps(), default=0)

    def write(self, step: int) -> None:
        """Save the state after `step`, then remove all but the newest two."""
        state = {"step": step, "identity": self.identity}
        checkpoint.save(str(self._path(step)), model=self.model, optimizer=self.optimizer, train_state=state)
        if self.layout.rank == 0:
            for old in sorted(self._steps())[:-KEPT]:
                shutil.rmtree(self._path(old), ignore_errors=True)

    def resume(self) -> int:
        """Load the newest whole save; the step it was made after, 0 when there is none."""
        damaged: list[IntegrityError] = []
        for step in sorted(self._steps(), reverse=True):
            try:
                self._load(step)
            except IntegrityError as error:
                damaged.append(error)
                if self.layout.rank == 0:
                    print(f"warning: the save of step {step} is damaged: {error.what}", file=sys.stderr)
                continue
            return step
        if damaged:
            raise damaged[0]
        return 0

    def clear(self) -> None:
        """Remove all saves: the run is complete."""
        if self.layout.rank == 0:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _load(self, step: int) -> None:
        parts = (checkpoint.WEIGHTS, checkpoint.OPTIMIZER)
        found = checkpoint.open_checkpoint(str(self._path(step)), parts=parts)
        self._check_identity(found.train_state().get("identity", {}))
        checkpoint.load_weights(self.model, found)
        checkpoint.load_optimizer(found, model=self.model, optimizer=self.optimizer)

    def _check_identity(self, before: Mapping[str, Any]) -> None:
        now = _flat(self.identity)
        then = _flat(before)
        changed = [n for n in sorted(now.keys() | then.keys()) if now.get(n) != then.get(n)]
        if changed:
            shown = [f"{n}: {printable(then.get(n))} -> {printable(now.get(n))}" for n in changed]
            raise ConfigError(
                "changed-config",
                f"the run to go on with was configured otherwise: {'; '.join(shown)}",
                where=str(self.folder),
                kept="its saves; nothing was started",
                next="give the old settings, or another out (or work) for a new run",
            )

    def _steps(self) -> list[int]:
        names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        return [int(found.group(1)) for name in names if (found := re.fullmatch(r"step-(\d{8})", name))]

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names."""
    found: dict[str, Any] = {}
    for name, item in value.items():
        found |= _flat(item, f"{prefix}{name}.") if isinstance(item, Mapping) and item else {prefix + name: item}
    return found
