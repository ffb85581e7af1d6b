"""Every algorithm by name, read off the re-exports of `trainers.algorithms`; torch is not imported for it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import trainers.algorithms
from schemas.errors import ConfigError, printable
from schemas.nearest import nearest
from schemas.setting_faults import AND
from schemas.settings import defaults, parse
from trainers.algorithm import Algorithm

_ELSEWHERE = ("rloo", "reinforce")
"""Methods that are known by names like those of others, and that are not here."""


@functools.cache
def algorithms() -> Mapping[str, Algorithm]:
    """Every algorithm by name, in the order of the names."""
    listed = [value for value in vars(trainers.algorithms).values() if isinstance(value, Algorithm)]
    return {algorithm.name: algorithm for algorithm in sorted(listed, key=lambda algorithm: algorithm.name)}


@functools.cache
def presets() -> Mapping[str, tuple[str, Mapping[str, Any]]]:
    """Every preset by name: the algorithm it is one of, and its settings."""
    return {
        name: (algorithm.name, settings)
        for algorithm in algorithms().values()
        for name, settings in algorithm.presets.items()
    }


def spelled_out(name: str, settings: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The algorithm's own name, and the `settings` over those of the preset, where `name` is a preset's."""
    if name not in presets():
        return name, settings
    algorithm, preset = presets()[name]
    return algorithm, {**preset, **settings}


def settings_by_name(algorithm: str) -> dict[str, str]:
    """Where a training has the settings of an algorithm (`settings.beta`), by their names here and in other programs;
    two paths with `and` between where one setting elsewhere is two here. Empty where there is no such algorithm.
    """
    name, _ = spelled_out(algorithm, {})
    if name not in algorithms():
        return {}
    kind = algorithms()[name].settings
    names = {**getattr(kind, "other_names", {}), **{one: one for one in defaults(kind)}}
    return {name: AND.join(f"settings.{one}" for one in ours.split(AND)) for name, ours in names.items()}


def algorithm_of(name: str) -> Algorithm:
    """The algorithm of that name, or whose preset has it; `ConfigError` where there is none."""
    known, _ = spelled_out(name, {})
    if known not in algorithms():
        names = [*algorithms(), *presets()]
        raise ConfigError(
            "unknown-algorithm",
            f"there is no algorithm {printable(name)}",
            expected=", ".join(names),
            kept="nothing was started",
            wrong=(name,),
            nearest="" if name.lower() in _ELSEWHERE else nearest(name, names),
        )
    return algorithms()[known]


def configured(name: str, settings: Mapping[str, Any], where: str = "") -> tuple[Algorithm, Any]:
    """The algorithm as it is under these settings, and an instance of them; `ConfigError` for an unknown name or
    setting.
    """
    algorithm = algorithm_of(name)
    parsed: Any = parse(algorithm.settings, spelled_out(name, settings)[1], where=where)
    return algorithm.under(parsed), parsed
