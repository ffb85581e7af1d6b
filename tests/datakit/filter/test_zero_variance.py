"""filter.zero_variance: groups of one reward go, with the reason; broken rewards have no say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datakit.filter import ZeroVariance
from datakit.op import Context
from schemas.errors import ConfigError
from tests.datakit.fakes import Example, scored

EXAMPLES = [Example(ZeroVariance(), (scored(),))]
NAN = math.nan


def test_what_goes_and_why(answers):
    rows = answers({"a": [1.0, 1.0], "b": [0.0, 1.0, NAN], "c": [2.0], "d": [None, NAN], "e": [3.0, NAN, 3.0]})
    made = ZeroVariance().gather(rows, Context())
    assert made.rows["sample_id"].to_pylist() == ["b0", "b1"]
    gone = [tuple(row[name] for name in ("sample_id", "reason", "value")) for row in made.rejected.to_pylist()]
    assert gone == [
        ("a0", "equal-rewards", 1.0),
        ("a1", "equal-rewards", 1.0),
        ("b2", "not-finite", None),
        ("c0", "one-answer", 2.0),
        ("d0", "not-finite", None),
        ("d1", "not-finite", None),
        ("e0", "equal-rewards", 3.0),
        ("e1", "not-finite", None),
        ("e2", "equal-rewards", 3.0),
    ]
    assert "response" not in made.rejected.column_names and made.rejected["prompt_id"][0].as_py() == "a"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(groups=st.lists(st.lists(st.sampled_from([0.0, 0.1, 0.3]), min_size=1, max_size=4), min_size=1, max_size=6))
def test_against_the_standard_deviation(answers, groups):
    rows = answers({f"p{n}": values for n, values in enumerate(groups)})
    kept = ZeroVariance().gather(rows, Context()).rows["prompt_id"].to_pylist()
    assert sorted(set(kept)) == [f"p{n}" for n, values in enumerate(groups) if np.ptp(values) > 0]


def test_the_column_must_be_a_number():
    with pytest.raises(ConfigError, match="score"):
        ZeroVariance(column="score").gives(scored().schema)
