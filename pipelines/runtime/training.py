"""How a training run is launched, and on how many ranks."""

from __future__ import annotations

from typing import Any

from pipelines.runtime import settings
from trainers.config import check_trackers
from trainers.launch import start
from trainers.launch.settings import Launch


def check(node: Any) -> tuple[Launch, int]:
    """How `node` is launched, and on how many ranks: its own number, or that of `[launch]`, or the fewest that its cut
    fills. Raises `ConfigError` for what cannot be placed, and for a tracker that is not installed.
    """
    check_trackers(node.training.execution)
    launch, parallel = settings.launching(), node.training.execution.parallel
    ranks = node.ranks or launch.ranks or parallel.min_world_size
    start.check(parallel, ranks, launch, node.label)
    return launch, ranks
