"""Every loss of a policy, on advantages that operations made: a bandit with three arms finds the best one.

Driven by the registry: a new algorithm over `advantages` is tried without an edit.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from datakit.label import GroupAdvantage, Rloo
from datakit.op import Context
from schemas.rows.tokens import MASK
from tests.tail import late
from trainers.algorithm import ModelOutputs, Needs
from trainers.registry import algorithms

POLICIES = [name for name, algorithm in algorithms().items() if "advantages" in algorithm.lists]
ARMS = np.array([0.2, 0.5, 0.8])
DRAWS, STEPS, UPDATES = 16, 80, 2


def advantages(rewards: np.ndarray, op: Rloo | GroupAdvantage) -> torch.Tensor:
    """Of one group of answers of one token each."""
    rows = pa.table(
        {
            "prompt_id": ["p"] * len(rewards),
            "reward": rewards,
            "loss_mask": pa.array([[0, 1]] * len(rewards), MASK),
        }
    )
    made = op.gather(rows, Context()).rows
    return torch.from_numpy(np.asarray(made["advantage"]).copy())


@pytest.mark.parametrize("seed", [0, 1, *map(late, range(2, 5))])
@pytest.mark.parametrize("op", [Rloo(), GroupAdvantage()], ids=["rloo", "grpo"])
@pytest.mark.parametrize("name", POLICIES)
def test_the_best_of_three_arms_is_learnt(name: str, op: Rloo | GroupAdvantage, seed: int) -> None:
    algorithm = algorithms()[name]
    random = np.random.default_rng(seed)
    logits = torch.tensor([0.5, 0.5, -0.5], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(STEPS):
        old = logits.detach().log_softmax(0)
        arms = random.choice(3, DRAWS, p=old.exp().numpy())
        paid = (random.random(DRAWS) < ARMS[arms]).astype(float)
        columns = {"advantages": advantages(paid, op), "old_logprobs": old[arms], "loss_mask": torch.ones(DRAWS)}
        for _ in range(UPDATES):
            now = logits.log_softmax(0)
            entropy = -(now.exp() * now).sum().expand(DRAWS)
            answers = {Needs.LOGPROBS: now[arms], Needs.ENTROPY: entropy}
            outputs = ModelOutputs(torch.arange(DRAWS), DRAWS, answers)
            loss = algorithm.loss(algorithm.settings(), {"input_ids": outputs}, columns)
            optimizer.zero_grad()
            ((loss.values * loss.weights).sum() / loss.weights.sum()).backward()
            optimizer.step()
    assert logits.detach().softmax(0).argmax() == 2 and logits.detach().softmax(0)[2] > 0.8
