"""What is read off logits, at the points that NeMo-Aligner's own tests have."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from trainers.engine.megatron import logprobs, parallel


@pytest.fixture(autouse=True)
def started() -> Iterator[None]:
    parallel.start()
    yield
    parallel.stop()


def test_the_logits_of_the_next_tokens() -> None:
    """Of two rows of three tokens over five ids, row t predicts token t + 1: 1 and 7, 16 and 22 of arange(30)."""
    logits = torch.arange(30.0).reshape(2, 3, 5)[:, :-1]
    labels = torch.tensor([[0, 1, 2]] * 2)[:, 1:]
    taken = logprobs.token_logprobs(logits.reshape(-1, 5).clone(), labels.reshape(-1))
    raw = taken.reshape(2, 2) + logits.logsumexp(-1)
    torch.testing.assert_close(raw, torch.tensor([[1.0, 7.0], [16.0, 22.0]]), rtol=0, atol=1e-5)


def test_the_entropy_of_four_equal_outcomes_is_two_bits() -> None:
    assert logprobs.entropy(torch.full((3, 4), 7.0)).tolist() == pytest.approx([2 * math.log(2)] * 3, abs=1e-6)
