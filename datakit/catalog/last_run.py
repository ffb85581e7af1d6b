"""Which results are those of the last run of each recipe and experiment, read off their manifests alone.

Where a name has several variants, the last that was finished in an iteration counts, with all that it was made of, and
what was made of these and of no other variant. Where it has one, it counts, unless it was made of another variant. Of
iterations, the one that was finished last decides which variants of the others it agrees with.

A set of entries is an integer here: bit `i` stands for the entry with the index `i`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from datakit.catalog.lineage import Lineage
from datakit.catalog.workspace import Entry

_G = TypeVar("_G", bound=Hashable)


def last_run(lineage: Lineage) -> frozenset[str]:
    """The places of the results that are of a last run."""
    entries, ancestors = lineage.entries, _ancestors(lineage.direct)
    groups: dict[tuple[str | None, str | None], list[int]] = defaultdict(list)
    for index, entry in enumerate(entries):
        groups[entry.recipe, entry.experiment].append(index)
    chosen = (index for group in groups.values() for index in _chosen(entries, group, ancestors))
    return frozenset(entries[index].place for index in chosen)


def runs(lineage: Lineage, groups: Mapping[_G, Sequence[int]]) -> Iterator[tuple[_G, list[int]]]:
    """The runs of each group of entries (their indices), last one first: entries of one variant of every name, with
    those of the group that they were made of, which other runs may have as well.
    """
    ancestors = _ancestors(lineage.direct)
    for group, indices in groups.items():
        own = left = sum(1 << index for index in indices)
        while left:
            above = left
            for index in _indices(left):
                above |= ancestors[index] & own
            taken = sum(1 << index for index in _chosen(lineage.entries, [*_indices(above)], ancestors))
            yield group, [*_indices(taken if taken & left else left)]
            left &= ~taken if taken & left else 0


def _chosen(entries: Sequence[Entry], group: Sequence[int], ancestors: Sequence[int]) -> Iterable[int]:
    """The indices of those of one recipe and experiment that are of its last run."""
    variants: dict[str, int] = defaultdict(int)
    for index in group:
        variants[entries[index].name] |= 1 << index
    own = sum(1 << index for index in group)
    split = sum(bits for bits in variants.values() if bits.bit_count() > 1)
    taken = excluded = 0
    units: dict[int | None, list[int]] = defaultdict(list)
    for index in sorted(group, key=lambda one: entries[one].finished, reverse=True):
        units[entries[index].iteration].append(index)
    for unit in units.values():
        several = any(split >> index & 1 for index in unit)
        if several:
            head = next((one for one in unit if not (ancestors[one] | 1 << one) & excluded), None)
            for index in [] if head is None else _indices((ancestors[head] | 1 << head) & own):
                taken |= 1 << index
                excluded |= variants[entries[index].name] & ~(1 << index)
        for index in reversed(unit):
            if several and not ancestors[index] & taken & split:
                continue
            if not (ancestors[index] | 1 << index) & excluded:
                taken |= 1 << index
                excluded |= variants[entries[index].name] & ~(1 << index)
    return _indices(taken & ~excluded)


def _indices(bits: int) -> Iterator[int]:
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def _ancestors(parents: Sequence[Sequence[int]]) -> list[int]:
    """All that each entry was made of, by what it was made of directly."""
    known: dict[int, int] = {}
    for start in range(len(parents)):
        waiting, under_way = [start], set[int]()
        while waiting:
            index = waiting[-1]
            missing = [one for one in parents[index] if one not in known and one not in under_way]
            if index not in known and missing and index not in under_way:
                under_way.add(index)
                waiting += missing
                continue
            waiting.pop()
            bits = 0
            for one in parents[index]:
                bits |= known.get(one, 0) | 1 << one
            known.setdefault(index, bits & ~(1 << index))
    return [known[index] for index in range(len(parents))]
