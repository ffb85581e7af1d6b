"""FAMILIES: name -> Family, read off the re-exports of `families`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.errors import ConfigError, printable
from schemas.nearest import nearest
from trainers.architecture import ModelConfig
from trainers.engine.weights import families
from trainers.engine.weights.family import Family

FAMILIES = {family.name: family for family in vars(families).values() if isinstance(family, Family)}


def named(name: str) -> Family:
    """The family `name`; `ConfigError` if there is none."""
    if name not in FAMILIES:
        raise ConfigError(
            "unknown-family",
            f"there is no family {printable(name)}",
            expected=", ".join(FAMILIES),
            kept="nothing was written",
            wrong=(name,),
            nearest=nearest(name, FAMILIES),
        )
    return FAMILIES[name]


def of_config(data: Mapping[str, Any], where: str) -> Family:
    """The family that answers to the architecture of a config.json; `ConfigError` if there is none."""
    answers = {name: family for family in FAMILIES.values() for name in (family.causal, family.scalar)}
    names = data.get("architectures")
    if isinstance(names, list) and len(names) == 1 and isinstance(names[0], str) and names[0] in answers:
        return answers[names[0]]
    raise ConfigError(
        "unsupported-architecture",
        f"config.json asks for {printable(names, 120)}",
        expected="architectures with one of " + ", ".join(sorted(answers)),
        found=f"model_type {printable(data.get('model_type'))}",
        where=where,
        kept="nothing was written",
    )


def of_model(model: ModelConfig, wish: str | None) -> Family:
    """The family `wish`, or the first that can say `model`; `ConfigError` says what is in the way."""
    tried = FAMILIES.values() if wish is None else [named(wish)]
    faults = {family.name: family.faults(model) for family in tried}
    for family in tried:
        if not faults[family.name]:
            return family
    raise ConfigError(
        "no-family",
        "no Hugging Face architecture computes what this network computes",
        found="; ".join(f"not {name}: {', '.join(reasons)}" for name, reasons in faults.items()),
        kept="nothing was written",
    )
