"""label.logprobs: one number per token or per row, over the tokens that count; broken numbers go with a reason."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.clients import TokenModel
from datakit.label import Logprobs, TopK, Values
from schemas import PACKS, PAIRS, TOKENS
from schemas.errors import ConfigError, DataError, ServiceError
from tests.datakit.fakes import CountingModel, Example, token_model

MASKED = TOKENS.conform(
    pa.table(
        {
            "sample_id": ["a", "b", "c"],
            "input_ids": [[10, 20, 30], [5], [1, 2]],
            "loss_mask": pa.array([[1, 0, 1], [1], [0, 0]], pa.list_(pa.int8())),
            "source": pa.array([None] * 3, pa.string()),
        }
    )
)
BOTH = (("chosen_ids", "", "ref_chosen"), ("rejected_ids", "", "ref_rejected"))
EXAMPLES = [
    Example(Logprobs(rows_per_chunk=2), (MASKED,), token_model()),
    Example(Logprobs(columns=BOTH, per="row"), (PAIRS.example(7),), token_model()),
]


def test_per_token_the_first_is_zero_and_the_list_is_as_long_as_the_ids(put, tmp_path):
    assert isinstance(CountingModel(), TokenModel)
    out = apply(Logprobs(), put(MASKED), str(tmp_path / "out"), resources=token_model()).read()
    rounded = [[round(value, 6) for value in row] for row in out["ref_logprobs"].to_pylist()]
    assert rounded == [[0.0, -0.2, -0.3], [0.0], [0.0, -0.02]]
    half = apply(Logprobs(dtype="float16"), put(MASKED), str(tmp_path / "half"), resources=token_model()).read()
    assert half["ref_logprobs"].type == pa.list_(pa.float16())


def test_per_row_only_counted_tokens_are_added_up(put, tmp_path):
    op = Logprobs(columns=(("input_ids", "loss_mask", "masked"), ("input_ids", "", "all")), per="row")
    out = apply(op, put(MASKED), str(tmp_path / "out"), resources=token_model()).read()
    np.testing.assert_allclose(out["masked"].to_pylist(), [-0.3, 0.0, 0.0], atol=1e-7)
    np.testing.assert_allclose(out["all"].to_pylist(), [-0.5, 0.0, -0.02], atol=1e-7)


def test_a_number_that_is_not_finite_takes_its_row_out(put, tmp_path):
    model = token_model(odd={30: float("nan")})
    out = apply(Logprobs(), put(MASKED), str(tmp_path / "out"), resources=model, max_rejected=1)
    assert out.read()["sample_id"].to_pylist() == ["b", "c"]
    assert out.read_rejected()["reason"].to_pylist() == ["logprobs-not-finite"]


class Short(CountingModel):
    def logprobs(self, rows):
        return pa.array([[0.0] * (len(row) - 1) for row in rows], pa.list_(pa.float32()))


def test_a_model_that_answers_too_little_is_a_service_error(put, tmp_path):
    from datakit.run.resource import Resource

    with pytest.raises(ServiceError, match="one per token"):
        apply(Logprobs(), put(MASKED), str(tmp_path / "out"), resources={"model": Resource("short", Short)})


def test_two_columns_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="once"):
        Logprobs(columns=(("a", "", "x"), ("b", "", "x")))


def test_what_half_precision_cannot_hold_is_not_finite(put, tmp_path):
    op, model = Logprobs(dtype="float16"), token_model(odd={30: -1e5})
    out = apply(op, put(MASKED), str(tmp_path / "out"), resources=model, max_rejected=1)
    assert out.read()["sample_id"].to_pylist() == ["b", "c"]


def test_a_mask_belongs_to_its_own_row(put, tmp_path):
    slid = MASKED.set_column(2, "loss_mask", pa.array([[1, 0], [1, 1], [0, 0]], pa.list_(pa.int8())))
    with pytest.raises(DataError, match="not as long as its ids in 2 of 3 rows, first row 0"):
        apply(Logprobs(per="row"), put(TOKENS.conform(slid)), str(tmp_path / "out"), resources=token_model())


def test_a_mask_says_whether_a_token_counts_and_not_how_often(put, tmp_path):
    twice = MASKED.set_column(2, "loss_mask", pa.array([[1, 0, 1], [1], [0, 2]], pa.list_(pa.int8())))
    with pytest.raises(DataError, match="other numbers than 0 and 1, first in row 2"):
        apply(Logprobs(per="row"), put(TOKENS.conform(twice)), str(tmp_path / "out"), resources=token_model())


@pytest.mark.parametrize("op", [Logprobs(), Values(), TopK(k=2)], ids=lambda op: op.name)
def test_packs_are_refused_since_a_network_would_read_across_their_borders(put, tmp_path, op):
    with pytest.raises(DataError, match="packs of several"):
        apply(op, put(PACKS.example(3)), str(tmp_path / "out"), resources=token_model())
