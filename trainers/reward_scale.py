"""Mean and standard deviation of a reward model's numbers, as its checkpoint carries them.

Rewards are standardised with them, and nobody copies figures; in NeMo-Aligner they are `reward_standardization` in the
configuration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

FACT = "reward_scale"
"""The fact under which a checkpoint says them: for each number `mean`, `std` (unbiased) and `count` of the rows."""

Scale: TypeAlias = Mapping[str, tuple[float, float]]
"""(mean, standard deviation) by the name of the number."""


def recorded_scale(recorded: object) -> Scale:
    """What a checkpoint `recorded` (`FACT`), without numbers that nothing can be divided by."""
    given: Mapping[str, Any] = recorded if isinstance(recorded, dict) else {}
    read = {name: (_number(one, "mean"), _number(one, "std")) for name, one in given.items()}
    return {name: (mean, std) for name, (mean, std) in read.items() if math.isfinite(mean) and 0 < std < math.inf}


def _number(figures: object, name: str) -> float:
    """NaN where there is none."""
    value = figures.get(name) if isinstance(figures, dict) else None
    return float(value) if isinstance(value, int | float) else math.nan
