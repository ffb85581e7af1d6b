"""What `quiver show` says of the folder beside a checkpoint that holds a training's settings, log and figures."""

from __future__ import annotations

import json
import os
import shlex
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from quiver import plain_places
from schemas.errors import QuiverError, escaped
from schemas.process import terminal
from schemas.run_layout import CONFIG, LOGS, METRICS, RECORDS_END, RUN_END, TENSORBOARD
from schemas.store.storage import relative, shown
from schemas.untrusted import strict_json

_ENDS = 1 << 16
"""Bytes at the end of the figures that are read."""
_SETTINGS = ("algorithm", "settings", "epochs", "max_steps", "global_batch_size", "precision", "lora", "seed")
_PLACES = ("data", "init")
_OPTIM = ("lr", "min_lr", "schedule", "warmup_steps", "weight_decay", "clip_grad")
_FIGURES = ("step", "epoch", "loss", "val_loss", "lr", "grad_norm")


def lines(place: str, settings: Mapping[str, Any], steps: int) -> Iterator[str]:
    """The settings of the run at `place`, its last `steps` lines of figures, and where the rest of it is seen."""
    yield terminal.wrapped(f"{shown(place)}: {plain_places.RUN}")
    near = {name: relative(settings[name]) for name in _PLACES if isinstance(settings.get(name), str)}
    yield from ("", f"settings ({CONFIG} has them all)")
    yield from plain_places.fields(learnt_with(settings) | near)
    metrics = os.path.join(place, METRICS)
    yield from ("", f"figures, the last of {METRICS}")
    for figures in _last(metrics, steps):
        values = {name: figures[name] for name in _FIGURES if name in figures}
        words = [
            f"{name} {value:.5g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
        ]
        yield terminal.wrapped(f"  {escaped(', '.join(words))}", "    ")
    out = place.removesuffix("/").removesuffix(RUN_END)
    places = {
        "checkpoint": out,
        "records": f"{out}{RECORDS_END}",
        "log": f"{place}/{LOGS}",
        "curves": f"{place}/{TENSORBOARD}",
    }
    there = {name: where for name, where in places.items() if os.path.exists(where)}
    if there:
        yield ""
        yield from plain_places.fields(there)
    quoted = shlex.quote(place)
    figures_are = f"less {quoted}/{METRICS}" if os.path.exists(metrics) else f"ls {quoted}"
    yield from ("", f"next: tensorboard --logdir {quoted}" if "curves" in there else f"next: {figures_are}")


def learnt_with(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of the settings of a training those by which a person knows it, as they are written; none that is off."""
    optim = settings.get("optim")
    chosen = {name: settings[name] for name in _SETTINGS if settings.get(name) not in (None, {})}
    chosen |= {name: optim[name] for name in _OPTIM if name in optim} if isinstance(optim, dict) else {}
    return {name: json.dumps(one) if isinstance(one, dict) else one for name, one in chosen.items()}


def _last(metrics: str, steps: int) -> Iterator[dict[str, Any]]:
    """The last whole lines of figures; none before the first step."""
    try:
        with open(metrics, "rb") as file:
            file.seek(max(0, os.path.getsize(metrics) - _ENDS))
            ends = deque(file.read().split(b"\n")[:-1], maxlen=steps)
    except OSError:
        return
    for line in ends:
        with suppress(ValueError, QuiverError):
            figures = strict_json(line)
            if isinstance(figures, dict):
                yield figures
