"""SPIN and DPO in rounds: who is held against whom, on what; planned only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.blend import Mix, Pair, PairAnswer
from datakit.filter import Window
from datakit.label import Logprobs
from pipelines.commands.iterations import Iterations, SampledIteration
from pipelines.commands.preference_iterations import PreferenceIteration
from pipelines.graph.node import Node
from pipelines.graph.nodes import Table, TrainedCheckpoint
from pipelines.graph.plan import Plan
from pipelines.recipes import DpoIteration, RejectionSamplingIteration, SpinIteration
from pipelines.setups.own import own
from schemas import COMPLETIONS, Column
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from trainers.registry import configured


def planned(kind: type[SampledIteration], **words: Any) -> Iterations:
    return kind(**{"setup": "digits", "iteration": 3, **words}).results(Plan("data"))


def policies(results: Iterations) -> list[TrainedCheckpoint]:
    return [step.policy for step in results.steps if isinstance(step.policy, TrainedCheckpoint)]


def made_by(node: Node, kind: type) -> list[Table]:
    return [one for one in node.ancestors() if isinstance(one, Table) and isinstance(one.op, kind)]


@pytest.mark.parametrize("kind", [SpinIteration, DpoIteration])
def test_each_round_starts_from_the_last_which_is_its_reference(kind: type[PreferenceIteration]) -> None:
    results = planned(kind)
    before = [results.task_setup.policy, *(step.policy for step in results.steps)]
    for step, policy, opponent in zip(results.steps, policies(results), before, strict=False):
        assert policy.init is opponent and step.samples.parents["generator"] is opponent
        assert isinstance(policy.data, Table) and isinstance(policy.data.op, Logprobs)
        assert list(policy.data.resources.values()) == [opponent]
        assert {"ref_logprob_chosen", "ref_logprob_rejected"} <= {*policy.data.schema.names}
        learning = policy.training.learning
        assert learning.algorithm == "dpo" and configured("dpo", learning.settings)[1].beta == 0.1
        assert step.evaluation.figures in results.targets
    assert len(policies(results)) == 3


def test_self_play_needs_no_reward_and_asks_the_same_prompts_again() -> None:
    results = planned(SpinIteration)
    assert all(step.rewards is None and "rewards" not in step.datasets for step in results.steps)
    prompts = [[one.task_key for one in made_by(step.samples, object) if one.label == "digits/original/prompts"]
               for step in results.steps]  # fmt: skip
    assert prompts[0] and all(set(keys) == set(prompts[0]) for keys in prompts)
    assert all(isinstance(step.kept[0].op, PairAnswer) and step.kept[0].inputs == (step.samples,)  # type: ignore[attr-defined]
               for step in results.steps)  # fmt: skip


def test_self_play_of_ones_own_model_asks_for_no_reward(place: Path, with_settings: Callable[..., None]) -> None:
    """With one, held-out answers are scored; without, what is measured of them is the rest."""
    (place / "prompts.jsonl").write_text('{"prompt": "q"}\n{"prompt": "a"}\n')
    given = {"model": "model", "prompts": "prompts.jsonl", "original": "rows.jsonl", "max_new_tokens": 8}
    for reward, columns in (("", ("response_ids.length",)), ("judge", ("reward", "response_ids.length"))):
        with_settings(own, **given, reward=reward)
        results = planned(SpinIteration, setup="own", iteration=1, prompts_per_iteration=0)
        figures = results.steps[0].evaluation.figures
        assert isinstance(figures, Table) and figures.op.columns == columns  # type: ignore[attr-defined]
        assert ("reward_model" in results.checkpoints) is bool(reward)
    with_settings(own, **given)
    with pytest.raises(ConfigError, match="the setup own needs --own-reward"):
        planned(DpoIteration, setup="own", iteration=1)


@pytest.mark.parametrize(("earlier", "sources"), [(1, ["now", "iter=2"]), (2, ["now", "iter=1", "iter=2"]), (0, [])])
def test_pairs_of_the_iterations_before_are_learnt_again(earlier: int, sources: list[str]) -> None:
    results = planned(SpinIteration, earlier=earlier)
    policy = policies(results)[-1]
    mixed = [one for one in made_by(policy.data, Mix) if one.label == "spin/digits/iter=3/step=1/mixed"]
    assert [list(one.op.sources) for one in mixed] == ([sources] if sources else [])  # type: ignore[attr-defined]
    given = {f"iter={step.number}": step.kept[0] for step in results.steps}
    for one in mixed:
        assert list(one.inputs) == [given["iter=3" if name == "now" else name] for name in sources]


def test_pairs_of_a_round_are_as_the_flags_say() -> None:
    words = {"pairs": "all_pairs", "max_pairs": 4, "margin": 0.5, "max_length_ratio": 1.5}
    [kept] = planned(DpoIteration, iteration=1, **words).steps[0].kept
    assert isinstance(kept, Table)
    assert kept.op == Pair(rule="all_pairs", max_pairs=4, margin=0.5, max_length_ratio=1.5)
    [usual] = planned(DpoIteration, iteration=1).steps[0].kept
    assert isinstance(usual, Table) and usual.op == Pair()


def test_all_prompts_of_the_original_data() -> None:
    results = planned(SpinIteration, iteration=1, prompts_per_iteration=0)
    [step] = results.steps
    assert "digits/original.prompts" in {one.label for one in step.samples.ancestors()}
    assert "digits/original/prompts" not in {one.label for one in step.samples.ancestors()}


@pytest.mark.parametrize("drawn", [(), ("finish_reason",), ("finish_reason", "drawn_sample_id")])
def test_original_answers_that_a_policy_drew_keep_their_ends_in_self_play(
    drawn: tuple[str, ...], tmp_path: Path
) -> None:
    recipe, plan = SpinIteration(setup="digits", prompts_per_iteration=0), Plan(str(tmp_path / "data"))
    schema = COMPLETIONS.adding(*(Column(name, pa.string(), name, nullable=True) for name in drawn))
    Dataset.from_arrow(schema.example(3), schema, str(tmp_path / "original"))
    setup = replace(recipe.task_setup(plan), original=plan.existing(str(tmp_path / "original"), "dataset"))
    prompts = recipe.prompts(plan, "spin/x/iter=1", setup, 1)
    assert isinstance(prompts, Table)
    rows = apply(prompts.op, Dataset.open(prompts.inputs[0].url), prompts.url).read()
    assert rows["prompt_id"].to_pylist() == [f"sample_id {number}" for number in range(3)]
    known = [name for name in rows.column_names if name.startswith("answer_")]
    assert known == (["answer_sample_id", "answer_finish_reason"] if drawn else [])
    if drawn:
        assert rows["answer_finish_reason"].to_pylist() == [f"finish_reason {number}" for number in range(3)]
        name = "drawn_sample_id" if "drawn_sample_id" in drawn else "sample_id"
        assert rows["answer_sample_id"].to_pylist() == [f"{name} {number}" for number in range(3)]


def test_prompts_in_their_order_go_on_where_the_iteration_before_ended() -> None:
    results = planned(RejectionSamplingIteration, prompt_order="rows", prompts_per_iteration=100)
    label = "rejection-sampling/digits/iter={}/prompts"
    windows = [
        one.op
        for step in results.steps
        for one in made_by(step.samples, Window)
        if one.label == label.format(step.number)
    ]
    assert [(one.offset, one.limit) for one in windows] == [(0, 100), (100, 100), (200, 100)]  # type: ignore[attr-defined]


def test_without_original_data_there_is_no_self_play() -> None:
    recipe, plan = SpinIteration(setup="digits"), Plan("data")
    setup = replace(recipe.task_setup(plan), original=None)
    with pytest.raises(ConfigError, match="has no original data") as fault:
        recipe.prompts(plan, "spin/x/iter=1", setup, 1)
    assert fault.value.next == "--own-original answers.jsonl"
