"""A page of a run: one HTML file beside its results, which asks nobody for anything and does nothing but search itself.

record    what a run leaves for its page          reported   the results of a run, and SQL over them
blocks    what pages are made of                  charts     Vega-Lite, drawn as SVG (extra `report`)
page      the sections, written as one file       the others: one section each
"""

from __future__ import annotations

from pipelines.report.renderer import Renderer, Report


def _render(report: Report) -> str:
    from pipelines.report.html.page import render

    return render(report)


PAGE = Renderer(name="page", render=_render)
