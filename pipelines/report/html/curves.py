"""Curves of every training: what its steps wrote into `metrics.jsonl`, as far as that is still there."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from datakit.catalog.workspace import Entry
from pipelines.online.learners import KINDS
from pipelines.report.html import charts
from pipelines.report.html.blocks import Chart, Charts, Grid, Section
from pipelines.report.html.reported import ReportedRun, short
from schemas.run_layout import METRICS, RUN_END

_OF_TRAINING: Mapping[str, Sequence[str]] = {
    "loss": ("loss", "val_loss"),
    "accuracy": ("accuracy", "val_accuracy"),
    "reward": ("reward", "val_reward"),
    "share of right answers": ("correct", "val_correct"),
    "answers of a pair": ("reward_chosen", "reward_rejected", "val_reward_chosen", "val_reward_rejected"),
    "divergence": ("kl", "ref_kl", "val_kl"),
    "entropy": ("entropy", "val_entropy"),
    "ratio": ("ratio",),
    "clipped tokens": ("clip_fraction",),
    "tokens of an answer": ("answer_tokens", "val_answer_tokens"),
    "shares": ("cut", "val_cut", "equal_groups"),
    "dropped": ("dropped", "val_dropped"),
    "rounds": ("rounds",),
}
"""What is drawn together of a training."""


def _with_learners() -> Mapping[str, Sequence[str]]:
    drawn = {**_OF_TRAINING}
    for kind in KINDS.values():
        for title, names in kind.charts.items():
            drawn[title] = (*drawn.get(title, ()), *names)
    return drawn


_FIGURES = _with_learners()
"""Charts of one training, and of what learns beside it."""
_POINTS, _TRAININGS = 240, 16
_LARGEST = 256 << 20


def curves(run: ReportedRun) -> Section | None:
    """Charts of the last trainings."""
    drawn = [chart for one in run.checkpoints[-_TRAININGS:] for chart in _charts(run, one)]
    lead = "Means of neighbouring steps where a training has more than a line can show. TensorBoard has them all."
    return Section(title="Training", lead=lead, blocks=(Charts(charts=tuple(drawn)),)) if drawn else None


def _charts(run: ReportedRun, checkpoint: Entry) -> Iterator[Chart]:
    figures = _read(Path(checkpoint.root, f"{checkpoint.place}{RUN_END}", METRICS))
    name = short(run.entries, checkpoint)
    for title, together in _FIGURES.items():
        points = [
            {"series": figure, "x": step, "y": value}
            for figure in together
            for step, value in _thinned(figures.get(figure, []))
        ]
        if not points:
            continue
        rows = tuple(
            (figure, f"{len(some):,}", *(f"{value:.4g}" for value in (some[0][1], some[-1][1])))
            for figure in together
            if (some := figures.get(figure))
        )
        grid = Grid(caption=f"{name}: {title}", columns=("figure", "steps", "first", "last"), rows=rows, folded=True)
        yield Chart(caption=f"{name}: {title}", spec=charts.lines(points, "step"), grid=grid)


def _read(metrics: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps with the value of each figure; none of a file that is gone."""
    figures: dict[str, list[tuple[int, float]]] = defaultdict(list)
    drawn = {name for together in _FIGURES.values() for name in together}
    try:
        with metrics.open("rb") as file:
            if metrics.stat().st_size > _LARGEST:
                file.seek(-_LARGEST, 2)
            for line in file:
                _keep(line, drawn, figures)
    except OSError:
        return {}
    return figures


def _keep(line: bytes, drawn: set[str], figures: dict[str, list[tuple[int, float]]]) -> None:
    try:
        values = json.loads(line)
        step = int(values["step"])
    except (ValueError, KeyError, TypeError):  # half a line, or another program's
        return
    for name in drawn & values.keys():
        value = values[name]
        if isinstance(value, int | float) and math.isfinite(value):
            figures[name].append((step, float(value)))


def _thinned(points: Sequence[tuple[int, float]]) -> Iterator[tuple[float, float]]:
    """Means of as many neighbours as leave no more points than a line shows."""
    size = max(1, math.ceil(len(points) / _POINTS))
    for start in range(0, len(points), size):
        some = points[start : start + size]
        yield sum(step for step, _ in some) / len(some), sum(value for _, value in some) / len(some)
