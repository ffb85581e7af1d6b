"""Every verifier by its kind, read off the re-exports of `datakit.verifiers`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from datakit.verifiers.verifier import Verifier
from schemas.errors import ConfigError, printable
from schemas.nearest import nearest
from schemas.settings import parse


def _gather() -> dict[str, type[Verifier]]:
    kinds = vars(importlib.import_module("datakit.verifiers")).values()
    return {
        kind.kind: kind
        for kind in kinds
        if inspect.isclass(kind) and issubclass(kind, Verifier) and not inspect.isabstract(kind)
    }


VERIFIERS: Mapping[str, type[Verifier]] = _gather()
"""Kind ("number") to verifier."""


def verifier_of(kind: str, settings: Mapping[str, Any], where: str) -> Verifier:
    """The verifier of that kind with these settings; `ConfigError` for unknown kinds and bad settings."""
    if kind not in VERIFIERS:
        raise ConfigError(
            "bad-setting", f"there is no verifier {printable(kind)}", expected=f"kind: {', '.join(VERIFIERS)}",
            found=printable(kind), where=where, kept="nothing was started", next=f"quiver ops {where}",
            wrong=(kind,), nearest=nearest(kind, VERIFIERS),
        )  # fmt: skip
    try:
        return parse(VERIFIERS[kind], settings, where=f"settings of {where}, kind {kind}")
    except ConfigError as fault:
        fault.where, fault.next = fault.where or where, fault.next or f"quiver ops {where}"
        raise
