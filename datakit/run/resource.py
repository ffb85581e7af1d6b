"""What an operation needs besides rows and settings: a tokenizer, a policy, a reward model, by key.

The key stands for the thing in the task's identity; `open` makes it, in the process that does the work and
only there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from datakit.op import NOTHING, Op
from schemas import Schema
from schemas.errors import ConfigError
from schemas.nearest import nearest


@dataclass(frozen=True)
class Resource:
    """A thing to open where the work is done.

    `content_key` names its content (a checkpoint's digest, a tokenizer's identity), never its place. `open` must be
    picklable (a module-level function or a `functools.partial` of one) when `processes` is above zero.
    `takes` are the columns it reads; `apply` checks them before any work. What `apply` opens and has a
    `close` method, it closes. `tokenizer_id` is the identity of the tokenizer that it is, or whose ids it reads and
    writes: `apply` refuses rows in ids of another one, and records it with the columns of ids that come out.
    `outputs` are what it calls the numbers that it puts on rows, where that is known before it answers. `concurrency`
    is how many calls it takes at a time, each of some rows, from as many threads: more than one of what answers
    elsewhere, and bounds its requests itself.
    """

    content_key: str
    open: Callable[[], object]
    takes: Schema = NOTHING
    tokenizer_id: str = ""
    outputs: tuple[str, ...] = ()
    concurrency: int = 1


def check_needs(op: Op, resources: Collection[str]) -> None:
    """Raise `ConfigError` if the names of `resources` lack one that `op` needs (all such are the error's `missing`), or
    have one that it never asks for.
    """
    missing = [name for name in op.needs if name not in resources]
    if missing:
        error = ConfigError(
            "missing-resource",
            f"{op.name} needs {', '.join(op.needs)}; no {', '.join(missing)} was given",
            expected=", ".join(op.needs),
            found=", ".join(sorted(resources)) or "none",
            kept="nothing was started",
        )
        error.missing = tuple(missing)
        raise error
    for name in resources:
        if name not in op.needs:
            raise ConfigError(
                "unknown-resource",
                f"{op.name} does not use a {name}",
                kept="nothing was started",
                wrong=(name,),
                nearest=nearest(name, op.needs),
            )


def open_all(resources: Mapping[str, Resource]) -> dict[str, object]:
    """The opened things by name."""
    return {name: resource.open() for name, resource in resources.items()}


def close_all(opened: Mapping[str, object]) -> None:
    """Close whatever can be closed."""
    for thing in opened.values():
        close = getattr(thing, "close", None)
        if callable(close):
            close()
