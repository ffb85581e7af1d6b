"""Every operation by name, read off the families' re-exports: a line in an `__init__` registers it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from datakit.op import Op
from schemas.errors import ConfigError, printable
from schemas.nearest import nearest

FAMILIES = ("io", "generate", "label", "filter", "blend", "template", "tokenize", "sql", "measure")
INTERNAL = ("report", "online", "preview", "engines")
"""Families that no command runs: recipes and previews put their operations into graphs and steps."""


def _gather() -> dict[str, type[Op]]:
    ops: dict[str, type[Op]] = {}
    for family in (*FAMILIES, *INTERNAL):
        module = importlib.import_module(f"datakit.{family}")
        for kind in vars(module).values():
            if inspect.isclass(kind) and issubclass(kind, Op) and not inspect.isabstract(kind):
                assert kind.name.startswith(f"{family}."), f"{kind.__name__} is {kind.name} in family {family}"
                assert ops.setdefault(kind.name, kind) is kind, f"two operations are called {kind.name}"
    return dict(sorted(ops.items()))


OPS: Mapping[str, type[Op]] = _gather()
"""Name ("label.length") to operation."""


def kind_of(name: str) -> type[Op]:
    """The operation of that name; `ConfigError` where there is none."""
    if name not in OPS:
        family = [known for known in OPS if known.partition(".")[0] == name.partition(".")[0]]
        near = nearest(name, OPS)
        raise ConfigError(
            "unknown-op",
            f"there is no operation {printable(name)}",
            expected=", ".join(family) or f"an operation of {', '.join(FAMILIES)}",
            kept="nothing was started",
            next=f"quiver ops {near}" if near else "quiver ops",
            wrong=(name,),
            nearest=near,
        )
    return OPS[name]


def op_of(name: str, params: Mapping[str, Any] | None = None) -> Op:
    """The operation of that name with these settings; `ConfigError` for unknown names and bad settings."""
    return kind_of(name).of(params or {})
