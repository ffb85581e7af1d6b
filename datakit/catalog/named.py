"""What a name stands for in a workspace: a dataset, a checkpoint, or a folder of results (say, an iteration)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from datakit.catalog.lineage import Lineage
from datakit.catalog.workspace import Entry
from schemas.errors import ConfigError, printable
from schemas.nearest import nearest


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
    name, entries = word.strip("/"), lineage.entries
    same = [one for one in entries if name in (one.name, one.place) or word.rstrip("/") == f"{one.root}/{one.place}"]
    if same:
        chosen = max(same, key=lambda one: (one.place in last, one.finished))
        shown = chosen.place if name != chosen.name else name
        return Named(shown, "dataset" if chosen.made.kind == "dataset" else "checkpoint", (chosen,))
    inside = [one for one in entries if one.place.startswith(f"{name}/")]
    if inside:
        of_last_run = [one for one in inside if one.place in last]
        return Named(name, "folder", tuple(of_last_run or inside))
    raise unknown_name(word, {one.name for one in entries} | folders(entries))


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
