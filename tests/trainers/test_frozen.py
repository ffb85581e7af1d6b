"""A frozen network's answers about token rows, against its own plain logits one row at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from schemas.errors import ConfigError, DataError
from tests.trainers.networks import SMALL, louder, network
from trainers.engine.inference.frozen import FrozenModel

LENGTHS = (1, 2, 9, 33, 2, 64)


def texts(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, SMALL.vocab_size, length) for length in LENGTHS]


@torch.no_grad()
def logits_of(net: Any, ids: np.ndarray) -> torch.Tensor:
    output: torch.Tensor = net(torch.from_numpy(ids)[None], torch.arange(len(ids))[None], None)
    return output[0, :, : SMALL.vocab_size].double()


def test_what_is_reported_of_every_token_equals_the_plain_logits() -> None:
    net, rows = louder(network()).eval(), texts()
    model = FrozenModel(net, batch_tokens=40)
    logprobs, entropies = model.logprobs(rows).to_pylist(), model.entropies(rows).to_pylist()
    top_ids, top_logprobs = (column.to_pylist() for column in model.top_k(rows, 3))
    for number, ids in enumerate(rows):
        plain = logits_of(net, ids).log_softmax(-1)[:-1]
        expected = plain.gather(-1, torch.from_numpy(ids[1:])[:, None])[:, 0]
        np.testing.assert_allclose(logprobs[number], [0.0, *expected.tolist()], atol=2e-5)
        np.testing.assert_allclose(entropies[number], [0.0, *(-(plain.exp() * plain).sum(-1)).tolist()], atol=2e-5)
        best = plain.topk(3)
        assert top_ids[number] == [[0, 0, 0], *best.indices.tolist()]
        np.testing.assert_allclose(top_logprobs[number], [[0.0] * 3, *best.values.tolist()], atol=2e-5)


def test_ids_that_are_named_get_their_plain_logprobs() -> None:
    net, rows = louder(network()).eval(), texts()
    draw = np.random.default_rng(5)
    named = [draw.integers(0, SMALL.vocab_size, (len(ids), 4)) for ids in rows]
    answers = FrozenModel(net, batch_tokens=40).logprobs_at(rows, named).to_pylist()
    for ids, asked, answer in zip(rows, named, answers, strict=True):
        plain = logits_of(net, ids).log_softmax(-1)[:-1]
        expected = plain.gather(-1, torch.from_numpy(asked[1:]))
        np.testing.assert_allclose(answer, [[0.0] * 4, *expected.tolist()], atol=2e-5)
    with pytest.raises(DataError, match="row 0 names ids"):
        FrozenModel(net).logprobs_at(rows[:1], [np.full((len(rows[0]), 1), SMALL.vocab_size)])


def test_values_stand_before_the_token_they_belong_to() -> None:
    net, rows = louder(network(head="scalar")).eval(), texts(1)
    values = FrozenModel(net, batch_tokens=40).values(rows).to_pylist()
    for value, ids in zip(values, rows, strict=True):
        with torch.no_grad():
            head = net(torch.from_numpy(ids)[None], torch.arange(len(ids))[None], None)[0, :, 0]
        np.testing.assert_allclose(value, [0.0, *head[:-1].tolist()], atol=2e-5)


def test_neither_order_nor_company_changes_an_answer() -> None:
    net, rows = louder(network()).eval(), texts(2)
    together, alone = FrozenModel(net, batch_tokens=4096), FrozenModel(net, batch_tokens=1)
    for one, other in zip(together.logprobs(rows).to_pylist(), alone.logprobs(rows).to_pylist(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert together.logprobs(rows[::-1]).to_pylist() == together.logprobs(rows).to_pylist()[::-1]


@pytest.mark.parametrize("ids", [[], [0] * 65, [SMALL.vocab_size], [-1]])
def test_a_row_that_cannot_be_read_is_named(ids: list[int]) -> None:
    with pytest.raises(DataError, match="row 1"):
        FrozenModel(network()).logprobs([np.array([1, 2]), np.array(ids, np.int64)])


def test_no_more_ids_are_reported_than_the_vocabulary_holds() -> None:
    model = FrozenModel(louder(network()).eval())
    ids, _ = model.top_k(texts(3), SMALL.vocab_size)
    assert all(sorted(entry) == list(range(SMALL.vocab_size)) for row in ids.to_pylist() for entry in row[1:])
    with pytest.raises(ConfigError, match="cannot be said"):
        model.top_k(texts(3), SMALL.vocab_size + 1)
