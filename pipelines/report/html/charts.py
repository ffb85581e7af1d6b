"""Vega-Lite specifications of the charts, and their SVG by vl-convert (extra `report`), which asks no network.

Colours are the page's own variables, so that a chart is light or dark with it; texts come escaped out of vl-convert.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.report.html.blocks import ROW_PIXELS

Row = Mapping[str, Any]
Spec = dict[str, Any]

SERIES = 4
"""Lines of one chart, at most: as many as there are colours."""

_INK, _FAINT, _RULE = "var(--ink)", "var(--faint)", "var(--rule)"
_COLOURS = [f"var(--series-{number})" for number in range(1, SERIES + 1)]
_TEXT = {"labelColor": _FAINT, "titleColor": _FAINT, "labelFontSize": 11, "titleFontSize": 11}
_CONFIG = {
    "background": None,
    "font": "sans-serif",
    "aria": False,
    "view": {"stroke": None},
    "axis": {
        **_TEXT, "titleFontWeight": "normal", "gridColor": _RULE, "domainColor": _RULE, "tickColor": _RULE,
        "tickCount": 5, "labelOverlap": True, "titlePadding": 8,
    },
    "legend": {**_TEXT, "orient": "top", "title": None, "labelLimit": 150, "offset": 6},
    "range": {"category": _COLOURS},
}  # fmt: skip
_WIDTH, _HEIGHT = 330, 190
_MARGIN = 30
_TENTH = 0.1
_FEW = 12
"""Points of a line that each have a dot, at most."""
_LINE = 40
"""Characters of the names in one line of a legend."""


def svg(spec: Mapping[str, Any]) -> str | None:
    """The chart as an `<svg>` element; None where nothing is installed that draws it."""
    return _drawn(json.dumps({"autosize": {"type": "fit", "contains": "padding"}, **spec, "config": _CONFIG}))


@functools.lru_cache(maxsize=64)
def _drawn(spec: str) -> str | None:
    try:
        import vl_convert
    except ImportError:
        return None
    return str(vl_convert.vegalite_to_svg(spec, allowed_base_urls=[]))


def histogram(bins: Sequence[Row], title: str) -> Spec:
    """Bars from `low` to `high` as tall as the `share` of each `series` that lies there."""
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "data": {"values": list(bins)},
        "mark": {"type": "bar", "fillOpacity": 0.42, "strokeWidth": 1, "binSpacing": 0},
        "encoding": {
            "x": {"field": "low", "type": "quantitative", "title": title, "scale": {"zero": False}, "bin": "binned"},
            "x2": {"field": "high"},
            "y": {
                "field": "share", "type": "quantitative", "title": "share of rows", "stack": None,
                "axis": {"format": ".0%", "tickCount": 4},
            },
            "color": _colour(bins),
            "stroke": _colour(bins),
        },
    }  # fmt: skip


def lines(points: Sequence[Row], x_title: str, *, ordinal: bool = False, share: bool = False) -> Spec:
    """A line for each `series` through its points (`x`, `y`), with a dot on each where they are few. The axis of a
    `share` spans a tenth at least, so that a change of a thousandth does not look like one of everything.
    """
    x: Spec = {"field": "x", "type": "ordinal" if ordinal else "quantitative", "title": x_title, "sort": None}
    x["axis"] = {"labelAngle": 0, "labelLimit": 90} if ordinal else {"grid": False, "format": ",~f"}
    counts = Counter(row["series"] for row in points)
    scale = _wide(points) if share else {"zero": False}
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "data": {"values": [{**row, "few": counts[row["series"]] <= _FEW} for row in points]},
        "encoding": {
            "x": x,
            "y": {
                "field": "y", "type": "quantitative", "title": None, "scale": scale,
                "axis": {"format": ".2~%" if share else "~g"},
            },
            "color": _colour(points),
        },
        "layer": [
            {"mark": {"type": "line", "strokeWidth": 1.6}},
            {"mark": {"type": "circle", "size": 36, "opacity": 1}, "transform": [{"filter": "datum.few"}]},
        ],
    }  # fmt: skip


def _wide(points: Sequence[Row]) -> Spec:
    """A scale of shares that spans `_TENTH` at least, around the points and within 0 and 1 where these are."""
    low, high = min(row["y"] for row in points), max(row["y"] for row in points)
    if high - low >= _TENTH:
        return {"zero": False}
    bottom = min(max(0.0, (low + high - _TENTH) / 2), max(1.0, high) - _TENTH)
    return {"domain": [round(bottom, 4), round(bottom + _TENTH, 4)], "nice": True}


def bars(listed: Sequence[tuple[str, float]], form: str, unit: str) -> Spec:
    """A bar for each name, as long as its value, with that behind it, in the order given."""
    y = {"field": "name", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 150, "grid": False}}
    longest = max((value for _, value in listed), default=0.0)
    x = {
        "field": "value", "type": "quantitative", "title": unit, "scale": {"domain": [0, longest * 1.25 or 1]},
        "axis": {"tickCount": 3, "format": ",~f"},
    }  # fmt: skip
    return {
        "width": _WIDTH,
        "height": _MARGIN + 22 * max(1, len(listed)),
        "data": {"values": [{"name": name, "value": value} for name, value in listed]},
        "encoding": {"y": y, "x": x},
        "layer": [
            {"mark": {"type": "bar", "color": _COLOURS[0], "height": 13}},
            {
                "mark": {"type": "text", "align": "left", "dx": 5, "color": _INK, "fontSize": 11},
                "encoding": {"text": {"field": "value", "type": "quantitative", "format": form}},
            },
        ],
    }


def arcs(count: int, edges: Sequence[tuple[int, int]], width: int) -> Spec:
    """A dot in each of `count` lines of `ROW_PIXELS`, and an arc on their left for every edge from an upper to a lower
    one: the wider, the more lines it passes.
    """
    widest = max((below - above for above, below in edges), default=1)
    points = [
        {"edge": number, "at": at, "x": -bend * ((below - above) / widest) ** 0.5, "y": line + 0.5}
        for number, (above, below) in enumerate(edges)
        for at, (line, bend) in enumerate(((above, 0), (above, 1), (below, 1), (below, 0)))
    ]
    x = {"field": "x", "type": "quantitative", "axis": None, "scale": {"domain": [-1.02, 0.06], "nice": False}}
    y = {"field": "y", "type": "quantitative", "axis": None, "scale": {"domain": [count, 0], "nice": False}}
    return {
        "width": width,
        "height": ROW_PIXELS * count,
        "autosize": {"type": "none"},
        "padding": 0,
        "encoding": {"x": x, "y": y},
        "layer": [
            {
                "data": {"values": points},
                "mark": {"type": "line", "interpolate": "basis", "strokeWidth": 1.1, "color": _COLOURS[0],
                         "opacity": 0.5},
                "encoding": {"detail": {"field": "edge"}, "order": {"field": "at", "type": "quantitative"}},
            },
            {
                "data": {"values": [{"x": 0, "y": line + 0.5} for line in range(count)]},
                "mark": {"type": "circle", "size": 30, "color": _COLOURS[0], "opacity": 1},
            },
        ],
    }  # fmt: skip


def _colour(rows: Sequence[Row]) -> Spec:
    """The colour of a series, in the order in which series come, with a legend where there are several."""
    names = list(dict.fromkeys(str(row["series"]) for row in rows))
    columns = len(names) if sum(map(len, names)) < _LINE else 2
    legend: Spec = {"legend": {"columns": columns} if len(names) > 1 else None}
    return {"field": "series", "type": "nominal", "sort": None, "scale": {"domain": names}, **legend}
