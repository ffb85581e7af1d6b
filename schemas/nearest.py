"""The name that was meant by one that there is not: written alike, whatever its case."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The one of `known` that is `name` in another case or with other dashes, or with two neighbours swapped; otherwise
    the most alike from `cutoff` (difflib's ratio) on; empty where none is. It is never `name` itself.
    """
    folded: dict[str, str] = {}
    for one in known:
        if one != name:
            folded.setdefault(_folded(one), one)
    if _folded(name) in folded:
        return folded[_folded(name)]
    plain = _folded(name)
    swapped = (plain[:at] + plain[at + 1] + plain[at] + plain[at + 2 :] for at in range(len(plain) - 1))
    near = [one for one in swapped if one in folded] or difflib.get_close_matches(plain, folded, 1, cutoff)
    return folded[near[0]] if near else ""


def suggestion(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """` (did you mean x?)` for the `nearest` of the known names, or nothing."""
    return did_you_mean(nearest(name, known, cutoff))


def did_you_mean(near: str) -> str:
    """` (did you mean x?)` for the name that was meant, or nothing."""
    return f" (did you mean {near}?)" if near else ""


def _folded(name: str) -> str:
    return name.lower().replace("-", "_")
