"""What must stay in a workspace: results of last runs, all that these stand on, and what no task can make again.

A manifest may come from outside, so what it says can only keep more: of a parent that is not where it was, everything
with its content stays, and of a model that is named by its key, everything with that key.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

from datakit.catalog.workspace import Entry
from schemas.run_layout import RECORDS_END

OF_LAST_RUN = "of a last run"
STANDS_ON = " stands on it"
_BY_HAND = ("notebook.",)


def kept(entries: Sequence[Entry], last: Collection[str]) -> Mapping[str, str]:
    """Of each place that must stay the reason."""
    reasons: dict[str, str] = {}
    waiting: list[Entry] = []
    for entry in entries:
        reason = OF_LAST_RUN if entry.place in last else _not_made_again(entry)
        if reason:
            reasons[entry.place] = reason
            waiting.append(entry)
    stands_on = _StandsOn(entries)
    while waiting:
        entry = waiting.pop()
        for one in stands_on.of(entry):
            if one.place not in reasons:
                reasons[one.place] = f"{entry.place}{STANDS_ON}"
                waiting.append(one)
    for entry in entries:
        of = entry.place.removesuffix(RECORDS_END)
        if of != entry.place and of in reasons:
            reasons.setdefault(entry.place, f"what {of} saw")
    return reasons


def _not_made_again(entry: Entry) -> str:
    if entry.variant is None:
        return "no task made it at this place"
    if entry.made.op.startswith(_BY_HAND):
        return "made by hand"
    if not entry.made.parents:
        return "made of nothing that is here"
    return ""


class _StandsOn:
    """What each entry was made of, in all places where that may be."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._by_place = {f"{one.root}/{one.place}": one for one in entries}
        self._by_digest: dict[str, list[Entry]] = defaultdict(list)
        self._by_key: dict[str, list[Entry]] = defaultdict(list)
        for one in entries:
            self._by_digest[one.made.content_digest].append(one)
            self._by_key[one.made.task_key].append(one)

    def of(self, entry: Entry) -> Iterator[Entry]:
        """Inputs, and the models that its rows or weights know of."""
        for _, url, content_digest, _ in entry.made.parents:
            there = self._by_place.get(url)
            if there is not None and there.made.content_digest == content_digest:
                yield there
            else:
                yield from self._by_digest.get(content_digest, ())
        for key in entry.keys:
            yield from self._by_key.get(key, ())
        trained = self._by_place.get(f"{entry.root}/{entry.place.removesuffix(RECORDS_END)}")
        if trained is not None:
            yield trained
