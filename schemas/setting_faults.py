"""What is wrong with settings: all faults of one reading, or all that are out of range, as one error."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

from schemas.errors import ConfigError, printable
from schemas.nearest import did_you_mean

AND = " and "
"""Between the names of two settings that are one in other programs."""


class Faults(list[str]):
    """Faults in words; `near` has the name that was meant in a fault, `values` the value that is none, `unknown` all
    keys that there are not, `levels` the settings that there are where such keys stood, by path. `elsewhere` are
    settings that such a key may be, which stand elsewhere, by their names.
    """

    def __init__(self, faults: Iterable[str] = (), elsewhere: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__(faults)
        self.elsewhere = elsewhere or {}
        self.near: dict[str, str] = {}
        self.values: dict[str, str] = {}
        self.unknown: list[str] = []
        self.levels: dict[str, str] = {}

    def misnamed(self, fault: str, near: str, value: str = "") -> None:
        """A `fault` with a name for which `near` was meant (empty: that is open); `value` where that is a value."""
        self.append(fault)
        self.near[fault] = near
        if value:
            self.values[fault] = value

    def unknown_key(self, path: str, key: str, near: str, known: str) -> None:
        """A `key` below `path` for which `near` was meant, unless it is a setting `elsewhere`; `known`: the settings
        there, as they are listed.
        """
        near = self.elsewhere.get(path + key, near)
        self.misnamed(f"unknown key {printable(path + key)}", near)
        self.unknown.append(path + key)
        self.levels.setdefault(path, known)

    def add(self, others: Faults) -> None:
        """Append the faults of `others`; where both have unknown keys at a level, the listing there is ours."""
        self.extend(others)
        self.near |= others.near
        self.values |= others.values
        self.unknown += others.unknown
        self.levels = {**others.levels, **self.levels}

    def raise_any(self, where: str, next: str = "") -> None:
        """`ConfigError` with all of them, where there are any."""
        if not self:
            return
        alone = len(self) == 1
        raise ConfigError(
            "unknown-key" if len(self.unknown) == len(self) else "bad-setting",
            self[0] if alone else "; ".join(f"{fault}{did_you_mean(self.near.get(fault, ''))}" for fault in self),
            expected="; ".join(self.levels.values()),
            where=where,
            kept="nothing was started",
            next=next,
            wrong=self.unknown or [self.values[fault] for fault in self if alone and fault in self.values],
            nearest=self.near.get(self[0], "") if alone else "",
        )


def check_ranges(who: str, **bounds: tuple[object, bool, str]) -> None:
    """`ConfigError` naming every setting of `who` that is out of its range: name=(value, whether it is in range, the
    range).
    """
    wrong = {name: bound for name, bound in bounds.items() if not bound[1]}
    if wrong:
        raise ConfigError(
            "bad-setting",
            f"{who}: {', '.join(wrong)} out of range",
            expected=", ".join(f"{name} {expected}" for name, (_, _, expected) in wrong.items()),
            found=", ".join(f"{name} {value}" for name, (value, _, _) in wrong.items()),
            kept="nothing was started",
        )


def each_once(names: Collection[str]) -> bool:
    """Whether there are `names`, and none stands twice."""
    return 0 < len(names) == len(set(names))
