"""Results by the names that `quiver ls` prints, for places on a command line that lead nowhere."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Literal

from datakit.catalog.last_run import last_run
from datakit.catalog.lineage import Lineage
from datakit.catalog.named import named
from datakit.catalog.workspace import read_workspace
from schemas.errors import QuiverError
from schemas.store.storage import normal, relative


def place_of_name(root: str, word: str, *kinds: Literal["dataset", "checkpoint"]) -> str:
    """The folder of the result of one of these `kinds` that `word` names, with or without the `root` in front; empty
    where it names none, or where something lies.
    """
    if "://" in word or os.path.lexists(os.path.expanduser(word)):
        return ""
    with suppress(QuiverError):
        workspace = read_workspace(root, remember=False)
        lineage = Lineage(workspace.entries)
        name = word.removeprefix("./") if not os.path.isabs(word) else word
        inside = os.path.relpath(normal(word), workspace.root)
        for one in (name, *([] if inside.startswith("..") else [inside])):
            with suppress(QuiverError):
                meant = named(lineage, one, last_run(lineage))
                if meant.kind in kinds:
                    return relative(os.path.join(workspace.root, meant.entries[0].place))
    return ""
