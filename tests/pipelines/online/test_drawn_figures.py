"""The curves of a page are drawn from figures that trainings write, by the names that they write them under."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from datakit.label import GroupAdvantage
from datakit.online import StepLogprobs
from datakit.tokenize import Drawn
from pipelines.online.__main__ import execute
from pipelines.online.config import OnlineRun
from pipelines.online.figures import _MEANS
from pipelines.report.html.curves import _FIGURES
from tests.pipelines import judges
from tests.pipelines.online import runs
from tests.trainers import online
from trainers.registry import algorithms

UNDRAWN = {"step", "epoch", "rows", "tokens", "padding", "lr", "grad_norm", "critic_lr", "critic_grad_norm"}
"""What was asked for, where a step stands, and what TensorBoard alone shows."""

DRAWN = {name for together in _FIGURES.values() for name in together}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of all figures of a run with a critic and held-out prompts, and of one that has a KL term."""
    folder = tmp_path_factory.mktemp("figures")
    online.init(folder)
    runs.prompts(folder)
    sys.modules.setdefault("judges", judges)
    held_out: dict[str, Any] = {"validation": str(folder / "prompts"), "validate_every": 1}
    rows = (Drawn(), GroupAdvantage(), StepLogprobs(columns=("old_logprobs", "ref_logprobs")))
    divergent = runs.online_run(
        folder, "divergent", rows=rows, algorithm="ppo", settings={"kl_coefficient": 0.1}, max_steps=1
    )
    made: list[OnlineRun] = [runs.critic_run(folder, "critic", max_steps=1, **held_out), divergent]
    names: set[str] = set()
    for given in made:
        execute(given)
        names |= {name for line in runs.outcome(given)["curve"] for name in line}
    return names


def test_every_figure_that_online_runs_write_is_drawn(written: set[str]) -> None:
    assert {"val_reward", "ref_kl", "kl", "entropy", "explained_variance", "critic_loss"} <= written
    assert sorted(written - DRAWN - UNDRAWN) == []


def test_no_figure_is_drawn_that_nothing_writes(written: set[str]) -> None:
    learnt = {"loss", *(name for algorithm in algorithms().values() for name in algorithm.metrics)}
    rounds = {"rounds"}  # of a step that asks prompts in place of others (`test_rounds`)
    validated = {f"val_{name}" for name in (*learnt, *_MEANS)}
    assert sorted(DRAWN - written - learnt - validated - {*_MEANS} - rounds) == []
