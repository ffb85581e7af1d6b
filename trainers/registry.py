"""Every algorithm by name, read off the re-exports of `trainers.algorithms`; torch is not imported for it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import trainers.algorithms
from schemas.errors import ConfigError, printable
from schemas.settings import parse, suggestion
from trainers.algorithm import Algorithm


@functools.cache
def algorithms() -> Mapping[str, Algorithm]:
    """Every algorithm by name, in the order of the names."""
    listed = [value for value in vars(trainers.algorithms).values() if isinstance(value, Algorithm)]
    return {algorithm.name: algorithm for algorithm in sorted(listed, key=lambda algorithm: algorithm.name)}


def algorithm_of(name: str) -> Algorithm:
    """The algorithm of that name; `ConfigError` where there is none."""
    if name not in algorithms():
        raise ConfigError(
            "unknown-algorithm",
            f"there is no algorithm {printable(name)}{suggestion(name, list(algorithms()))}",
            expected=", ".join(algorithms()),
            kept="nothing was started",
        )
    return algorithms()[name]


def configured(name: str, settings: Mapping[str, Any], where: str = "") -> tuple[Algorithm, Any]:
    """The algorithm and an instance of its settings; `ConfigError` for an unknown name or setting."""
    algorithm = algorithm_of(name)
    return algorithm, parse(algorithm.settings, settings, where=where)
