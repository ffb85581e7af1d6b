"""engines.known: texts that a network's own log-probabilities are known of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datakit.apply import apply
from datakit.engines import KnownLogprobs
from datakit.engines.known import TEXTS
from datakit.run.resource import Resource
from schemas.errors import ConfigError, DataError
from tests.datakit.fakes import Example, letters, token_model

RESOURCES = {**token_model(), "tokenizer": Resource("letters", letters)}
EXAMPLES = [Example(KnownLogprobs(), (), RESOURCES), Example(KnownLogprobs(longest=5), (), RESOURCES)]


def test_the_first_tokens_of_each_text_and_what_the_network_thinks_of_them(tmp_path: Path) -> None:
    made = apply(KnownLogprobs(longest=5), [], str(tmp_path / "made"), resources=RESOURCES).read()
    assert made.num_rows == len(TEXTS)
    for ids, logprobs in zip(made["input_ids"].to_pylist(), made["logprobs"].to_pylist(), strict=True):
        assert len(ids) == 5 and logprobs[0] == 0
        np.testing.assert_allclose(logprobs[1:], [-number / 100 for number in ids[1:]], rtol=1e-6)
    with pytest.raises(ConfigError, match="longest 1"):
        KnownLogprobs(longest=1)


def test_a_network_without_finite_numbers_can_be_compared_with_nothing(tmp_path: Path) -> None:
    odd = {**RESOURCES, **token_model(odd={number: float("nan") for number in range(200)})}
    with pytest.raises(DataError, match="not finite"):
        apply(KnownLogprobs(), [], str(tmp_path / "made"), resources=odd)
