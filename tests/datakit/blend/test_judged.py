"""blend.judged: the winner is chosen, with what belongs to it; what has none goes, with why."""

from __future__ import annotations

import pyarrow as pa
import pytest

from datakit.blend import Judged
from datakit.op import Context
from schemas import PREFERENCES, Column, with_columns
from schemas.errors import ConfigError
from schemas.rows.comparisons import COMPARISONS
from tests.datakit.fakes import Example

WINS = [1.0, 0.25, 0.5, None, 0.6, 0.9]
AGREE = [1.0, 1.0, 1.0, None, 1.0, 0.0]


def rows() -> pa.Table:
    columns = {
        "judge_wins": pa.array(WINS), "judge_consistent": pa.array(AGREE), "principle": pa.array([*"abcdef"]),
        "first_temperature": pa.array([float(n) for n in range(6)]),
        "second_temperature": pa.array([float(n) + 10 for n in range(6)]),
    }  # fmt: skip
    return with_columns(COMPARISONS.example(6), columns)


STRICT = Judged(consistent="judge_consistent", certainty=0.7, along=("principle",), beside=("temperature",))
MORE = [Column(name, pa.float64(), name) for name in ("first_temperature", "second_temperature")]
KIND = STRICT.takes.adding(Column("principle", pa.string(), "by what"), *MORE)
EXAMPLES = [Example(op, (KIND.conform(rows()),)) for op in (STRICT, Judged())]


def test_the_winner_is_chosen_with_all_that_is_its_own() -> None:
    made, given = STRICT.gather(rows(), Context()).rows.to_pylist(), rows().to_pylist()
    assert [row["principle"] for row in made] == ["a", "b"]
    for row, one, chosen, rejected in zip(made, given, ("first", "second"), ("second", "first"), strict=False):
        for part in ("", "_sample_id", "_finish_reason", "_temperature"):
            assert row[f"chosen{part}"] == one[f"{chosen}{part}"] and row[f"rejected{part}"] == one[f"{rejected}{part}"]
        assert {row[name] == one[name] for name in ("pair_id", "prompt_id", "messages", "source")} == {True}
    assert [(row["chosen_reward"], row["rejected_reward"]) for row in made] == [(1.0, 0.0), (0.75, 0.25)]


def test_what_goes_says_why() -> None:
    lost = STRICT.gather(rows(), Context()).rejected.to_pylist()
    assert [(row["principle"], row["reason"], row["value"]) for row in lost] == [
        ("c", "tie", 0.5), ("d", "no-verdict", None), ("e", "unsure", 0.6), ("f", "orders-disagree", 0.9),
    ]  # fmt: skip
    plain = Judged().gather(rows(), Context())
    assert plain.rows["chosen_reward"].to_pylist() == [1.0, 0.75, 0.6, 0.9]
    assert PREFERENCES.check(plain.rows).num_rows == 4


@pytest.mark.parametrize("certainty", [0.4, 1.0, float("nan")])
def test_a_certainty_that_is_none_is_refused(certainty: float) -> None:
    with pytest.raises(ConfigError):
        Judged(certainty=certainty)
