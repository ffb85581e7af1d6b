"""label.steerlm2_weights: shares by hand and one by one; answers that have no number, requests with too few."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.label import Steerlm2Weights
from datakit.op import Context
from schemas.errors import ConfigError, DataError
from schemas.rows.tokens import MASK
from tests.datakit.fakes import Example

APART = Steerlm2Weights(proposal="proposal_logprob", policy="policy_logprob")
MASKS = [[0, 1, 1], [1, 1], [0, 0, 1, 1, 1], [0, 1], [1, 0, 1]]


def table(requests: str, **columns: list[float | None]) -> pa.Table:
    """Answers to the requests named by the letters of `requests`; a column that is not given is 0 everywhere."""
    size = len(requests)
    names = ("attribute_logprob", "prior_logprob", "ref_logprob", "proposal_logprob", "policy_logprob")
    rows = {name: pa.array(columns.get(name, [0.0] * size), pa.float64()) for name in names}
    masks = [MASKS[n % len(MASKS)] for n in range(size)]
    whole = {"prompt_id": pa.array(list(requests), pa.string()), "loss_mask": pa.array(masks, MASK), **rows}
    return APART.takes.adding(*Steerlm2Weights().takes.columns).conform(pa.table(whole))


EXAMPLES = [
    Example(Steerlm2Weights(), (table("aaabbbcccc", attribute_logprob=[float(n % 3) for n in range(10)]),)),
    Example(APART, (table("aabbc", prior_logprob=[-1.0, None, 2.0, 0.5, 1.0]),)),
]


def softmax(values: list[float]) -> list[float]:
    """Each as one over the sum of what the others are times as large."""
    return [1 / sum(math.exp(min(other - value, 700)) for other in values) for value in values]


def test_shares_by_hand() -> None:
    """e to the weights is 1 and 3 for a, 1 and 1 for b; the policy is twice as fond of the first answer of b."""
    rows = table(
        "aabb",
        attribute_logprob=[0.0, math.log(6), -5.0, -7.0],
        prior_logprob=[-2.0, -2.0, -1.0, 0.0],
        proposal_logprob=[-2.0, -2.0 + math.log(2), -3.0, -4.0],
        policy_logprob=[-2.0, -2.0 + math.log(2), -3.0 + math.log(2), -4.0],
    )
    made = APART.gather(rows, Context())
    assert made.rows["weight"].to_pylist() == pytest.approx([1 / 4, 3 / 4, 1 / 2, 1 / 2])
    assert made.rows["baseline"].to_pylist() == pytest.approx([1 / 2, 1 / 2, 2 / 3, 1 / 3])
    assert made.rows["group_size"].to_pylist() == [2, 2, 2, 2]
    assert made.rows["group_tokens"].to_pylist() == [1.5, 1.5, 2.0, 2.0], "the first token is never predicted"
    assert made.rejected.num_rows == 0


def test_it_is_a_softmax_of_numbers_of_any_size_however_rows_lie() -> None:
    draw = np.random.default_rng(7)
    requests = "".join(draw.permutation(list("aaaabbbbbccddddddd")))
    columns = {name: (draw.normal(size=18) * 900).tolist() for name in ("attribute_logprob", "prior_logprob")}
    columns |= {name: (draw.normal(size=18) * 900).tolist() for name in ("proposal_logprob", "policy_logprob")}
    made = APART.gather(table(requests, **columns), Context()).rows
    value = {name: np.array(numbers) for name, numbers in columns.items()}
    for name, total in (
        ("weight", value["attribute_logprob"] + value["prior_logprob"] - value["proposal_logprob"]),
        ("baseline", value["policy_logprob"] - value["proposal_logprob"]),
    ):
        for request in "abcd":
            own = np.array([letter == request for letter in requests])
            np.testing.assert_allclose(
                np.asarray(made[name])[own], softmax(total[own].tolist()), rtol=1e-9, atol=1e-300
            )


def test_a_policy_that_gave_the_answers_thinks_that_they_come_as_often() -> None:
    made = Steerlm2Weights().gather(table("aaabb", ref_logprob=[-1.0, -9.0, -3.0, -2.0, -2.5]), Context()).rows
    assert made["baseline"].to_pylist() == pytest.approx([1 / 3] * 3 + [1 / 2] * 2)


def test_answers_without_a_number_go_and_requests_with_too_few() -> None:
    prior = [0.0, None, 0.0, math.nan, 0.0, 1.0, -math.inf, 0.0]
    made = Steerlm2Weights().gather(table("aaabbcdd", prior_logprob=prior), Context())
    assert made.rows["prompt_id"].to_pylist() == ["a", "a"]
    assert made.rows["weight"].to_pylist() == [0.5, 0.5] and made.rows["group_size"].to_pylist() == [2, 2]
    assert made.rows["group_tokens"].to_pylist() == [2.5, 2.5], "of the answers that stay"
    rejected = made.rejected.select(["prompt_id", "reason", "value", "threshold"]).to_pylist()
    assert [tuple(row.values()) for row in rejected] == [
        ("a", "not-finite", None, "2 answers"),
        ("b", "not-finite", None, "2 answers"),
        ("b", "too-few-answers", 1.0, "2 answers"),
        ("c", "too-few-answers", 1.0, "2 answers"),
        ("d", "not-finite", None, "2 answers"),
        ("d", "too-few-answers", 1.0, "2 answers"),
    ]


def test_no_request_is_no_row() -> None:
    made = Steerlm2Weights().gather(table(""), Context())
    assert made.rows.num_rows == made.rejected.num_rows == 0 and "weight" in made.rows.column_names


def test_a_request_in_two_shards_is_refused(put, tmp_path) -> None:
    with pytest.raises(DataError, match="prompt_id in one shard"):
        apply(Steerlm2Weights(), put(table("aabb"), cuts=[1]), str(tmp_path / "out"))


def test_one_answer_is_too_few_to_ask_for() -> None:
    with pytest.raises(ConfigError, match="least is 1"):
        Steerlm2Weights(least=1)
