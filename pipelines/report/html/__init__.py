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


def _place(report: Report) -> str:
    """Beside the results, by the key of the last of them; pages are written below local folders alone."""
    key = report.results[-1].rpartition("-")[2][:8] if report.results else ""
    return f"{report.folder}/report-{key}.html" if key and "://" not in report.root else ""


PAGE = Renderer(name="page", render=_render, place=_place)
