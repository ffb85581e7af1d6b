"""Results by the names that `quiver ls` prints, for places on a command line where nothing lies."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Literal

from datakit.catalog.last_run import last_run
from datakit.catalog.lineage import Lineage
from datakit.catalog.named import folders, named, unknown_name
from datakit.catalog.workspace import read_workspace
from schemas.errors import ConfigError, QuiverError, counted, printable
from schemas.nearest import nearest
from schemas.store.opening import near_name
from schemas.store.storage import relative

_SURE = 0.75
"""How like a name a word is that was meant as one, and not as a file."""


def place_of_name(root: str, word: str, *kinds: Literal["dataset", "checkpoint"]) -> str:
    """The folder of the result of one of these `kinds` that `word` names, with or without the `root` in front; empty
    where it names none, or where something lies.
    """
    if "://" in word or os.path.lexists(os.path.expanduser(word)):
        return ""
    with suppress(QuiverError):
        workspace = read_workspace(root, remember=False)
        lineage = Lineage(workspace.entries)
        meant = named(lineage, word, last_run(lineage))
        if meant.kind in kinds:
            return relative(os.path.join(workspace.root, meant.entries[0].place))
    return ""


def refuse_near(root: str, word: str) -> None:
    """`ConfigError` for a `word` where nothing lies that names a folder of results, or is nearly the name of one."""
    if "://" in word or os.path.lexists(os.path.expanduser(word)) or near_name(word):
        return
    try:
        entries = read_workspace(root, remember=False).entries
    except ConfigError:
        return
    name, names = word.strip("/"), {one.name for one in entries}
    inside = sorted(one for one in names if one.startswith(f"{name}/"))
    if name in names:
        return
    if inside:
        raise ConfigError(
            "wrong-kind", f"{printable(word, 200)} is a folder of {counted(len(inside), 'result')}; one is needed",
            expected="one of them", found=printable(", ".join(inside[:5]), 300), kept="nothing was started",
            next=f"quiver ls {word}", wrong=(word,),
        )  # fmt: skip
    known = sorted(names | folders(entries))
    if nearest(name, known, _SURE):
        raise unknown_name(word, known)
