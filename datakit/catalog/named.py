"""What a name stands for in a workspace: a dataset, a checkpoint, or a folder of results (say, an iteration)."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from datakit.catalog.lineage import Lineage
from datakit.catalog.workspace import Entry
from schemas.errors import ConfigError, printable
from schemas.nearest import nearest
from schemas.store.storage import normal


@dataclass(frozen=True)
class Named:
    """What `name` stands for: one dataset or checkpoint, or all results in a folder, of variants those of last runs."""

    name: str
    kind: Literal["dataset", "checkpoint", "folder"]
    entries: tuple[Entry, ...]

    def relative(self, entry: Entry) -> str:
        """The name of one of its entries as seen from it."""
        return entry.name.removeprefix(f"{self.name}/") if self.kind == "folder" else entry.stage


def named(lineage: Lineage, word: str, last: Collection[str]) -> Named:
    """What `word` stands for: a name, or the place of one variant; `ConfigError`, with the nearest name, for nothing.

    Of a name with several variants the one of the `last` runs counts, or else the one that was finished last.
    """
    entries = lineage.entries
    name, there = matching(entries, word)
    if not there:
        raise unknown_name(word, {one.name for one in entries} | folders(entries))
    if name not in (there[0].name, there[0].place):
        of_last_run = [one for one in there if one.place in last]
        return Named(name, "folder", tuple(of_last_run or there))
    chosen = newest(there, last)
    return Named(name, "dataset" if chosen.made.kind == "dataset" else "checkpoint", (chosen,))


def matching(entries: Sequence[Entry], word: str) -> tuple[str, list[Entry]]:
    """Those of `entries` that `word` names, or else that lie in the folder that it names, behind that name; none for a
    word that names nothing.
    """
    names = names_of(entries[0].root, word) if entries else ()
    for name in names:
        there = [one for one in entries if name in (one.name, one.place)]
        there = there or [one for one in entries if one.place.startswith(f"{name}/")]
        if there:
            return name, there
    return "", []


def names_of(root: str, word: str) -> tuple[str, ...]:
    """What `word` may stand for below `root`: a name or a place as seen from there, or the way to a place from here."""
    names = [word.removeprefix("./").strip("/")]
    with suppress(ConfigError, OSError):  # of words that are no places, or a current folder that is gone
        way = os.path.relpath(normal(word), root)
        names += [way] if "://" not in word and not way.startswith("..") else []
    return tuple(dict.fromkeys(filter(None, names)))


def newest(entries: Iterable[Entry], last: Collection[str]) -> Entry:
    """Of several variants that of the `last` runs, or else the one that was finished last."""
    return max(entries, key=lambda one: (one.place in last, one.finished))


def unknown_name(word: str, names: Collection[str], call: str = "quiver ls") -> ConfigError:
    """The error of a `word` that stands for none of `names`; `call` is the command that lists what there is."""
    name = word.strip("/")
    return ConfigError(
        "unknown-name",
        f"nothing is called {printable(name, 200)}",
        expected="a name that quiver ls has, or a folder of such names",
        found=printable(name, 200),
        kept="nothing was read",
        next=call,
        wrong=(word,),
        nearest=nearest(name, sorted(names)),
    )


def folders(entries: Collection[Entry]) -> set[str]:
    """Every folder that holds some of `entries`."""
    return {entry.place[:at] for entry in entries for at, letter in enumerate(entry.place) if letter == "/"}
