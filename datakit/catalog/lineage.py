"""What each result of a workspace was made of, as far as that is still there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence

from datakit.catalog.workspace import Entry
from schemas.run_layout import RECORDS_END

_GENERATOR = "generator"
_SHORT = 8


class Lineage:
    """The entries of a workspace; `direct` are, of each, the indices of those that it was made of: its inputs, the
    models that its rows know of, the checkpoint that records belong to.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self._by_place = {f"{entry.root}/{entry.place}": index for index, entry in enumerate(entries)}
        self._by_digest: dict[str, list[int]] = defaultdict(list)
        self._by_key: dict[str, list[int]] = defaultdict(list)
        for index, entry in enumerate(entries):
            self._by_digest[entry.made.content_digest].append(index)
            if entry.made.kind == "checkpoint" and entry.made.task_key:
                self._by_key[entry.made.task_key].append(index)
        self.direct = [
            [index for index in self._above(entry) if index != number] for number, entry in enumerate(entries)
        ]

    def parents(self, entry: Entry) -> list[Entry]:
        """The inputs of `entry` that are still there."""
        return [self.entries[index] for index in self._inputs(entry, None)]

    def inputs(self, entry: Entry, name: str) -> list[Entry]:
        """The input of `entry` that it was given under `name`, if that is there."""
        return [self.entries[index] for index in self._inputs(entry, name)]

    def labels(self, entry: Entry) -> dict[str, str | int | None]:
        """What stands beside the rows of `entry` in every view."""
        return {
            "recipe": entry.recipe,
            "experiment": entry.experiment,
            "iteration": entry.iteration,
            "stage": entry.stage,
            "dataset": entry.name,
            "variant": entry.variant,
            "op": entry.made.op,
            "policy": self.models(entry, _GENERATOR),
        }

    def ordered(self, chosen: Collection[int] | None = None) -> list[int]:
        """The indices of the `chosen` entries (none given: of all), each behind those of them that it was made of, else
        in the order of time. What was made again may be younger than what was made of it.
        """
        inside = range(len(self.entries)) if chosen is None else chosen
        by_time = sorted(inside, key=lambda index: self.entries[index].finished)
        rank = {index: place for place, index in enumerate(by_time)}
        done: dict[int, None] = {}
        for start in by_time:
            waiting, under_way = [start], set[int]()
            while waiting:
                index = waiting[-1]
                above = [one for one in self.direct[index] if one in rank and one not in done and one not in under_way]
                if above and index not in under_way:
                    under_way.add(index)
                    waiting += sorted(above, key=rank.__getitem__, reverse=True)
                    continue
                under_way.add(index)
                done.setdefault(waiting.pop())
        return [*done]

    def with_above(self, chosen: Iterable[int]) -> set[int]:
        """The `chosen` entries, and all that these were made of, by their indices."""
        waiting = [*chosen]
        inside = {*waiting}
        while waiting:
            fresh = {*self.direct[waiting.pop()]} - inside
            inside |= fresh
            waiting += fresh
        return inside

    def models(self, entry: Entry, role: str) -> str | None:
        """The places of the models that played a `role` for its rows, of those from outside their short keys."""
        value = entry.made.facts.get(role)
        keys = [key for key in (value if isinstance(value, list) else [value]) if isinstance(key, str)]
        same = {key: self._nearest(entry, self._by_key.get(key, [])) for key in keys}
        return ", ".join(self.entries[one[0]].place if one else key[:_SHORT] for key, one in same.items()) or None

    def _above(self, entry: Entry) -> Iterator[int]:
        if entry.place.endswith(RECORDS_END):
            trained = self._by_place.get(f"{entry.root}/{entry.place.removesuffix(RECORDS_END)}")
            yield from () if trained is None else (trained,)
        yield from self._inputs(entry, None)
        for key in entry.keys:
            yield from self._nearest(entry, self._by_key.get(key, []))

    def _inputs(self, entry: Entry, name: str | None) -> Iterator[int]:
        for given, url, content_digest, _ in entry.made.parents:
            if name not in (None, given):
                continue
            there = self._by_place.get(url)
            if there is not None and self.entries[there].made.content_digest == content_digest:
                yield there
            else:
                yield from self._nearest(entry, self._by_digest.get(content_digest, []))

    def _nearest(self, entry: Entry, same: Sequence[int]) -> Sequence[int]:
        """Of equal results the one of the entry's own recipe and experiment, else the first."""
        group = entry.recipe, entry.experiment
        own = [index for index in same if (self.entries[index].recipe, self.entries[index].experiment) == group]
        return (own or same)[:1]
