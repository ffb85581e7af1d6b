"""Rollouts: what operations make of them is what the row kind declares."""

from __future__ import annotations

import pytest

from datakit.label import Gae, GroupAdvantage, ImportanceWeights, Kl, TokenRewards, Values, Whiten
from datakit.op import Op
from schemas import ROLLOUTS, SAMPLES, TOKENS
from schemas.schema import same_type


@pytest.mark.parametrize(
    "op",
    [Gae(), GroupAdvantage(), ImportanceWeights(), Kl(), TokenRewards(), Values(), Whiten()],
    ids=lambda op: op.name,
)
def test_columns_that_operations_add_are_those_of_the_row_kind(op: Op) -> None:
    given = ROLLOUTS.adding(*op.takes.columns)
    made = op.gives(given)
    shared = [column for column in made.columns if column.name in ROLLOUTS]
    assert {*ROLLOUTS.names} == {column.name for column in shared}
    assert all(same_type(column.type, ROLLOUTS[column.name].type) for column in shared)
    assert any(column.name in ROLLOUTS and not column.nullable for column in made.columns[len(TOKENS.names) :])


def test_a_rollout_is_a_sample_in_tokens_before_anything_was_measured() -> None:
    needed = [column.name for column in ROLLOUTS.columns if not column.nullable]
    assert needed == [
        *("sample_id", "input_ids", "loss_mask", "prompt_id", "step", "weight_version", "finish_reason"),
    ]
    assert {"sample_id", "prompt_id", "finish_reason"} <= {*SAMPLES.names}
    rows = ROLLOUTS.example(4).select(needed)
    assert ROLLOUTS.check(rows)["advantages"].null_count == 4
