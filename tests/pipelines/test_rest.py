"""ReST's improve steps: quantiles of rewards themselves, absolute thresholds of standardised ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.template import Chat
from pipelines.commands.iterations import Iterations
from pipelines.graph.node import Node
from pipelines.graph.nodes import Table
from pipelines.graph.plan import Plan
from pipelines.recipes import RestIteration
from pipelines.stages.iteration import Grown
from schemas import SAMPLES, Column
from schemas.dataset import Attempt, Dataset
from schemas.errors import ConfigError

REWARDED = SAMPLES.adding(Column("reward", pa.float64(), "a number", finite=True))
REWARDS = np.random.default_rng(3).normal(2.0, 3.0, size=400)


def rewarded(url: str) -> str:
    table = REWARDED.example(len(REWARDS))
    table = table.set_column(table.schema.get_field_index("reward"), "reward", pa.array(REWARDS))
    attempt = Attempt.begin(url, REWARDED)
    with attempt.shard(0) as writer:
        writer.write(REWARDED.conform(table))
        return attempt.commit([writer.finish()]).url


def kept(folder: Path, **given: object) -> tuple[list[Node], list[list[float]]]:
    """What is made on the way, and the rewards that each improve step keeps."""
    plan = Plan(str(folder / "root"))
    recipe = RestIteration(iteration=1, setup="digits", **given)
    rows, nothing = plan.existing(rewarded(str(folder / "given")), "dataset"), cast(Any, None)
    grown = Grown(label="rest", seed=0, task_setup=nothing, policy=nothing, samples=rows, rewards=rows, earlier=())
    last = recipe.keep(plan, grown)
    for node in plan.nodes.values():
        if isinstance(node, Table):
            apply(node.op, [Dataset.open(one.url) for one in node.inputs], node.url, task_key=node.task_key)
    values = [Dataset.open(node.url).read(columns=["reward"])["reward"].to_pylist() for node in last]
    return [node for node in plan.nodes.values() if node.made], values


def test_quantiles_need_no_table_of_standardised_rewards(tmp_path: Path) -> None:
    nodes, rows = kept(tmp_path, thresholds=[0.4, 0.9])
    assert [node.label for node in nodes] == ["rest/step=1/kept", "rest/step=2/kept"]
    standard = (REWARDS - REWARDS.mean()) / REWARDS.std(ddof=1)
    for share, values in zip((0.4, 0.9), rows, strict=True):
        assert values == REWARDS[standard > np.quantile(standard, share)].tolist()


def test_absolute_thresholds_are_of_standardised_rewards(tmp_path: Path) -> None:
    nodes, rows = kept(tmp_path, thresholds=[-0.5, 1.0], threshold_kind="absolute", reward_mean=1.0, reward_std=2.0)
    assert nodes[0].label == "rest/scores"
    standard = (REWARDS - 1) / 2
    assert rows == [REWARDS[standard > threshold].tolist() for threshold in (-0.5, 1.0)]


def planned(**given: Any) -> Iterations:
    return RestIteration(iteration=2, setup="digits", **given).results(Plan("data"))


def test_original_data_and_earlier_samples_are_filtered_like_the_new_ones() -> None:
    first, last = planned(score_original=True, earlier=3, thresholds=[0.2, 0.8]).steps
    [mixed] = {id(one.inputs[0]): one.inputs[0] for one in last.kept}.values()
    assert mixed.op.sources == ("grown", "iter=1", "original") and mixed.op.epochs == (1.0, 1.0, 1.0)
    assert list(mixed.inputs[:2]) == [last.rewards, first.rewards]
    assert mixed.inputs[2].label == "digits/original.rewards" and "reward" in mixed.schema
    [alone] = {id(one.inputs[0]): one.inputs[0] for one in first.kept}.values()
    assert alone.op.sources == ("grown", "original")
    usual = planned().steps[1]
    assert [one.inputs for one in usual.kept] == [(usual.rewards,)] * 2


@pytest.mark.parametrize("given", [{}, {"score_original": True, "original_share": 0}], ids=["blended", "scored"])
def test_why_an_answer_ended_is_known_where_it_is_templated(given: dict[str, Any]) -> None:
    """Original data has no `finish_reason`: blended or filtered with it, the samples keep theirs."""
    plan = Plan("data")
    recipe = RestIteration(iteration=1, setup="digits", **given)
    [step] = recipe.results(plan).steps
    assert step.samples.schema is not None and "finish_reason" in step.samples.schema
    texts = [one for one in step.policy.ancestors() if isinstance(one, Table) and isinstance(one.op, Chat)]
    learnt = [one for one in texts if step.samples in one.ancestors() and one.op.response == "response"]
    assert len(learnt) == len(step.kept) == 2
    for one in learnt:
        [rows] = one.inputs
        assert rows.schema is not None and rows.schema["finish_reason"].nullable


def test_the_rate_falls_from_step_to_step() -> None:
    policy = planned(lr_decay=0.5, thresholds=[0.2, 0.4, 0.8]).steps[0].policy
    rates = []
    for _ in range(3):
        optim = policy.training.learning.optim
        rates.append((optim.lr, optim.min_lr))
        policy = policy.init
    assert rates[::-1] == [(5e-4, 5e-5), (2.5e-4, 2.5e-5), (1.25e-4, 1.25e-5)], "the setup's, halved and halved again"


def test_moments_without_use_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="reward_mean and reward_std have no use here"):
        kept(tmp_path, thresholds=[0.5], reward_mean=0.0, reward_std=1.0)
    assert not list((tmp_path).glob("root/*"))
