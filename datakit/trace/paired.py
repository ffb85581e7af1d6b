"""How sure a mean difference over common prompts is: the ends of its 95 % interval, paired by prompt."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from datakit.columns import bootstrap
from datakit.columns.measurement import numbers
from datakit.op import Context

_DRAWS, _LEAST, _WORK = 2000, 200, 10**8
"""Draws of an interval, at least so many of them, and numbers that all of them may look at."""


def with_intervals(rewards: pa.Table, paired: pa.Table) -> pa.Table:
    """`rewards` with `low` and `high`, the ends of the interval of each `difference`, by the bootstrap over the prompts
    in `paired` (stage, scorer, difference; a row for each common prompt); null where fewer than two are common.
    """
    keys = [*zip(paired["stage"].to_pylist(), paired["scorer"].to_pylist(), strict=True)]
    gaps, places = numbers(paired["difference"]), dict[object, list[int]]()
    for at, key in enumerate(keys):
        places.setdefault(key, []).append(at)
    ends: dict[str, list[float | None]] = {"low": [], "high": []}
    for row in rewards.select(["stage", "scorer"]).to_pylist():
        own = gaps[places.get((row["stage"], row["scorer"]), [])]
        sums_GD = np.stack([own, np.ones(len(own))], axis=1)
        draws = max(_LEAST, min(_DRAWS, _WORK // max(len(own), 1)))
        rng = Context().rng("difference", row["stage"], row["scorer"])
        _, low, high = bootstrap.interval(sums_GD, bootstrap.mean, rng, draws)
        ends["low"].append(low if np.isfinite(low) else None)
        ends["high"].append(high if np.isfinite(high) else None)
    at = rewards.column_names.index("difference") + 1
    for name, values in reversed(ends.items()):
        rewards = rewards.add_column(at, name, pa.array(values, pa.float64()))
    return rewards
