"""PPO against its formula in plain Python, value and gradient, the published vector, and points worked by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from schemas.errors import ConfigError
from tests.trainers.algorithms.rollouts import MASKS, Rows, assert_is_the_formula, drawn, flat, loss_of, reported
from trainers import registry
from trainers.algorithm import ModelOutputs, Needs
from trainers.algorithms.ppo import PPO, Settings


def formula(settings: Settings) -> Any:
    def of_row(row: int, rows: Rows) -> list[float]:
        made = []
        for at in range(len(MASKS[row])):
            advantage = rows["advantages"][row][at]
            ratio = math.exp(rows["logprobs"][row][at] - rows["old_logprobs"][row][at])
            within = min(max(ratio, 1 - settings.clip_low), 1 + settings.clip_high)
            value = max(-advantage * ratio, -advantage * within)
            if settings.dual_clip is not None and advantage < 0:
                value = min(value, -settings.dual_clip * advantage)
            made.append(value)
        return made

    return of_row


@pytest.mark.parametrize("near", [0.3, 1.5])
@pytest.mark.parametrize("aggregate", ["token", "sequence", "constant"])
@pytest.mark.parametrize("changes", [{}, {"clip_high": 0.28}, {"dual_clip": 1.5}, {"clip_low": 1.0, "clip_high": 9.0}])
def test_value_and_gradient_are_those_of_the_formula(near: float, aggregate: Any, changes: dict[str, float]) -> None:
    settings = Settings(aggregate=aggregate, max_tokens=5, **changes)  # type: ignore[arg-type]
    for seed in range(3):
        assert_is_the_formula(PPO, settings, formula(settings), drawn(seed, near))


def losses(settings: Settings, advantages: list[float], ratios: list[float]) -> tuple[list[float], float]:
    """Of tokens of one row, and the share of those that the clip decides."""
    logs = torch.tensor(ratios, dtype=torch.float64).log()
    answers = {Needs.LOGPROBS: logs, Needs.ENTROPY: torch.zeros(len(ratios), dtype=torch.float64)}
    outputs = ModelOutputs(torch.zeros(len(ratios), dtype=torch.long), 1, answers)
    columns = {"advantages": flat([advantages], dtype=torch.float64), "old_logprobs": torch.zeros(len(ratios))}
    loss = PPO.loss(settings, {"input_ids": outputs}, {**columns, "loss_mask": torch.ones(len(ratios))})
    return loss.values.tolist(), reported(loss, "clip_fraction")


def test_the_published_vector_and_both_clips_by_hand() -> None:
    made, share = losses(Settings(), [1.0, -1.0, 2.0], [0.5, 1.0, 1.5])
    assert made == pytest.approx([-0.5, 1.0, -2.4]) and share == pytest.approx(1 / 3)
    made, share = losses(Settings(clip_high=0.28), [1.0, 1.0, -1.0, -1.0], [1.25, 1.5, 0.5, 9.0])
    assert made == pytest.approx([-1.25, -1.28, 0.8, 9.0]) and share == 0.5
    made, _ = losses(Settings(dual_clip=3.0), [-1.0, -1.0, 1.0], [9.0, 2.0, 9.0])
    assert made == pytest.approx([3.0, 2.0, -1.2]), "what a bad token costs has a bound, what a good one earns had one"


def test_a_ratio_that_no_number_holds_is_finite() -> None:
    rows = drawn()
    rows["old_logprobs"] = [[-4000.0 if row % 2 else 4000.0] * len(mask) for row, mask in enumerate(MASKS)]
    loss, _ = loss_of(PPO, Settings(), rows)
    assert loss.values.isfinite().all()


def test_presets_are_grpo_and_its_kin() -> None:
    assert registry.configured("grpo", {})[1] == Settings(aggregate="sequence")
    assert registry.configured("dr_grpo", {"max_tokens": 300})[1] == Settings(aggregate="constant", max_tokens=300)
    assert registry.configured("dapo", {})[1] == Settings(clip_high=0.28)
    assert registry.configured("reinforce_pp", {})[1] == Settings(clip_low=0.2, clip_high=0.2, aggregate="token")


def test_the_loss_of_reinforce_pp_by_hand() -> None:
    """Over all tokens at once: an advantage of 1.2 at ratio 1.5 pays at 1.2 of it, one of -.4 at .5 at .8, one of .6 at
    .5 in full.
    """
    _, settings = registry.configured("reinforce_pp", {})
    made, share = losses(settings, [1.2, -0.4, 0.6], [1.5, 0.5, 0.5])
    assert made == pytest.approx([-1.44, 0.32, -0.3]) and share == pytest.approx(2 / 3)
    assert_is_the_formula(PPO, settings, formula(settings), drawn(4))


@pytest.mark.parametrize("setting", [{"clip_low": 0.0}, {"clip_low": 1.5}, {"clip_high": 0.0}, {"dual_clip": 1.0}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        Settings(**setting)  # type: ignore[arg-type]
