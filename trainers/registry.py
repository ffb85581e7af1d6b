"""ALGORITHMS: name -> Algorithm, read off the re-exports of `trainers.algorithms`.

`names()` and `check_name()` look at the file names only, so that a misspelt algorithm is refused before torch is
imported.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.errors import ConfigError, printable
from schemas.settings import parse, suggestion

if TYPE_CHECKING:
    from trainers.algorithm import Algorithm


def names() -> list[str]:
    """The names of all algorithms, in order."""
    return sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent / "algorithms")]))


def check_name(name: str) -> None:
    """Raise `ConfigError` when there is no such algorithm."""
    if name not in names():
        raise ConfigError(
            "unknown-algorithm",
            f"there is no algorithm {printable(name)}{suggestion(name, names())}",
            expected=", ".join(names()),
            kept="nothing was started",
        )


def algorithms() -> dict[str, Algorithm]:
    """Every algorithm by name (imports torch)."""
    import trainers.algorithms
    from trainers.algorithm import Algorithm

    found = [value for value in vars(trainers.algorithms).values() if isinstance(value, Algorithm)]
    return {algorithm.name: algorithm for algorithm in sorted(found, key=lambda algorithm: algorithm.name)}


def configured(name: str, settings: Mapping[str, Any], where: str = "") -> tuple[Algorithm, Any]:
    """The algorithm and an instance of its settings; `ConfigError` for an unknown name or setting."""
    check_name(name)
    algorithm = algorithms()[name]
    return algorithm, parse(algorithm.settings, settings, where=where)
