"""template.reward_template: a question with its reward, as NeMo-Aligner's labeler formats it."""

from __future__ import annotations

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.columns.conversations import of_rows
from datakit.op import Context
from datakit.template import RewardTemplate
from schemas import MESSAGES
from schemas.errors import ConfigError, DataError
from tests.datakit.fakes import Example

TURNS = [
    [("user", "a?")],
    [("system", "s"), ("user", "b?"), ("assistant", "c"), ("user", "{reward} d?")],
    [("user", "")],
]


def table(rewards: list[float]) -> pa.Table:
    rows = pa.table({"messages": of_rows(TURNS), "reward": pa.array(rewards, pa.float64())})
    return RewardTemplate().takes.conform(rows)


EXAMPLES = [
    Example(RewardTemplate(), (table([1.0, 2.0, 1.0]),)),
    Example(RewardTemplate(template="{reward}{input}", plain="question"), (table([1.0, 2.0, 1.0]),)),
]


def written(rewards: list[float], **settings: object) -> list[list[str]]:
    made = RewardTemplate(**settings).label(table(rewards), Context())  # type: ignore[arg-type]
    assert all(made.kept.keep.to_pylist())
    return [[turn["content"] for turn in row] for row in made.columns["messages"].to_pylist()]


def test_the_default_template_with_one_decimal() -> None:
    assert written([4.25, -1.06, 0.35]) == [
        ["a? <rm_score>: 4.2 "],
        ["s", "b?", "c", "{reward} d? <rm_score>: -1.1 "],
        [" <rm_score>: 0.3 "],
    ]


def test_two_decimals_and_another_template() -> None:
    made = written([4.256, -0.001, 7.0], decimals=2, template="[{reward}] {input} [{reward}]")
    assert [row[-1] for row in made] == ["[4.26] a? [4.26]", "[0.00] {reward} d? [0.00]", "[7.00]  [7.00]"]


def test_the_messages_stay_where_they_are_asked_for() -> None:
    rows = table([1.0, 2.0, 3.0])
    made = RewardTemplate(plain="question").label(rows, Context()).columns
    assert made["question"].equals(rows["messages"].combine_chunks())
    roles = [[turn["role"] for turn in row] for row in made["messages"].to_pylist()]
    assert roles == [[role for role, _ in turns] for turns in TURNS]


@pytest.mark.parametrize(
    ("turns", "reward", "reason"),
    [
        ([("assistant", "x")], 1.0, "last-turn-not-user"),
        ([], 1.0, "last-turn-not-user"),
        ([("user", "x")], None, "reward-not-finite"),
        ([("user", "x")], float("inf"), "reward-not-finite"),
    ],
)
def test_rows_that_cannot_be_written_go(put, tmp_path, turns, reward, reason) -> None:
    rows = pa.table({"messages": of_rows([TURNS[0], turns]), "reward": pa.array([1.0, reward])})
    given = put(RewardTemplate().takes.conform(rows))
    with pytest.raises(DataError, match=reason):
        apply(RewardTemplate(), given, str(tmp_path / "none"))
    made = apply(RewardTemplate(), given, str(tmp_path / "made"), max_rejected=1)
    assert made.num_rows == 1 and made.schema["messages"].type == MESSAGES


@pytest.mark.parametrize("settings", [{"template": "{input}"}, {"template": "{reward}"}, {"decimals": 7}])
def test_a_template_without_both_places_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="bad-setting"):
        RewardTemplate(**settings)  # type: ignore[arg-type]
