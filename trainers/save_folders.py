"""Where the saves of a run lie, `saves/step-<number>` in its folder, and which of them are complete.

A save counts once its manifest is published. What goes is renamed first, so that no half of a save stands under a
save's name.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from schemas.manifest import MANIFEST
from schemas.store import commit

_REMOVED = "removed-"


class SaveFolders:
    """The saves in `folder`; nothing is read before it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def place(self, step: int) -> Path:
        """Where the save of `step` lies, or will."""
        return self.folder / f"step-{step:08d}"

    def places(self) -> Mapping[int, Path]:
        """Every save that was begun, by its step."""
        paths = self.folder.iterdir() if self.folder.is_dir() else ()
        return {int(match[1]): path for path in paths if (match := re.fullmatch(r"step-(\d{8,})", path.name))}

    def complete(self) -> Mapping[int, Path]:
        """Those of them that are complete, by step."""
        return {step: path for step, path in self.places().items() if (path / MANIFEST).exists()}

    def newest(self) -> int:
        """The step of the newest complete save, 0 where there is none."""
        return max(self.complete(), default=0)

    def look(self) -> tuple[list[int], list[int]]:
        """The steps with a save, whole or damaged, and those whose save was never finished; removes what is dead."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name.startswith(_REMOVED):
                shutil.rmtree(path, ignore_errors=True)
        unfinished = [step for step, path in self.places().items() if _is_unfinished(path)]
        for step in unfinished:
            commit.sweep(str(self.place(step)))
            with suppress(OSError):
                self.place(step).rmdir()
        return sorted(self.places().keys() - set(unfinished)), unfinished

    def remove(self, step: int) -> None:
        """Remove the save of `step`; a warning where that cannot be."""
        path = self.place(step)
        gone = path.with_name(f"{_REMOVED}{path.name}-{os.urandom(4).hex()}")
        try:
            path.rename(gone)
            shutil.rmtree(gone)
        except OSError as error:
            print(f"warning: an old save cannot be removed: {gone.name}: {error.strerror}", file=sys.stderr)

    def remove_all(self) -> None:
        """Remove all saves, and their folder, as far as that can be."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _is_unfinished(path: Path) -> bool:
    """Whether nothing was ever complete here: an attempt that was cut off, or not even that."""
    names = os.listdir(path)
    return MANIFEST not in names and (not names or any(name.startswith("_attempt-") for name in names))
