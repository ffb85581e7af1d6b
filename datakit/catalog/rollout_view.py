"""The view `rollouts`: what every step of online runs asked, drew and learnt, one dataset a row, those that are gone
among them. No file is read for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from datakit.catalog.rollouts import Rollout
from datakit.catalog.stacked import LABELS
from datakit.catalog.workspace import GONE

ROLLOUT: Mapping[str, tuple[str, str]] = {
    **{label: LABELS[label] for label in ("recipe", "experiment")},
    "policy": ("VARCHAR", "the place of the checkpoint that the run makes"),
    "step": ("INTEGER", "the step that drew it; of answers to held-out prompts the steps that were made before"),
    "stage": (
        "VARCHAR",
        "prompts, answers or rows (that were learnt); validation; warmup. before what a critic learnt",
    ),
    "rows": ("BIGINT", "rows that it holds, or had"),
    "rejected": ("BIGINT", "rows that were set aside when it was made"),
    "reward": ("DOUBLE", "the mean reward of these rows"),
    "bytes": ("BIGINT", "bytes of its files; 0 where they are gone"),
    "gone": ("BOOLEAN", "whether its rows were dropped (keep_rollouts)"),
    "seconds": ("DOUBLE", "how long making it took"),
    "place": ("VARCHAR", "its folder below the root"),
}


def rollout_rows(rollouts: Sequence[Rollout]) -> Iterator[dict[str, Any]]:
    """A row of the view for each of `rollouts`, in the order of the steps."""
    for one in sorted(rollouts, key=lambda one: (one.owner, one.step, one.entry.place)):
        entry, labels, gone = one.entry, one.labels, one.entry.damage == GONE
        yield {
            **{label: labels[label] for label in ("recipe", "experiment", "policy", "step", "stage")},
            "rows": entry.rows,
            "rejected": sum(rows for _, rows, _ in entry.made.rejected),
            "reward": entry.made.means.get("reward"),
            "bytes": 0 if gone else entry.bytes,
            "gone": gone,
            "seconds": entry.made.seconds,
            "place": entry.place,
        }
