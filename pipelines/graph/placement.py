"""Where a model answers and how it is opened: what its backend says, and what stands behind its reference.

    --model ./llama,precision=bf16,workers=2      --model http://localhost:8000/v1#llama,concurrency=64,timeout=120

Settings belong to one reference, so that two models in one command are opened differently. What changes answers is part
of the keys of what was made of them; where they answer, and how many at a time, is not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from datakit.op import Precision
from schemas.canonical import json_digest, plain
from schemas.errors import ConfigError, printable
from schemas.settings import assigned, parse

IDENTITY = {"identity": True}
"""Metadata of a setting that changes what is answered."""

_SETTINGS = re.compile(r"(?:,[A-Za-z_]\w*=[^,/]*)+$")
_SETTINGS_OF_A_SERVER = re.compile(r"(?<=#)([^,]*)((?:,[A-Za-z_]\w*=[^,]*)+)$")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a model answers.

    `inside`: in the worker processes of the stage; `gpus`: on so many GPUs a worker where there are some, and then as
    many workers as that makes (one with all of them where there are fewer); otherwise one worker per core, each with
    `threads` threads (a number that may change the last bits of a product, so it never follows the number of workers).
    `workers` is the most there are of them; where it is `alone`, one has the whole machine that has no GPU.
    Not `inside`: elsewhere, through one client that has `concurrency` requests under way over all of its calls, which
    come from as many threads; a request that takes longer than `timeout` seconds has failed.
    `precision` is what a network inside computes in; `open` is handed that which the operation asks for, unless the
    reference says otherwise.
    """

    inside: bool = True
    gpus: int = 0
    alone: bool = False
    workers: int | None = None
    threads: int = 1
    concurrency: int = 1
    timeout: float | None = None
    precision: Precision = field(default="fp32", metadata=IDENTITY)

    def faults(self) -> list[str]:
        """Which numbers are too low."""
        least = {"gpus": 0, "workers": 1, "threads": 1, "concurrency": 1}
        given = {name: getattr(self, name) for name in least}
        faults = [f"{name} {value} is below {least[name]}" for name, value in given.items()
                  if value is not None and value < least[name]]  # fmt: skip
        if self.timeout is not None and self.timeout <= 0:
            faults.append(f"timeout {self.timeout} is not above 0")
        return faults


def parted(reference: str) -> tuple[str, tuple[str, ...]]:
    """A reference without the settings behind it, and these, as `name=value`. What lies there under the whole name is
    no setting; behind the `#` of an address a setting may be a path.
    """
    if "://" in reference and (server := _SETTINGS_OF_A_SERVER.search(reference)):
        return reference[: server.start(2)], tuple(server[2].removeprefix(",").split(","))
    settings = _SETTINGS.search(reference)
    if settings is None or os.path.lexists(os.path.expanduser(reference)):
        return reference, ()
    return reference[: settings.start()], tuple(settings[0].removeprefix(",").split(","))


def checked_settings(
    reference: str, form: str, default: Placement, names: tuple[str, ...], texts: tuple[str, ...]
) -> dict[str, Any]:
    """The settings that `texts` give the placement of a model of that `form`, which takes those of these `names`;
    `ConfigError` for others, and for values that they cannot have.
    """
    others = sorted({text.partition("=")[0] for text in texts} - {*names})
    if others:
        raise ConfigError(
            "bad-setting",
            f"{printable(reference, 200)} ({form}) has no {', '.join(map(printable, others))}",
            expected=f"settings of {form}: {', '.join(names)}" if names else f"{form} without settings",
            found=printable(", ".join(texts), 200),
            kept="nothing was started",
            next="correct what stands behind the comma",
        )
    given = assigned(type(default), texts, where=printable(reference, 200))
    if faults := placed(default, given).faults():
        raise ConfigError(
            "bad-setting", f"{printable(reference, 200)}: {'; '.join(faults)}", kept="nothing was started"
        )
    return given


def placed(default: Placement, settings: Mapping[str, Any]) -> Placement:
    """The placement with these settings in it."""
    return parse(type(default), {**plain(default), **settings}) if settings else default


def deciding(default: Placement, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the `settings` that change what is answered."""
    decide = [one.name for one in fields(default) if "identity" in one.metadata]
    return {name: settings[name] for name in decide if name in settings}


def with_answer_settings(model: str, settings: Mapping[str, Any], precision: Precision) -> str:
    """The identity of the model with the key `model` that is asked with these `settings` by an operation that asks in
    `precision`: the key itself where they change nothing.
    """
    changes = {name: value for name, value in settings.items() if (name, value) != ("precision", precision)}
    return json_digest({"model": model, **changes}) if changes else model
