"""What takes room below a root: results, folders of trainings, attempts, logs. No link is followed to find it."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from datakit.catalog.workspace import Entry, Workspace
from schemas.manifest import MANIFEST
from schemas.run_layout import LOGS, RUN_END, SAVES

HALF_REMOVED = re.compile(r"_pruned-[0-9a-f]{16}")
_ATTEMPT = re.compile(r"_attempt-[0-9a-f]{16}")
_ANSWERS = "_progress-"

Kind = Literal[
    "dataset", "checkpoint", "unreadable", "run", "saves", "attempt", "half removed", "answers", "logs", "other"
]
Inodes = dict[tuple[int, int], tuple[int, int, int]]
"""Of each file its bytes, how many names it has anywhere, and how many of them are here."""


@dataclass(frozen=True)
class Piece:
    """A folder, or the loose files of one, and what lies in it; `entry` is the result that it is, or belongs to."""

    place: str
    """As seen from the root."""
    kind: Kind
    entry: Entry | None
    inodes: Inodes

    @property
    def bytes(self) -> int:
        """Bytes of its files, each counted once however many names it has."""
        return sum(size for size, *_ in self.inodes.values())


def pieces(workspace: Workspace) -> Iterator[Piece]:
    """Everything below the root, in the order of places; no file is in two of them."""
    entries = {one.place: one for one in workspace.entries}
    yield from _below(workspace.root, "", entries)


def freed(gone: Iterable[Piece]) -> int:
    """Bytes that are free when all of these are gone: of files all of whose names are in them."""
    names: dict[tuple[int, int], int] = {}
    sizes: dict[tuple[int, int], tuple[int, int]] = {}
    for piece in gone:
        for inode, (size, links, here) in piece.inodes.items():
            names[inode] = names.get(inode, 0) + here
            sizes[inode] = size, links
    return sum(size for inode, (size, links) in sizes.items() if names[inode] >= links)


def _below(root: str, place: str, entries: Mapping[str, Entry]) -> Iterator[Piece]:
    folders, loose = _listed(f"{root}/{place}")
    head = f"{place}/" if place else ""
    entry, own = entries.get(place), Inodes()
    for name in loose:
        _count(f"{root}/{head}{name}", own)
    published = MANIFEST in loose
    for name in folders:
        below, path = f"{head}{name}", f"{root}/{head}{name}"
        if _ATTEMPT.fullmatch(name) or HALF_REMOVED.fullmatch(name) or name.startswith(_ANSWERS):
            kind: Kind = (
                "attempt" if _ATTEMPT.fullmatch(name) else "answers" if name.startswith(_ANSWERS) else "half removed"
            )
            yield Piece(below, kind, entry, _all(path))
        elif published:
            own |= _all(path)
        elif name.endswith(RUN_END):
            yield from _run(root, below, entries.get(below.removesuffix(RUN_END)))
        elif below == LOGS:
            yield Piece(below, "logs", None, _all(path))
        else:
            yield from _below(root, below, entries)
    if entry is not None:
        yield Piece(place, "dataset" if entry.made.kind == "dataset" else "checkpoint", entry, own)
    elif own:
        yield Piece(place, "unreadable" if published else "other", None, own)


def _run(root: str, place: str, entry: Entry | None) -> Iterator[Piece]:
    """The folder of a training; its saves, and those of trainings beside it, are pieces of their own."""
    beside = [name for name in _listed(f"{root}/{place}")[0] if name.endswith(RUN_END)]
    saves = [f"{place}/{SAVES}", *(f"{place}/{name}/{SAVES}" for name in beside)]
    for one in saves:
        if _is_folder(f"{root}/{one}"):
            yield Piece(one, "saves", entry, _all(f"{root}/{one}"))
    yield Piece(place, "run", entry, _all(f"{root}/{place}", {f"{root}/{one}" for one in saves}))


def _listed(path: str) -> tuple[list[str], list[str]]:
    """Folders and files, sorted; a link is neither."""
    try:
        with os.scandir(path) as listed:
            there = [*listed]
    except OSError:
        return [], []
    folders = [one.name for one in there if one.is_dir(follow_symlinks=False)]
    return sorted(folders), sorted(one.name for one in there if one.is_file(follow_symlinks=False))


def _all(path: str, without: Iterable[str] = ()) -> Inodes:
    """All files in a folder, at any depth."""
    inodes, waiting = Inodes(), [path]
    while waiting:
        folder = waiting.pop()
        folders, files = _listed(folder)
        waiting += [below for name in folders if (below := f"{folder}/{name}") not in without]
        for name in files:
            _count(f"{folder}/{name}", inodes)
    return inodes


def _count(path: str, inodes: Inodes) -> None:
    try:
        there = os.lstat(path)
    except OSError:
        return
    key = there.st_dev, there.st_ino
    inodes[key] = there.st_size, there.st_nlink, inodes.get(key, (0, 0, 0))[2] + 1


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False
