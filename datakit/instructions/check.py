"""One kind of instruction that a rule can check (IFEval, Zhou et al. 2023, arXiv:2311.07911): its id, its settings, and
whether a column of responses follows it.

Checks see texts that are not blank. Words and phrases of settings are literal text, never patterns; patterns are those
of this folder, matched by an engine whose time is linear in the text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

Relation = Callable[["pl.Expr", int], "pl.Expr"]
RELATIONS: Mapping[str, Relation] = {"at least": lambda count, n: count >= n, "less than": lambda count, n: count < n}


def number(value: Any) -> bool:
    """A whole number, 0 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 10**6


def text(value: Any) -> bool:
    """A text that is not blank."""
    return isinstance(value, str) and bool(value.strip())


def texts(value: Any) -> bool:
    """A list of such texts, at least one."""
    return isinstance(value, list) and bool(value) and all(map(text, value))


def relation(value: Any) -> bool:
    """`at least` or `less than`."""
    return isinstance(value, str) and value in RELATIONS


@dataclass(frozen=True)
class Instruction:
    """`follows(text, settings)` is a boolean expression over the texts; `settings` says what each value must be."""

    name: str
    follows: Callable[[pl.Expr, Mapping[str, Any]], pl.Expr]
    settings: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)

    def fits(self, given: Mapping[str, Any]) -> bool:
        """Whether the settings are there, each of its kind; others do not matter."""
        return all(name in given and fits(given[name]) for name, fits in self.settings.items())


def compared(count: pl.Expr, given: Mapping[str, Any], n: str, by: str = "relation") -> pl.Expr:
    """`count` held against the setting called `n`, as the setting `by` says."""
    return RELATIONS[given[by]](count, given[n])


def literal(words: str) -> str:
    """The text as a pattern that matches nothing else."""
    return "".join(f"\\x{{{ord(one):x}}}" for one in words)
