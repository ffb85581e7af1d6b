"""What became of a row, worked out row by row from the Parquet files and manifests alone: nothing of ours is asked."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

KINDS = ("pack_id", "pair_id", "sample_id", "prompt_id")
Id = tuple[str, str]


class Files:
    """All that lies below a root: of each place its manifest, rows and rejected rows as Python values."""

    def __init__(self, root: Path) -> None:
        self.manifests: dict[str, Any] = {}
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.aside: dict[str, list[dict[str, Any]]] = {}
        for file in sorted(root.rglob("_manifest.json")):
            place = str(file.parent.relative_to(root))
            if ".run" not in place:
                content = json.loads(file.read_text())["content"]
                self.manifests[place] = content
                for into, listed in ((self.rows, "files"), (self.aside, "rejected")):
                    paths = [file.parent / one["path"] for one in content[listed]]
                    tables = [pq.read_table(path, partitioning=None) for path in paths if path.suffix == ".parquet"]
                    into[place] = [row for table in tables for row in table.to_pylist()]
        self.root = root
        self.named_rows: dict[tuple[str, bool], list[tuple[Id, set[Id], dict[str, Any]]]] = {}
        self.made: dict[Id, set[Id]] = defaultdict(set)
        for rows, aside in ((self.rows, False), (self.aside, True)):
            for place in rows:
                dataset = self.manifests[place]["kind"] == "dataset"
                owned = [(self.own(place, one, aside), one) for one in rows[place] if dataset]
                self.named_rows[place, aside] = [(own, names(one), one) for own, one in owned if own]
                for own, named, _ in self.named_rows[place, aside]:
                    for one in named:
                        self.made[one].add(own)

    def op(self, place: str) -> str:
        """The operation that made it."""
        return str(self.manifests[place]["op"]["name"])

    def inputs(self, place: str, role: str = "") -> list[str]:
        """The places that it was made of."""
        parents = [one for one in self.manifests[place]["parents"] if role in ("", one["name"])]
        places = [one["url"].removeprefix(f"{self.root}/") for one in parents]
        return [one for one in places if one in self.manifests]

    def own(self, place: str, row: dict[str, Any], aside: bool = False) -> Id | None:
        """The row's own id."""
        schema = self.manifests[place]["schema"] or {}
        key = [] if aside else schema.get("key", [])
        usable = [one for one in [*key[:1], *KINDS] if isinstance(row.get(one), str) and one.endswith("_id")]
        return (kind_of(usable[0]), row[usable[0]]) if usable else None

    def is_rows(self, place: str) -> bool:
        """Whether it holds rows that are no records."""
        made = self.manifests[place]
        return made["kind"] == "dataset" and made["schema"]["name"] != "records"


def kind_of(column: str) -> str:
    return next(kind for kind in KINDS if column == kind or column.endswith(f"_{kind}"))


def names(row: dict[str, Any]) -> set[Id]:
    """Everything that a row's columns name."""
    matches = set()
    for column, value in row.items():
        if column.endswith("_id") and isinstance(value, str):
            matches.add((kind_of(column), value))
        if column.endswith("_ids") and isinstance(value, list):
            matches |= {(kind_of(column[:-1]), one) for one in value if isinstance(one, str)}
    return matches


def followed(files: Files, row: Id) -> set[Id]:
    """The row and all that was made of it."""
    known, waiting = {row}, [row]
    while waiting:
        more = files.made[waiting.pop()] - known
        known |= more
        waiting += more
    return known


def facts(files: Files, row: Id) -> set[tuple[Any, ...]]:
    """What became of it: place, kind, the row (or the one that was made of it), and the figures."""
    known, matches = followed(files, row), set[tuple[Any, ...]]()
    holds: dict[str, set[Id]] = {
        place: {own for own, _, _ in files.named_rows[place, False] if own in known} for place in files.rows
    }
    for place in files.manifests:
        if files.is_rows(place):
            above = {one for parent in files.inputs(place) if parent in holds for one in holds[parent]}
            named = set[Id]()
            for own, others, _ in files.named_rows[place, False]:
                if own in known:
                    named |= others
                    matches.add((place, "kept" if own in above else "created", own))
            for own, others, one in files.named_rows[place, True]:
                if own in known:
                    named |= others
                    matches.add((place, "dropped", own, one["reason"], one["value"], one["threshold"]))
            kinds = {kind_of(column) for one in files.rows[place][:1] for column in one if column.endswith("_id")}
            matches |= {(place, "left out", one) for one in above - named if one[0] in kinds}
        elif files.manifests[place]["kind"] == "checkpoint":
            matches |= _learnt(files, place, known, holds)
    return matches


def _learnt(files: Files, place: str, known: set[Id], holds: dict[str, set[Id]]) -> set[tuple[Any, ...]]:
    steps: dict[Id, list[tuple[Any, ...]]] = defaultdict(list)
    for own, _, one in files.named_rows.get((f"{place}.records", False), []):
        if own in known:
            steps[own].append((one["step"], one["epoch"], one["weight"], one["loss"]))
    matches = set[tuple[Any, ...]]()
    for data in files.inputs(place, "data"):
        for row in holds[data] | steps.keys():
            matches.add((place, "trained" if row in steps else "not reached", row, *sorted(steps.get(row, []))))
    for data in files.inputs(place, "validation"):
        matches |= {(place, "validated", row) for row in holds[data]}
    return matches
