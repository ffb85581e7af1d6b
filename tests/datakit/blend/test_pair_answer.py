"""blend.pair_answer: the answer that is there is chosen, the sample is rejected; by hand."""

from __future__ import annotations

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.blend import PairAnswer
from datakit.op import Context
from schemas import PREFERENCES, Schema
from schemas.errors import ConfigError
from tests.datakit.fakes import Example, scored

EXAMPLES = [Example(PairAnswer(column="prompt"), (scored(),))]


def answered(answers, known):
    """Samples a0, a1, b0 with what is known beside each."""
    rows = answers({"a": [0.0, 1.0], "b": [2.0]})
    return rows.append_column("answer", pa.array(known, pa.string()))


def test_the_known_answer_is_chosen_whatever_it_is_worth(answers):
    rows = answered(answers, ["known", "known", "other"])
    out = PairAnswer().gather(rows, Context())
    assert out.rows.schema == PREFERENCES.arrow and out.rejected.num_rows == 0
    assert out.rows["chosen"].to_pylist() == ["known", "known", "other"]
    assert out.rows["rejected"].to_pylist() == rows["response"].to_pylist()
    assert out.rows["prompt_id"].to_pylist() == ["a", "a", "b"]
    assert len(set(out.rows["pair_id"].to_pylist())) == 3 and out.rows["chosen_reward"].null_count == 3


def test_where_nothing_can_be_distinguished_there_is_no_pair(answers):
    rows = answered(answers, ["known", None, None])
    rows = rows.set_column(rows.column_names.index("answer"), "answer", pa.array(
        [rows["response"][0].as_py(), None, "other"], pa.string()))  # fmt: skip
    out = PairAnswer().gather(rows, Context())
    assert out.rows["chosen"].to_pylist() == ["other"]
    reasons = zip(out.rejected["sample_id"].to_pylist(), out.rejected["reason"].to_pylist(), strict=True)
    assert list(reasons) == list(zip(rows["sample_id"].to_pylist()[:2], ["same", "no-answer"], strict=True))


def test_the_same_pairs_lie_in_the_dataset_and_the_rest_beside_them(put, answers, tmp_path):
    rows = answered(answers, ["known", None, "other"])
    out = apply(PairAnswer(), put(rows, (1,)), str(tmp_path / "o"))
    assert out.read()["chosen"].to_pylist() == ["known", "other"]
    assert out.read_rejected()["reason"].to_pylist() == ["no-answer"]


def test_a_column_that_is_no_text_is_refused():
    rows = Schema.of_arrow(scored().schema)
    with pytest.raises(ConfigError, match="needs a text in reward, which is double"):
        PairAnswer(column="reward").gives(rows)
    with pytest.raises(ConfigError, match="names columns that are not there: answr"):
        PairAnswer(column="answr").gives(rows)
