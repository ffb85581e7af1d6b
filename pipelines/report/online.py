"""Figures of an online recipe: what its steps drew, and what the policy came to."""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.graph.nodes import TrainedCheckpoint
from pipelines.report.figures import Figure, FigureTable, metrics
from pipelines.stages.iteration import Evaluation

_COLUMNS = (
    Figure("steps", ",", meaning="optimizer steps"),
    Figure("reward", "+.3f", " -> ", "mean reward of the answers that the first and the last step drew"),
    Figure("gold before", ".1%", meaning="held-out prompts answered as their gold (known right) answer says"),
    Figure("gold after", ".1%", meaning="the same after the last step; by rule, no model judges it"),
    Figure("held-out reward", "+.2f", " -> ", "mean reward of answers to held-out prompts, before and after"),
    Figure("answer tokens", ".1f", " -> ", "mean length of these answers: does reward pay for length?"),
    Figure("seconds", ".0f", meaning="of all steps: drawing, labelling, training"),
)


def online_table(title: str, policy: TrainedCheckpoint, before: Evaluation, after: Evaluation) -> FigureTable:
    """One row: of the run that made `policy`, and of the policy that it started from."""
    manifest, drawn = policy.manifest(), _rewards(Path(f"{policy.url}.run") / "metrics.jsonl")
    first, last = metrics(before.figures), metrics(after.figures)
    gold, reward, length = (
        (first.get(name), last.get(name)) for name in ("correct.mean", "reward.mean", "response_ids.length.mean")
    )
    steps = None if manifest is None else manifest.facts["stats"]["steps"]
    seconds = None if manifest is None else manifest.runtime_info.get("seconds")
    ends = (drawn[0], drawn[-1]) if drawn else (None, None)
    return FigureTable(title, _COLUMNS, ((steps, ends, *gold, reward, length, seconds),))


def _rewards(log: Path) -> list[float]:
    """The mean reward of every step in the run's log; empty where it is gone."""
    try:
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []
    return [float(line["reward"]) for line in lines if "reward" in line]
