"""Every renderer, read off the re-exports of `pipelines.report`."""

from __future__ import annotations

from collections.abc import Sequence

import pipelines.report
from pipelines.report.renderer import Renderer, Report


def renderers() -> Sequence[Renderer]:
    """All of them, in the order of the list."""
    return [value for value in vars(pipelines.report).values() if isinstance(value, Renderer)]


def rendered(report: Report) -> str:
    """What all renderers say of `report`, one after the other; empty where nothing was measured."""
    return "\n".join(filter(None, (renderer.render(report) for renderer in renderers())))
