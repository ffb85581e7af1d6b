"""Figures of an online recipe: what its steps drew, and what the policy came to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipelines.graph.nodes import TrainedCheckpoint
from pipelines.report.figures import Figure, FigureTable, metrics
from pipelines.report.held_out import before_and_after
from pipelines.stages.iteration import Evaluation
from schemas.run_layout import METRICS, run_folder_of

_COLUMNS = (
    Figure("steps", ",", meaning="optimizer steps"),
    Figure(
        "reward", "+.3f", " -> ", "mean reward of the answers that the first and the last step drew", change="reward"
    ),
    Figure("best held-out reward", "+.3f", meaning="the highest of a validation (validate_every)"),
    Figure("at step", ",", meaning="the step of that"),
    Figure("held-out prompts", ",.0f", meaning="those that the policy is judged by, one answer to each"),
    *before_and_after("the last step"),
    Figure("seconds", ".0f", meaning="of all steps: drawing, labelling, training"),
)


def online_table(title: str, policy: TrainedCheckpoint, before: Evaluation, after: Evaluation) -> FigureTable:
    """One row: of the run that made `policy`, and of the policy that it started from."""
    manifest, steps_made = policy.manifest(), _steps(policy)
    drawn = [line["reward"] for line in steps_made]
    first, last = metrics(before.figures), metrics(after.figures)
    judged = next((value for name, value in last.items() if name.endswith(".count")), None)
    gold, reward, length = (
        (first.get(name), last.get(name)) for name in ("correct.mean", "reward.mean", "response_ids.length.mean")
    )
    steps = None if manifest is None else manifest.facts["stats"]["steps"]
    seconds = None if manifest is None else manifest.runtime_info.get("seconds")
    ends = (drawn[0], drawn[-1]) if drawn else (None, None)
    stats = {} if manifest is None else manifest.facts["stats"]
    best = stats.get("best_val_reward"), stats.get("best_step")
    row = (steps, ends, *best, judged, *gold, reward, length, seconds)
    return FigureTable(title, _COLUMNS, (row,), tuple(_nothing_learnt(steps_made)))


def _nothing_learnt(steps: Sequence[Mapping[str, float]]) -> Iterator[str]:
    """A line where no step of a run had anything to learn from."""
    if not steps:
        return
    if all(line.get("equal_groups") == 1 for line in steps):
        yield (
            "rewards taught nothing: in every step all answers to a prompt were rewarded alike (equal_groups 1); "
            "easier or harder prompts, or more answers to each (--samples-per-prompt), bring differences"
        )
    elif all(line.get("grad_norm") == 0 for line in steps):
        yield "nothing was learnt: the gradient was 0 in every step"


def _steps(policy: TrainedCheckpoint) -> list[Mapping[str, float]]:
    """The figures of every step in the run's log that drew answers; empty where it is gone."""
    try:
        log = (Path(run_folder_of(policy.url)) / METRICS).read_text(encoding="utf-8")
        lines = [json.loads(line) for line in log.splitlines()]
    except (OSError, ValueError):
        return []
    return [line for line in lines if "reward" in line]
