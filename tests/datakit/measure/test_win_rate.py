"""Win rates by hand, at equal length against a regression of the test's own, and what must not move them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.columns.logistic import fitted
from datakit.measure import WinRate
from schemas import Column, Schema
from schemas.errors import DataError
from tests.datakit.fakes import Example

COMPARED = Schema(
    "compared",
    1,
    (
        Column("prompt_id", pa.string(), "the question"),
        Column("response", pa.string(), "an answer"),
        Column("answer", pa.string(), "the baseline's"),
        Column("judge_wins", pa.float64(), "who wins", nullable=True),
        Column("dataset", pa.string(), "where from"),
    ),
)
OP = WinRate(slices=("dataset",))


def compared(wins, lengths, others=None, prompts=None) -> pa.Table:
    others = [10] * len(wins) if others is None else others
    columns = {
        "prompt_id": [f"p{at}" for at in range(len(wins))] if prompts is None else prompts,
        "response": ["x" * int(length) for length in lengths],
        "answer": ["y" * int(length) for length in others],
        "judge_wins": pa.array(wins, pa.float64()),
        "dataset": ["even" if at % 2 == 0 else "odd" for at in range(len(wins))],
    }
    return COMPARED.conform(pa.table(columns))


EXAMPLES = [Example(OP, (compared([1.0, 0.0, None, 0.5, 1.0, 0.0], [12, 8, 9, 10, 20, 3]),))]


def figures(rows: pa.Table, put, place, op: WinRate = OP) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in apply(op, put(rows), str(place)).read().to_pylist()}


def drawn(count: int, theta: float, phi: float, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Verdicts by the model itself, and the lengths of the first answers; those of the others are 500."""
    rng = np.random.default_rng(seed)
    lengths = np.maximum(0, rng.normal(620, 200, count)).round()
    gap = lengths - 500
    odds = theta + phi * np.tanh(gap / gap.std())
    return (rng.random(count) < 1 / (1 + np.exp(-odds))).astype(float), lengths


def test_shares_and_gaps_by_hand(put, tmp_path):
    made = figures(compared([1.0, 0.0, None, 0.5, 1.0, 1.0], [14, 8, 99, 10, 20, 13]), put, tmp_path / "out")
    assert made["win_rate"] == pytest.approx(3.5 / 5) and made["win_rate.rows"] == 5
    assert made["length_gap"] == pytest.approx((4 - 2 + 0 + 10 + 3) / 5)
    assert made["win_rate[dataset=even]"] == 1.0 and made["win_rate[dataset=odd]"] == pytest.approx(1.5 / 3)


def test_without_a_gap_both_rates_are_one(put, tmp_path):
    made = figures(compared([1.0, 0.0, 0.5, 1.0, 1.0], [10] * 5), put, tmp_path / "out")
    assert made["win_rate_lc"] == pytest.approx(0.7, abs=1e-9)
    for end in ("low", "high"):
        assert 0 < made[f"win_rate_lc.{end}"] < 1


@pytest.mark.parametrize("won", [0.0, 1.0])
def test_who_always_wins_does_so_at_equal_length(won, put, tmp_path):
    made = figures(compared([won] * 4, [12, 30, 8, 11]), put, tmp_path / "out")
    assert made["win_rate_lc"] == made["win_rate_lc.low"] == made["win_rate"] == won


def test_the_regression_is_the_likeliest_one():
    """Gradient ascent in float64 from another start, on wins with ties, finds the same two numbers."""
    won, lengths = drawn(400, 0.3, 1.5)
    won[::7] = 0.5
    length = np.tanh((lengths - 500) / (lengths - 500).std())
    theta, phi = 1.0, -1.0
    for _ in range(20_000):
        off = won - 1 / (1 + np.exp(-(theta + phi * length)))
        theta, phi = theta + 0.01 * off.sum(), phi + 0.01 * ((off * length).sum() - phi)
    assert fitted(won, length) == pytest.approx((theta, phi), abs=1e-9)


def test_verdicts_that_length_explains_are_even_at_equal_length(put, tmp_path):
    won, lengths = drawn(4000, 0.0, 2.0)
    made = figures(compared(won, lengths, [500] * 4000), put, tmp_path / "out")
    assert made["win_rate"] > 0.6
    assert made["win_rate_lc.low"] < 0.5 < made["win_rate_lc.high"]
    assert made["win_rate_lc"] == pytest.approx(0.5, abs=0.03)


def test_the_one_step_interval_is_that_of_the_whole_bootstrap(put, tmp_path):
    won, lengths = drawn(300, 0.4, 1.0)
    made = figures(compared(won, lengths, [500] * 300), put, tmp_path / "out")
    rng, length = np.random.default_rng(1), np.tanh((lengths - 500) / (lengths - 500).std())
    whole = []
    for _ in range(400):
        rows = rng.integers(0, 300, 300)
        whole.append(1 / (1 + np.exp(-fitted(won[rows], length[rows])[0])))
    low, high = np.quantile(whole, [0.025, 0.975])
    assert (made["win_rate_lc.low"], made["win_rate_lc.high"]) == pytest.approx((low, high), abs=0.015)


def test_whoever_stands_first_the_rates_add_up(put, tmp_path):
    won, lengths = drawn(200, 0.4, 1.0)
    one = figures(compared(won, lengths, [500] * 200), put, tmp_path / "one")
    other = figures(compared(1 - won, [500] * 200, lengths), put, tmp_path / "other")
    for name in ("win_rate", "win_rate_lc"):
        assert one[name] + other[name] == pytest.approx(1.0, abs=1e-9)


@pytest.mark.filterwarnings("error")
def test_a_slice_without_a_verdict_has_no_rate(put, tmp_path):
    made = figures(compared([1.0, None, 0.0, None], [12, 8, 9, 10]), put, tmp_path / "out")
    assert made["win_rate.rows[dataset=odd]"] == 0 and made["win_rate.rows[dataset=even]"] == 2
    assert not {"win_rate[dataset=odd]", "win_rate_lc[dataset=odd]", "length_gap[dataset=odd]"} & {*made}


def test_a_verdict_is_a_share(put, tmp_path):
    with pytest.raises(DataError, match="holds 3"):
        figures(compared([1.0, 3.0], [1, 2]), put, tmp_path / "out")


def test_length_that_tells_all_has_an_end(put, tmp_path):
    made = figures(compared([1.0] * 50 + [0.0] * 50, [30] * 50 + [10] * 50, [20] * 100), put, tmp_path / "out")
    assert made["win_rate_lc"] == pytest.approx(0.5, abs=1e-9)
