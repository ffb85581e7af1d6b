"""Every algorithm over images by name, read off the re-exports of `trainers.images.algorithms`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import trainers.images.algorithms as listed
from schemas.errors import ConfigError, printable
from schemas.nearest import nearest
from schemas.settings import bound_faults, parse
from trainers.images.algorithm import ImageAlgorithm


@functools.cache
def algorithms() -> Mapping[str, ImageAlgorithm]:
    """Every algorithm over images by its name."""
    return {one.name: one for one in vars(listed).values() if isinstance(one, ImageAlgorithm)}


def spelled_out(name: str, settings: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The algorithm's own name, and the `settings` over those of the preset, where `name` is a preset's."""
    for algorithm in algorithms().values():
        if name in algorithm.presets:
            return algorithm.name, {**algorithm.presets[name], **settings}
    return name, settings


def configured(name: str, settings: Mapping[str, Any], where: str = "") -> tuple[ImageAlgorithm, Any]:
    """The algorithm and an instance of its settings; `ConfigError` for an unknown name or setting."""
    known, chosen = spelled_out(name, settings)
    if known not in algorithms():
        names = [one for algorithm in algorithms().values() for one in (algorithm.name, *algorithm.presets)]
        raise ConfigError(
            "unknown-algorithm",
            f"there is no algorithm {printable(name)} over images",
            expected=", ".join(names),
            kept="nothing was started",
            wrong=(name,),
            nearest=nearest(name, names),
        )
    algorithm = algorithms()[known]
    parsed: Any = parse(algorithm.settings, chosen, where=where)
    faults = bound_faults(parsed, "settings.")
    if faults:
        raise ConfigError("contradiction", "; ".join(faults), where=where, kept="nothing was started")
    return algorithm, parsed
