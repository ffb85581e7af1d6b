"""Training runs as a graph holds them: complete but for places, checked strictly before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luigi.freezing import recursively_unfreeze

from schemas.errors import ConfigError
from schemas.settings import parse
from trainers.config import Run

_PLACES = {"data": "plan-data", "out": "plan-out"}
_OURS = ("data", "out", "init", "vocabulary", "validation", "work", "key", "facts", "model", "algorithm", "seed")


def merged(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`defaults` with what is `given` in their place, object by object; a list is replaced whole.

    What is given displaces the defaults that exclude it: `max_steps` the `epochs` and the other way round, a constant
    rate the `min_lr` that it does not fall to.
    """
    rest = dict(defaults)
    for one, other in (("epochs", "max_steps"), ("max_steps", "epochs")):
        if given.get(one) is not None and given.get(other) is None:
            rest.pop(other, None)
    if given.get("schedule") == "constant":
        rest.pop("min_lr", None)
    for name, value in given.items():
        below = rest.get(name)
        rest[name] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return rest


def run_of(
    algorithm: str, learning: Mapping[str, Any], *, seed: int, model: Mapping[str, Any] | None = None, where: str = ""
) -> Run:
    """The run with these settings, of a fresh `model` or (None) of a checkpoint; `ConfigError` for any that is unknown.

    `learning` holds fields of `trainers.config.Run`: optim, epochs or max_steps, global_batch_size, settings,
    parallel ... `model` holds those of `trainers.architecture.Model`; the vocabulary's size comes from the tokenizer.
    """
    given = recursively_unfreeze(dict(learning))
    taken = sorted(set(given) & set(_OURS))
    if taken:
        raise ConfigError(
            "bad-setting", f"{', '.join(taken)} cannot be set here", where=where, kept="nothing was started"
        )
    if model is None:
        start: dict[str, Any] = {"init": "plan-init"}
    else:
        start = {"model": {"vocab_size": 1, **recursively_unfreeze(dict(model))}}
    return parse(Run, {"algorithm": algorithm, "seed": seed, **_PLACES, **start, **given}, where=where)
