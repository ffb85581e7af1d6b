"""label.group_advantage: published vectors, worked by hand, and answer by answer from the formulas."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.filter import Where
from datakit.label import GroupAdvantage, Whiten
from datakit.op import Context
from schemas.errors import ConfigError, DataError
from tests.datakit.fakes import Example
from tests.datakit.label.rollouts import rollouts

MASKS = [[1, 1, 1], [0, 1], [0, 0, 1, 1]]
NONE = GroupAdvantage(scale="none")
OTHERS = GroupAdvantage(baseline="leave_one_out", scale="leave_one_out")


def table(prompts: str, rewards: list[float | None], op: GroupAdvantage = NONE, **columns: list[str]) -> pa.Table:
    """Answers to the prompts named by letters."""
    masks = [MASKS[n % len(MASKS)] for n in range(len(prompts))]
    return rollouts(op.takes, masks, prompt_id=list(prompts), reward=rewards, **columns)


EXAMPLES = [
    Example(GroupAdvantage(), (table("aaabbbcccc", [1.0, 0.0, 0.0, 2.0, 2.0, 2.0, 0.0, 1.0, None, 4.0]),)),
    Example(OTHERS, (table("aabbc", [1.0, 2.0, 0.5, 0.25, 3.0]),)),
]


def advantages(op: GroupAdvantage, prompts: str, rewards: list[float]) -> list[float]:
    values: list[float] = op.gather(table(prompts, rewards, op), Context()).rows["advantage"].to_pylist()
    return values


def test_published_vectors_and_points_worked_by_hand() -> None:
    made = OTHERS.gather(table("aaabbb", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), Context()).rows
    assert made["baseline"].to_pylist() == pytest.approx([2.5, 2.0, 1.5, 5.5, 5.0, 4.5], abs=1e-12)
    by_others = [-1.5 / (math.sqrt(0.5) + 1e-6), 0.0, 1.5 / (math.sqrt(0.5) + 1e-6)] * 2
    assert made["advantage"].to_pylist() == pytest.approx(by_others, rel=1e-9)
    assert advantages(GroupAdvantage(), "aaa", [1.0, 2.0, 3.0]) == pytest.approx([-1 / 1.000001, 0, 1 / 1.000001])
    assert advantages(NONE, "abab", [1.0, 5.0, 2.0, 9.0]) == [-0.5, -2.0, 0.5, 2.0]
    assert made["group_size"].to_pylist() == [3] * 6 and made["group_std"].to_pylist() == pytest.approx([1.0] * 6)


def test_every_token_that_counts_has_the_advantage_of_its_answer() -> None:
    made = NONE.gather(table("aaa", [0.0, 1.0, 5.0]), Context()).rows
    assert made["advantages"].to_pylist() == [[0.0, -2.0, -2.0], [0.0, -1.0], [0.0, 0.0, 3.0, 3.0]]


@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
@pytest.mark.parametrize("scale", ["std", "leave_one_out", "none"])
def test_it_is_the_formula_answer_by_answer(baseline: str, scale: str) -> None:
    random = np.random.default_rng(5)
    prompts = "".join(random.permutation(list("aaaabbbbbbcccddddddddd")))
    rewards = (random.normal(size=len(prompts)) * 3 + 1e3).tolist()
    expected = []
    for place, prompt in enumerate(prompts):
        group = [reward for reward, other in zip(rewards, prompts, strict=True) if other == prompt]
        others = [rewards[n] for n, other in enumerate(prompts) if other == prompt and n != place]
        centre = statistics.fmean(group if baseline == "mean" else others)
        spread = {"std": group, "leave_one_out": others}.get(scale)
        expected.append((rewards[place] - centre) / (statistics.stdev(spread) + 1e-6 if spread else 1.0))
    op = GroupAdvantage(baseline=baseline, scale=scale)  # type: ignore[arg-type]
    assert advantages(op, prompts, rewards) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("op", [GroupAdvantage(), NONE, OTHERS, GroupAdvantage(epsilon=0.0)])
def test_equal_rewards_give_exactly_nothing(op: GroupAdvantage) -> None:
    assert advantages(op, "aaab" * 3, [0.1, 0.1, 0.1, 1 / 3] * 3) == [0.0] * 12
    made = op.gather(table("aaabb", [0.1, 0.1, 0.1, 1.0, 2.0]), Context())
    assert [std > 0 for std in made.rows["group_std"].to_pylist()] == [False] * 3 + [True] * 2


def test_equal_others_are_no_scale() -> None:
    assert advantages(OTHERS, "aaa", [0.1, 0.1, 0.7]) == pytest.approx([-0.3 / (0.18**0.5 + 1e-6)] * 2 + [0.6])


def test_a_group_of_one_and_groups_without_signal_are_reported_and_can_be_left_out(put, tmp_path) -> None:
    rows = put(table("aabbc", [1.0, 1.0, 0.0, 2.0, 7.0]))
    made = apply(GroupAdvantage(), rows, str(tmp_path / "made"))
    assert made.read()["advantage"].to_pylist()[4] == 0.0
    assert GroupAdvantage().notes(made.manifest) == (
        "1 of 3 groups have equal rewards and give no signal: group_std > 0 leaves them out",
        "1 answer without another to be held against: its advantage is 0",
    )
    left = apply(Where(predicate="group_std > 0"), made, str(tmp_path / "left"))
    assert left.read()["prompt_id"].to_pylist() == ["b", "b"]
    own = GroupAdvantage(alone="reward")
    assert advantages(own, "abb", [7.0, 1.0, 1.0]) == [7.0, 0.0, 0.0]
    assert "its advantage is the reward" in own.notes(apply(own, rows, str(tmp_path / "own")).manifest)[1]


def test_cut_answers_have_no_say_but_an_advantage() -> None:
    op = GroupAdvantage(scale="none", voters="ended")
    rows = table("aaab", [1.0, 3.0, 9.0, 4.0], op, finish_reason=["stop", "stop", "length", "length"])
    made = op.gather(rows, Context()).rows
    assert made["baseline"].to_pylist() == [2.0, 2.0, 2.0, 4.0] and made["group_size"].to_pylist() == [2, 2, 2, 0]
    assert made["advantage"].to_pylist() == [-1.0, 1.0, 7.0, 0.0]


def test_answers_without_a_reward_go_and_the_others_share_what_is_left() -> None:
    made = NONE.gather(table("aaab", [1.0, math.nan, 2.0, None]), Context())
    assert made.rows["advantage"].to_pylist() == [-0.5, 0.5]
    assert made.rejected.select(["prompt_id", "reason"]).to_pylist() == [
        {"prompt_id": "a", "reason": "not-finite"},
        {"prompt_id": "b", "reason": "not-finite"},
    ]


def test_with_whitening_it_is_reinforce_plus_plus(put, tmp_path) -> None:
    """r less its group's mean, over the standard deviation of all tokens."""
    made = apply(NONE, put(table("aaabbb", [1.0, 2.0, 6.0, 0.0, 0.0, 3.0])), str(tmp_path / "made"))
    white = apply(Whiten(), made, str(tmp_path / "white")).read()["advantages"].to_pylist()
    tokens = np.concatenate([np.array(row)[np.array(row) != 0] for row in white])
    assert len(tokens) == 10 and tokens.mean() == pytest.approx(0, abs=1e-7) and tokens.std() == pytest.approx(1)


def test_a_group_in_two_shards_and_a_bad_epsilon_are_refused(put, tmp_path) -> None:
    with pytest.raises(DataError, match="prompt_id in one shard"):
        apply(NONE, put(table("aabb", [0.0, 1.0, 2.0, 3.0]), cuts=[1]), str(tmp_path / "out"))
    with pytest.raises(ConfigError, match="epsilon out of range"):
        GroupAdvantage(epsilon=-1.0)


@pytest.mark.parametrize("rewards", [[5.2, 5.2, 5.2, 5.201], [1e5 + 0.3, 1e5 + 0.3, 1e5 + 1], [1e3, 1e3 + 0.25, 1.0]])
def test_the_spread_of_others_that_are_nearly_equal_is_theirs(rewards: list[float]) -> None:
    expected = []
    for n, reward in enumerate(rewards):
        others = rewards[:n] + rewards[n + 1 :]
        spread = statistics.stdev(others)
        expected.append((reward - statistics.fmean(others)) / (spread + 1e-6 if spread else 1.0))
    assert advantages(OTHERS, "a" * len(rewards), rewards) == pytest.approx(expected, rel=1e-6, abs=1e-9)
