"""label.pass_at: pass@k and maj@k by hand and by going through all subsets."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest

from datakit.label import PassAt
from datakit.op import Context
from schemas import Column, Schema
from schemas.errors import ConfigError
from tests.datakit.fakes import Example

ANSWERS = Schema(
    "answers",
    1,
    (
        Column("prompt_id", pa.string(), ""),
        Column("sample_id", pa.string(), ""),
        Column("sample_index", pa.int32(), ""),
        Column("correct", pa.float64(), ""),
        Column("correct_read", pa.string(), "", nullable=True),
        Column("kind", pa.string(), "", nullable=True),
    ),
    key=("sample_id",),
)


def answers(**prompts: list[tuple[float, str | None]]) -> pa.Table:
    """Answers to each prompt: whether each is right, and what was read of it."""
    rows = [
        {"prompt_id": name, "sample_id": f"{name}-{at}", "sample_index": at, "correct": right, "correct_read": read,
         "kind": name[:1]}
        for name, given in prompts.items() for at, (right, read) in enumerate(given)
    ]  # fmt: skip
    return ANSWERS.conform(pa.Table.from_pylist(rows, ANSWERS.arrow))


ROWS = answers(
    most=[(0, "7"), (1, "4"), (1, "4"), (0, "5")],
    few=[(0, "7"), (1, "4"), (0, "7"), (0, "7")],
    none=[(0, None), (0, None), (0, None), (0, None)],
    even=[(0, "9"), (1, "3"), (1, "3"), (0, "9")],
    short=[(1, "1"), (0, None)],
)
EXAMPLES = [Example(PassAt(ks=(1, 2, 4), along=("kind",)), (ROWS,)), Example(PassAt(ks=(2,), read=""), (ROWS,))]


def solved(rows: pa.Table, **settings: object) -> dict[str, dict[str, object]]:
    op = PassAt(**settings)  # type: ignore[arg-type]
    made = op.gives(ANSWERS).check(op.gather(rows, Context()).rows)
    return {row["prompt_id"]: row for row in made.to_pylist()}


def test_one_of_k_and_most_of_k():
    rows = solved(ROWS, ks=(1, 2, 4), along=("kind",))
    assert [*rows] == ["most", "few", "none", "even", "short"]
    assert [rows[name]["pass_1"] for name in rows] == [0.5, 0.25, 0.0, 0.5, 0.5]
    assert rows["few"]["pass_2"] == pytest.approx(1 - 3 / 6) and rows["most"]["pass_2"] == pytest.approx(1 - 1 / 6)
    assert [rows[name]["pass_4"] for name in rows] == [1.0, 1.0, 0.0, 1.0, None]
    assert [rows[name]["maj_4"] for name in rows] == [1.0, 0.0, 0.0, 0.0, None], "of equal counts the first wins"
    assert [rows[name]["maj_2"] for name in rows] == [0.0, 0.0, 0.0, 0.0, 1.0]
    assert [rows[name]["maj_1"] for name in rows] == [0.0, 0.0, 0.0, 0.0, 1.0]
    assert (rows["short"]["answers"], rows["short"]["right_answers"], rows["short"]["kind"]) == (2, 1, "s")


def test_pass_at_k_is_the_mean_over_all_subsets():
    random = np.random.default_rng(3)
    sizes = random.integers(1, 8, 20).tolist()
    given = {f"p{at}": [(float(random.random() < 0.4), None) for _ in range(size)] for at, size in enumerate(sizes)}
    rows = solved(answers(**given), ks=(1, 2, 3, 5), read="")
    for name, listed in given.items():
        for k in (1, 2, 3, 5):
            subsets = [max(one for one, _ in chosen) for chosen in combinations(listed, k)]
            assert rows[name][f"pass_{k}"] == (pytest.approx(np.mean(subsets)) if subsets else None)
    assert "maj_1" not in rows["p0"]


def test_the_order_of_rows_is_nothing():
    order = np.random.default_rng(1).permutation(ROWS.num_rows)
    assert solved(ROWS.take(pa.array(order)), ks=(1, 2, 4)) == solved(ROWS, ks=(1, 2, 4))


@pytest.mark.parametrize("ks", [(), (0,), (2, 2)])
def test_numbers_of_answers_are_above_0(ks: tuple[int, ...]):
    with pytest.raises(ConfigError, match="each once"):
        PassAt(ks=ks)
