"""template.few_shot: which examples stand before a question, in which words, and what has too few of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.columns.seeded import distinct, row_keys
from datakit.template import FewShot
from schemas import CHOICES, MESSAGES, PROMPTS, Column, Dataset, Schema
from schemas.errors import ConfigError, DataError
from tests.datakit.blend.test_choices import QUESTIONS
from tests.datakit.fakes import Example

SUBJECTED = PROMPTS.adding(Column("subject", pa.string(), "what it is about", nullable=True))


def prompts(rows: list[tuple[str, str | None]], subjects: list[str | None] | None = None) -> pa.Table:
    """Questions with their answers."""
    columns: dict[str, Any] = {
        "prompt_id": [f"p-{question}" for question, _ in rows],
        "messages": pa.array([[{"role": "user", "content": question}] for question, _ in rows], MESSAGES),
        "answer": pa.array([answer for _, answer in rows], pa.string()),
        "source": ["s"] * len(rows),
    }
    given = {} if subjects is None else {"subject": pa.array(subjects, pa.string())}
    return (PROMPTS if subjects is None else SUBJECTED).conform(pa.table({**columns, **given}))


SUMS = prompts([(f"{at}+{at}?", str(2 * at)) for at in range(9)])
EXAMPLES = [
    Example(FewShot(count=2), (SUMS, SUMS)),
    Example(FewShot(count=1, answer="best", choose="first", turns=False), (QUESTIONS, QUESTIONS)),
]


def shown(
    op: FewShot, questions: pa.Table, examples: pa.Table, place: Path, seed: int = 0, schema: Schema = PROMPTS
) -> Dataset:
    inputs = [
        Dataset.from_arrow(rows, schema, str(place / name))
        for name, rows in (("questions", questions), ("examples", examples))
    ]
    return apply(op, inputs, str(place / "shown"), seed=seed)


def turns(rows: Dataset) -> list[list[tuple[str, str]]]:
    return [[(turn["role"], turn["content"]) for turn in row] for row in rows.read()["messages"].to_pylist()]


def test_the_first_stand_as_turns_behind_a_system_turn(tmp_path: Path) -> None:
    asked = prompts([("a?", None), ("b?", None)])
    talk = [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a?"}],
        [{"role": "user", "content": "b?"}],
    ]
    asked = asked.set_column(asked.column_names.index("messages"), "messages", pa.array(talk, MESSAGES))
    made = shown(FewShot(count=2, choose="first"), asked, SUMS, tmp_path)
    examples = [("user", "0+0?"), ("assistant", "0"), ("user", "1+1?"), ("assistant", "2")]
    assert turns(made) == [[("system", "Be brief."), *examples, ("user", "a?")], [*examples, ("user", "b?")]]
    assert made.read()["example_ids"].to_pylist() == [["p-0+0?", "p-1+1?"]] * 2


def test_as_text_they_stand_in_the_turn_of_the_question(tmp_path: Path) -> None:
    made = shown(FewShot(count=2, choose="first", turns=False), prompts([("a?", None)]), SUMS, tmp_path)
    assert turns(made) == [[("user", "0+0? 0\n\n1+1? 2\n\na?")]]


def test_the_best_choice_is_the_answer(tmp_path: Path) -> None:
    op = FewShot(count=1, choose="first", answer="best", turns=False)
    made = shown(op, QUESTIONS, QUESTIONS, tmp_path, schema=CHOICES)
    assert turns(made) == [[("user", "Which colour? blue\n\n2 + 2?")], [("user", "2 + 2? 4\n\nWhich colour?")]]


@pytest.mark.parametrize("choose", ["first", "seeded"])
def test_no_question_stands_before_itself_and_none_twice(choose: Any, tmp_path: Path) -> None:
    doubled = pa.concat_tables([SUMS, prompts([("3+3?", "six")])])
    doubled = doubled.set_column(0, "prompt_id", pa.array([f"p{at}" for at in range(10)]))
    made = shown(FewShot(count=8, choose=choose), doubled, doubled, tmp_path)
    for row in turns(made):
        questions = [content for role, content in row if role == "user"]
        assert len(questions) == len({*questions}) == 9, "eight others, and itself"
    assert ("assistant", "6") in turns(made)[0] and ("assistant", "six") not in turns(made)[0], "the first of equals"
    assert made.manifest.stats["counts"]["unusable"] == 1


def test_a_choice_follows_from_the_seed_and_the_id_alone(tmp_path: Path) -> None:
    op = FewShot(count=3)
    whole = {row["prompt_id"]: row["example_ids"] for row in shown(op, SUMS, SUMS, tmp_path / "a").read().to_pylist()}
    part = shown(op, SUMS.slice(4, 3), SUMS, tmp_path / "b").read().to_pylist()
    assert {row["prompt_id"]: row["example_ids"] for row in part} == {
        name: whole[name] for name in ("p-4+4?", "p-5+5?", "p-6+6?")
    }
    other = shown(op, SUMS, SUMS, tmp_path / "c", seed=1).read().to_pylist()
    assert [row["example_ids"] for row in other] != [*whole.values()]


def test_examples_are_of_the_questions_kind_and_too_few_set_a_row_aside(tmp_path: Path) -> None:
    kinds: list[str | None] = ["even", "odd", "even", "odd", "even", "odd", "even", "odd", None]
    pool = prompts([(f"{at}?", str(at)) for at in range(9)], kinds)
    asked = prompts([("x?", None), ("y?", None), ("z?", None), ("w?", None)], ["odd", "even", "prime", None])
    made = shown(FewShot(count=2, alike="subject", choose="first"), asked, pool, tmp_path, schema=SUBJECTED)
    assert made.read()["example_ids"].to_pylist() == [["p-1?", "p-3?"], ["p-0?", "p-2?"]]
    gone = made.read_rejected().to_pylist()
    assert [(row["prompt_id"], row["reason"], row["value"], row["threshold"]) for row in gone] == [
        ("p-z?", "too-few-examples", 0.0, "2"),
        ("p-w?", "too-few-examples", 1.0, "2"),
    ]


def test_examples_without_answer_or_of_several_turns_are_counted(tmp_path: Path) -> None:
    pool = prompts([("a?", None), ("b?", " "), ("c?", "C"), ("d?", "D")])
    talk = pool["messages"].to_pylist()
    talk[3] = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}, *talk[3]]
    pool = pool.set_column(pool.column_names.index("messages"), "messages", pa.array(talk, MESSAGES))
    made = shown(FewShot(count=1), prompts([("q?", None)]), pool, tmp_path / "one")
    assert made.manifest.stats["counts"]["unusable"] == 3
    assert turns(made) == [[("user", "c?"), ("assistant", "C"), ("user", "q?")]]
    with pytest.raises(DataError) as caught:
        shown(FewShot(count=2), prompts([("q?", None)]), pool, tmp_path / "two")
    assert caught.value.slug == "too-few-examples" and caught.value.next == "--few-shot 1"


def test_settings_without_sense_are_refused() -> None:
    for count in (0, 1001):
        with pytest.raises(ConfigError):
            FewShot(count=count)


def test_lots_give_every_choice_and_order_the_same_chance() -> None:
    """Two of four are twelve ordered pairs: chi-squared with 11 degrees of freedom is below 31.3 in 99.9 % of cases."""
    lots = row_keys(0, 24_000, "lots")
    made = distinct(lots, np.full(len(lots), 4), 2)
    assert (made[:, 0] != made[:, 1]).all() and made.min() == 0 and made.max() == 3
    counts = np.bincount(made[:, 0] * 4 + made[:, 1], minlength=16).reshape(4, 4)
    assert (np.diag(counts) == 0).all()
    seen = counts[~np.eye(4, dtype=bool)]
    assert ((seen - 2000) ** 2 / 2000).sum() < 31.3
    mixed_sizes = distinct(lots[:4], np.array([2, 3, 9, 1000]), 2)
    assert [sorted(row) for row in mixed_sizes[:1].tolist()] == [[0, 1]]
    assert (mixed_sizes < np.array([[2], [3], [9], [1000]])).all()
