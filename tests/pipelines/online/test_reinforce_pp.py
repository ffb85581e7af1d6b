"""REINFORCE++: its advantages worked by hand and by an independent numpy version of the paper; what the recipe asks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.label import GroupAdvantage
from datakit.online import StepLogprobs
from datakit.run.chain import Chain
from pipelines.online.__main__ import execute
from pipelines.recipes import ReinforcePp
from schemas import Column, Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from schemas.rows.conversation import IDS
from schemas.rows.rollouts import NUMBERS
from tests.pipelines import judges
from tests.pipelines.online import runs
from tests.pipelines.online.test_recipe import planned
from tests.trainers import online
from trainers import registry

DRAWN = Schema("drawn", 1, (
    Column("prompt_id", pa.string(), "x"), Column("prompt_ids", IDS, "x"), Column("response_ids", IDS, "x"),
    *(Column(name, NUMBERS, "x") for name in ("logprobs", "old_logprobs", "ref_logprobs")),
    Column("reward", pa.float64(), "x", nullable=True),
))  # fmt: skip


def learnt(folder: Path, rows: list[dict[str, Any]], name: str, **settings: Any) -> list[list[float]]:
    """Advantages of the drawn tokens of `rows`; log-probabilities are given, along with prompt and answer."""
    ops = ReinforcePp(**settings).arrangement.made_for(registry.configured("reinforce_pp", {})[0])
    chain = Chain(ops=tuple(op for op in ops if not isinstance(op, StepLogprobs)))
    given = Dataset.from_arrow(pa.Table.from_pylist(rows, DRAWN.arrow), DRAWN, str(folder / f"{name} rows"))
    made = apply(chain, given, str(folder / name)).read()
    masks = made["loss_mask"].to_pylist()
    pairs = zip(made["advantages"].to_pylist(), masks, strict=True)
    return [[value for value, counts in zip(*pair, strict=True) if counts] for pair in pairs]


def answer(prompt: str, reward: float, policy: list[float], reference: list[float]) -> dict[str, Any]:
    """An answer behind one token of a prompt."""
    row = {"prompt_id": prompt, "prompt_ids": [1], "response_ids": [2] * len(policy), "reward": reward}
    return {**row, "logprobs": policy, "old_logprobs": [0.0, *policy], "ref_logprobs": [0.0, *reference]}


HAND = [answer("p", 1.0, [-1.0, -2.0], [-1.5, -1.0]), answer("q", 0.0, [-1.0], [-2.0])]


def test_by_hand(tmp_path: Path) -> None:
    """KL (k1) is .5 and -1 of the first answer, 1 of the second; at weight 1/2 the tokens earn -.25, .5 + 1 and -.5,
    and from the token on 1.25, 1.5, -.5: mean .75, variance (.5^2 + .75^2 + 1.25^2) / 3.
    """
    std = np.sqrt((0.25 + 0.5625 + 1.5625) / 3)
    made = learnt(tmp_path, HAND, "hand", kl_coefficient=0.5)
    assert made == [pytest.approx([0.5 / std, 0.75 / std], abs=1e-6), pytest.approx([-1.25 / std], abs=1e-6)]
    free = learnt(tmp_path, HAND, "free", kl_coefficient=0.0)
    assert free == [pytest.approx([0.5**0.5] * 2, abs=1e-6), pytest.approx([-(2**0.5)], abs=1e-6)]


def paper(rows: list[dict[str, Any]], beta: float, gamma: float, baseline: str) -> list[list[float]]:
    """Equations of arXiv:2501.03262, one token after the other, in float64."""
    advantages = []
    for row in rows:
        others = [one["reward"] for one in rows if one["prompt_id"] == row["prompt_id"]]
        reward = row["reward"] - (np.mean(others) if baseline == "mean" else 0.0)
        policy, reference = (np.array(row[name][1:], np.float32) for name in ("old_logprobs", "ref_logprobs"))
        earned = -beta * (policy.astype(float) - reference.astype(float))
        earned[-1] += reward
        advantages.append(np.array([sum(gamma**n * x for n, x in enumerate(earned[t:])) for t in range(len(earned))]))
    every = np.concatenate(advantages)
    return [((one - every.mean()) / np.sqrt(every.var() + 1e-8)).tolist() for one in advantages]


@pytest.mark.parametrize("baseline", ["none", "mean"])
@pytest.mark.parametrize(("beta", "gamma"), [(0.01, 1.0), (0.3, 0.9), (0.0, 1.0)])
def test_it_is_the_papers_arithmetic(beta: float, gamma: float, baseline: str, tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    rows = []
    for number in range(24):
        length = int(random.integers(1, 9))
        policy, moved = -random.exponential(1.5, length), random.normal(size=length)
        rows.append(answer(f"p{number // 4}", float(random.normal()), policy.tolist(), (policy + 0.5 * moved).tolist()))
    made = learnt(tmp_path, rows, "made", kl_coefficient=beta, gamma=gamma, baseline=baseline)
    for got, expected in zip(made, paper(rows, beta, gamma, baseline), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_equal_rewards_without_a_divergence_teach_nothing(tmp_path: Path) -> None:
    rows = [{**row, "reward": 0.7} for row in HAND]
    assert learnt(tmp_path, rows, "equal", kl_coefficient=0.0) == [[0.0, 0.0], [0.0]]


def test_what_the_recipe_asks(tmp_path: Path) -> None:
    """One answer to a prompt is enough, unless its group is what it is held against."""
    made = planned(ReinforcePp, tmp_path, samples_per_prompt=1).policy
    names = [one.name for one in made.step.rows]
    assert names == ["tokenize.drawn", "online.logprobs", "label.kl", "label.token_rewards", "label.returns",
                     "label.whiten"]  # fmt: skip
    assert made.training.learning.algorithm == "ppo"
    with pytest.raises(ConfigError, match="--samples-per-prompt 1 nothing can be learnt"):
        planned(ReinforcePp, tmp_path, samples_per_prompt=1, baseline="mean")
    free = planned(ReinforcePp, tmp_path, kl_coefficient=0.0, baseline="mean").policy
    columns = [op.columns for op in free.step.labelling.ops if isinstance(op, StepLogprobs)]
    assert columns == [("old_logprobs",)] and GroupAdvantage.name in [one.name for one in free.step.rows]
    assert planned(ReinforcePp, tmp_path, guards={"max_kl": 20}).policy.guards.max_kl == 20.0


@pytest.mark.parametrize("updates", [1, 2])
def test_a_run_learns_whitened_returns(updates: int, tmp_path: Path) -> None:
    online.init(tmp_path)
    runs.prompts(tmp_path)
    sys.modules.setdefault("judges", judges)
    algorithm, _ = registry.configured("reinforce_pp", {})
    rows = ReinforcePp(kl_coefficient=0.1).arrangement.made_for(algorithm)  # type: ignore[call-arg]
    given = runs.online_run(
        tmp_path, "run", rows=rows, updates=updates, algorithm="reinforce_pp", max_steps=2 * updates
    )
    execute(given)
    for place in sorted((given.run.paths.folder / "rollouts").glob("step=*-????????")):
        learnt = Dataset.open(str(place)).read()
        pairs = zip(learnt["advantages"].to_pylist(), learnt["loss_mask"].to_pylist(), strict=True)
        flat = np.array([value for pair in pairs for value, counts in zip(*pair, strict=True) if counts])
        assert flat.mean() == pytest.approx(0.0, abs=1e-5) and flat.var() == pytest.approx(1.0, abs=1e-4)
    curve = runs.outcome(given)["curve"]
    assert len(curve) == 2 * updates and curve[0]["ratio"] == pytest.approx(1.0, abs=1e-5)
