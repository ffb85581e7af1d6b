"""blend.judged: the winner is chosen, with what belongs to it; what has none goes, with why."""

from __future__ import annotations

import pyarrow as pa
import pytest

from datakit.blend import Judged, Match
from datakit.columns.conversations import of_rows
from datakit.constitution.principles import Principle
from datakit.label import DrawPrinciple, Judge
from datakit.op import Context, Label
from schemas import PREFERENCES, Column, with_columns
from schemas.errors import ConfigError
from schemas.rows.comparisons import COMPARISONS, SIDES
from tests.datakit.fakes import Example
from tests.datakit.judging.scripted import Scripted, answers_in, lot, worth

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


def flipping(content: str, seed: int) -> str:
    """Of the worthier answer or the less worthy one, as the principle says; in three of ten replies what stands first,
    in one of twenty the wrong one.
    """
    shown = answers_in(content)
    better = "AB" if (worth(shown["A"]) > worth(shown["B"])) == ("worthier" in content) else "BA"
    right = better if lot("noise" + content) >= 0.05 else better[::-1]
    return "[[A]]" if lot("bias" + content) < 0.3 else f"[[{right[0]}]]"


def test_preferences_that_were_planted_come_back_by_the_principle_of_each_prompt() -> None:
    """400 prompts, four answers of known worth, two principles of opposite minds; a judge that errs."""
    ids = [(f"p{row}", f"p{row}-{at}", f"text {at} worth {7 * row % 5 + at * (3 if row % 2 else -3)}")
           for row in range(400) for at in range(4)]  # fmt: skip
    columns = dict(zip(("prompt_id", "sample_id", "response"), zip(*ids, strict=True), strict=True))
    rows = pa.table({**columns, "messages": of_rows([[("user", name)] for name, *_ in ids])})
    table = Match(max_pairs=2).gather(rows, Context()).rows
    two = tuple(Principle(name=name, choice=f"Choose the {name} answer.") for name in ("worthier", "lesser"))
    for op in (
        DrawPrinciple(principles=two, texts=("choice",)),
        Judge.of({"rubric": "principle", "answers": list(SIDES)}),
    ):
        assert isinstance(op, Label)
        table = with_columns(table, dict(op.label(table, Context(resources={"judge": Scripted(flipping)}))))
    made = Judged(along=("principle",)).gather(table, Context())
    gained = [worth(row["chosen"]) - worth(row["rejected"]) for row in made.rows.to_pylist()]
    minds = [1 if name == "worthier" else -1 for name in made.rows["principle"].to_pylist()]
    right = [gain * mind > 0 for gain, mind in zip(gained, minds, strict=True)]
    assert len(right) > 400 and sum(right) / len(right) >= 0.95
    assert 0.4 < sum(gain > 0 for gain in gained) / len(gained) < 0.6, "one mind for all would be right in half"
    assert made.rejected is not None and {*made.rejected["reason"].to_pylist()} == {"tie"}
    assert len(right) + made.rejected.num_rows == 800
