"""Every suite by name, read off the re-exports of `pipelines.suites`."""

from __future__ import annotations

from collections.abc import Mapping

import pipelines.suites
from pipelines.suites.suite import Suite
from schemas.errors import ConfigError, printable
from schemas.nearest import nearest


def suites() -> Mapping[str, Suite]:
    """All of them, in the order of the list."""
    return {value.name: value for value in vars(pipelines.suites).values() if isinstance(value, Suite)}


def suite_of(name: str) -> Suite:
    """The suite of that name; `ConfigError` where there is none."""
    known = suites()
    if name not in known:
        near = nearest(name, known)
        raise ConfigError(
            "unknown-suite",
            f"there is no suite {printable(name)}",
            expected=", ".join(known),
            kept="nothing was started",
            next=f"--suite {near}" if near else "quiver suites",
            wrong=(name,),
            nearest=near,
        )
    return known[name]
