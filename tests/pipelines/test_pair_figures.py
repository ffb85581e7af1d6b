"""Figures of held-out pairs by hand: rewards of a policy, order and calibration of a reward model."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from datakit.apply import apply
from datakit.sql import Query
from pipelines.stages import rewards
from pipelines.stages.preference_training import MEASURED, rewards_query
from schemas import Dataset, Schema
from tests.tail import late
from tests.trainers.algorithms.pairs import MASKS, REFERENCE, drawn, loss_of, outputs_of, sums
from trainers.algorithm import ImplicitReward
from trainers.algorithms import KTO
from trainers.preference import pair_loss, score_loss
from trainers.registry import algorithm_of, algorithms, configured, presets

READ = {
    "pair_id": ["a", "b"],
    "chosen_mask": [[1, 0, 1, 1], [0, 1]],
    "rejected_mask": [[0, 1, 1, 1, 1], [1, 1]],
    "ref_logprob_chosen": [-4.0, -1.0],
    "ref_logprob_rejected": [-6.0, -3.0],
    "policy_logprob_chosen": [-3.0, -2.0],
    "policy_logprob_rejected": [-8.0, -1.0],
}


def queried(folder: Path, query: str, table: str, columns: dict[str, Any]) -> list[dict[str, Any]]:
    given = pa.table(columns)
    rows = Dataset.from_arrow(given, Schema.of_arrow(given.schema), str(folder / "rows"))
    op = Query(query=query, tables=(table,), key=("pair_id",))
    made: list[dict[str, Any]] = apply(op, rows, str(folder / "made")).read().to_pylist()
    return made


def reward_of(name: str, settings: dict[str, Any]) -> ImplicitReward:
    algorithm, parsed = configured(name, settings)
    assert algorithm.implicit_reward is not None
    return algorithm.implicit_reward(parsed)


@pytest.mark.parametrize(
    ("algorithm", "settings", "chosen", "rejected"),
    [
        ("dpo", {"beta": 0.5}, [0.5, -0.5], [-1.0, 1.0]),
        ("kto", {"beta": 0.5}, [0.5, -0.5], [-1.0, 1.0]),
        ("dpo", {"beta": 0.5, "average_log_probs": True}, [0.25, -0.5], [-0.25, 1.0]),
        ("simpo", {"beta": 2.0}, [-3.0, -4.0], [-4.0, -2.0]),
        ("orpo", {"beta": 0.1}, [-0.15, -0.2], [-0.2, -0.1]),
    ],
)
def test_the_rewards_of_a_policy(
    tmp_path: Path, algorithm: str, settings: dict[str, Any], chosen: list[float], rejected: list[float]
) -> None:
    """The first answer has 2 counted tokens behind its first, the others 4, 1 and 1."""
    made = queried(tmp_path, rewards_query(reward_of(algorithm, settings)), "pairs", READ)
    assert list(made[0]) == ["pair_id", *MEASURED]
    assert [row["reward_chosen"] for row in made] == pytest.approx(chosen)
    assert [row["reward_rejected"] for row in made] == pytest.approx(rejected)
    assert [row["reward_margin"] for row in made] == pytest.approx(
        [c - r for c, r in zip(chosen, rejected, strict=True)]
    )
    assert [row["accuracy"] for row in made] == [float(c > r) for c, r in zip(chosen, rejected, strict=True)]
    assert [(row["before"], row["after"]) for row in made] == [(1.0, 1.0), (1.0, 0.0)]


def test_a_reward_is_what_the_algorithm_declares(tmp_path: Path) -> None:
    """Of a kind that no algorithm has yet: sums, held against nothing."""
    made = queried(tmp_path, rewards_query(ImplicitReward(scale=0.5, referred=False)), "pairs", READ)
    assert [(row["reward_chosen"], row["reward_rejected"]) for row in made] == [(-1.5, -4.0), (-1.0, -0.5)]


def ways(name: str) -> list[bool]:
    """Whether log-probabilities are averaged, as far as the algorithm can be asked."""
    own = [field.name for field in dataclasses.fields(algorithm_of(name).settings)]
    return [False, True] if "average_log_probs" in own else [False]


PREFERRING = [name for name in (*algorithms(), *presets()) if algorithm_of(name).implicit_reward is not None]


RUNS = [(name, way) for name in PREFERRING for way in ways(name)]


@pytest.mark.parametrize(("name", "average"), [run if run[0] in algorithms() else late(*run) for run in RUNS])
def test_the_rewards_of_every_algorithm_are_those_that_its_loss_reports(
    tmp_path: Path, name: str, average: bool
) -> None:
    """Its settings are other ones than by default, where the loss has them."""
    own = {field.name for field in dataclasses.fields(algorithm_of(name).settings)}
    given = {"beta": 0.7, "average_log_probs": average}
    algorithm, settings = configured(name, {key: value for key, value in given.items() if key in own})
    logprobs = drawn(seed=3)
    columns: dict[str, list[Any]] = {"pair_id": ["a", "b", "c"]}
    for side, total in zip(("chosen", "rejected"), sums(logprobs), strict=True):
        columns[f"{side}_mask"] = [[1, *mask] for mask in MASKS[f"{side}_ids"]]  # nothing predicts the first token
        columns[f"ref_logprob_{side}"] = REFERENCE[f"{side}_ids"]
        columns[f"policy_logprob_{side}"] = total.tolist()
    assert algorithm.implicit_reward is not None
    made = queried(tmp_path, rewards_query(algorithm.implicit_reward(settings)), "pairs", columns)
    if algorithm.name == "kto":
        reported = {f"reward_{ids.removesuffix('_ids')}": kto_reward(settings, logprobs[ids], ids) for ids in MASKS}
    else:
        metrics = loss_of(algorithm, settings, logprobs)[0].row_metrics
        reported = {column: values.tolist() for column, values in metrics.items()}
    assert {*reported} == {"reward_chosen", "reward_rejected"}
    for column, values in reported.items():
        assert [row[column] for row in made] == pytest.approx(values, rel=1e-6)


def kto_reward(settings: Any, logprobs: list[list[float]], ids: str) -> list[float]:
    """The rewards that KTO's loss reports of the answers one by one."""
    rows = {
        "loss_mask": torch.tensor([value for row in MASKS[ids] for value in row]),
        "ref_logprob": torch.tensor(REFERENCE[ids], dtype=torch.float64),
        "desirable": torch.ones(3),
        "kl": torch.tensor(0.0),
    }
    rewards: list[float] = KTO.loss(settings, {"input_ids": outputs_of(logprobs)}, rows).row_metrics["reward"].tolist()
    return rewards


def test_equal_rewards_order_no_pair(tmp_path: Path) -> None:
    """A model that says the same of everything puts no pair in order, though it is half sure of each."""
    names = [f"p{number}-{side}" for number in range(5) for side in ("chosen", "rejected")]
    columns = {"sample_id": names, "desirable": [True, False] * 5, "reward": [0.25] * 10}
    made = queried(tmp_path / "model", rewards._ORDERED, "rewards", columns)
    assert [(row["accuracy"], row["calibration_error"]) for row in made] == [(0.0, 0.5)] * 5
    same = {name: value for name, value in READ.items() if "logprob" not in name}
    logprobs = {f"{who}_logprob_{side}": [-2.0, -2.0] for who in ("ref", "policy") for side in ("chosen", "rejected")}
    made = queried(tmp_path / "policy", rewards_query(reward_of("dpo", {})), "pairs", {**same, **logprobs})
    assert [(row["before"], row["after"], row["accuracy"]) for row in made] == [(0.0, 0.0, 0.0)] * 2


ORDERS = ((2.0, 1.0), (1.0, 1.0), (-1.0, -1.0), (0.5, 1.5), (0.0, 0.0), (1.0, 0.0))
"""Numbers of chosen and rejected: two in order, one not, three of equal ones."""


def test_a_reward_model_and_its_training_count_ties_alike(tmp_path: Path) -> None:
    chosen_B, rejected_B = torch.tensor(ORDERS, dtype=torch.float64).unbind(1)
    total, count = score_loss(chosen_B, (chosen_B, rejected_B)).metrics["accuracy"]
    columns: dict[str, list[Any]] = {"sample_id": [], "desirable": [], "reward": []}
    for number, rewards_of_pair in enumerate(ORDERS):
        columns["sample_id"] += [f"p{number}-chosen", f"p{number}-rejected"]
        columns["desirable"] += [True, False]
        columns["reward"] += rewards_of_pair
    made = queried(tmp_path, rewards._ORDERED, "rewards", columns)
    assert (float(total), float(count)) == (2.0, 6.0) == (sum(row["accuracy"] for row in made), len(made))


def test_a_policy_and_its_training_count_ties_alike(tmp_path: Path) -> None:
    chosen_B, rejected_B = torch.tensor(ORDERS, dtype=torch.float64).unbind(1)
    total, count = pair_loss(chosen_B, chosen_B, (chosen_B, rejected_B), sft_weight=0.0).metrics["accuracy"]
    columns: dict[str, list[Any]] = {"pair_id": [f"p{number}" for number in range(len(ORDERS))]}
    for side, values in zip(("chosen", "rejected"), zip(*ORDERS, strict=True), strict=True):
        columns |= {f"{side}_mask": [[1, 1]] * len(ORDERS), f"ref_logprob_{side}": [*values]}
        columns[f"policy_logprob_{side}"] = [2 * value for value in values]
    made = queried(tmp_path, rewards_query(ImplicitReward(scale=1.0, referred=True)), "pairs", columns)
    assert (float(total), float(count)) == (2.0, 6.0)
    assert all(sum(row[name] for row in made) == 2.0 for name in ("before", "after", "accuracy")), made


def test_order_and_calibration_of_a_reward_model(tmp_path: Path) -> None:
    """Margins 2, -2 and 0.1; two share the bin of sigma(2) = 0.88, of which one is right; a side is missing of `d`."""
    pairs = {"a": (3.0, 1.0), "b": (0.0, 2.0), "c": (0.1, 0.0)}
    columns: dict[str, list[Any]] = {"sample_id": ["d-chosen"], "desirable": [True], "reward": [9.0]}
    for name, answers in pairs.items():
        columns["sample_id"] += [f"{name}-chosen", f"{name}-rejected"]
        columns["desirable"] += [True, False]
        columns["reward"] += answers
    made = queried(tmp_path, rewards._ORDERED, "rewards", columns)
    assert [row["pair_id"] for row in made] == ["a", "b", "c"]
    assert [row["accuracy"] for row in made] == [1.0, 0.0, 1.0]
    assert [row["reward_margin"] for row in made] == pytest.approx([2.0, -2.0, 0.1])
    sure, unsure = (1 / (1 + math.exp(-margin)) for margin in (2.0, 0.1))
    assert [row["bin"] for row in made] == [7, 7, 0]
    assert [row["calibration_error"] for row in made] == pytest.approx([sure - 0.5, sure - 0.5, 1 - unsure])
    given = pa.table({name: [row[name] for row in made] for name in ("bin", "confidence", "accuracy")})
    rows = Dataset.from_arrow(given, Schema.of_arrow(given.schema), str(tmp_path / "pairs"))
    op = Query(query=rewards._RELIABILITY, tables=("pairs",), key=("bin",))
    bins = apply(op, rows, str(tmp_path / "bins")).read().to_pylist()
    assert [(row["bin"], row["sure_from"], row["pairs"]) for row in bins] == [(0, 0.5, 1), (7, 0.85, 2)]
    assert [(row["confidence"], row["accuracy"]) for row in bins] == [
        (pytest.approx(unsure), 1.0),
        (pytest.approx(sure), 0.5),
    ]
    error = sum(row["pairs"] * abs(row["confidence"] - row["accuracy"]) for row in bins) / len(made)
    assert error == pytest.approx(sum(row["calibration_error"] for row in made) / len(made)), "both say the same"
