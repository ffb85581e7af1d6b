"""The Luigi task of a training of an image model: started, watched and shown as any other training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from pipelines.images.node import ImageCheckpoint
from pipelines.makers.training import Fit
from pipelines.runtime.tasks import makes
from schemas.canonical import plain
from schemas.store.ownfiles import replace_file


@makes(ImageCheckpoint)
class FitImages(Fit):
    """Makes adapters: one training run, in a process of its own."""

    program: ClassVar[str] = "pipelines.images"

    def write(self, file: Path, node: Any, run: Any) -> None:
        """Leave in `file` what the program reads."""
        replace_file(file, json.dumps(plain(run), indent=1))
