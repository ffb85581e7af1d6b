"""The scorer: the scalar head at the last token, whatever else is scored beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from schemas.errors import ConfigError, DataError
from tests.trainers.networks import SMALL, louder, network, vocabulary
from trainers.engine.checkpoint import checkpoint
from trainers.engine.inference.frozen import Scorer, open_scorer

LISTS = pa.list_(pa.int32())


def rows(count: int) -> pa.Table:
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, SMALL.vocab_size, rng.integers(1, 50)).tolist() for _ in range(count)]
    return pa.table({"input_ids": pa.array(ids, LISTS)})


@torch.no_grad()
def test_a_score_is_the_head_at_the_last_token() -> None:
    net = louder(network(head="scalar")).eval()
    table = rows(20)
    scores = Scorer(net, batch_tokens=100).score(table)["reward"]
    for ids, score in zip(table["input_ids"].to_pylist(), scores.to_pylist(), strict=True):
        output = net(torch.tensor([ids]), torch.arange(len(ids))[None], None)[0, -1, 0]
        assert score == pytest.approx(output.item(), abs=1e-4)


def test_the_order_of_rows_changes_no_bit() -> None:
    scorer, table = Scorer(louder(network(head="scalar")).eval(), batch_tokens=200), rows(40)
    order = np.random.default_rng(1).permutation(40)
    turned = scorer.score(table.take(order))["reward"]
    assert turned.equals(scorer.score(table)["reward"].take(pa.array(order)))


def test_several_columns_are_read_end_to_end_and_several_heads_are_named() -> None:
    scorer = Scorer(network(head="scalar", head_size=2).eval(), columns=("prompt_ids", "response_ids"))
    split = pa.table({"prompt_ids": pa.array([[1, 2], [3]], LISTS), "response_ids": pa.array([[5], [6, 7]], LISTS)})
    whole = Scorer(scorer.network).score(pa.table({"input_ids": pa.array([[1, 2, 5], [3, 6, 7]], LISTS)}))
    assert scorer.score(split) == whole
    assert list(whole) == ["reward_0", "reward_1"]
    assert list(scorer.takes.names) == ["prompt_ids", "response_ids"]


@pytest.mark.parametrize("ids", [[], [0] * 65, [SMALL.vocab_size], [-1]])
def test_a_row_that_cannot_be_scored_is_named(ids: list[int]) -> None:
    with pytest.raises(DataError, match="row 1"):
        Scorer(network(head="scalar")).score(pa.table({"input_ids": pa.array([[1], ids], LISTS)}))


def test_a_scorer_opens_from_a_checkpoint(tmp_path: Any) -> None:
    net = louder(network(head="scalar")).eval()
    checkpoint.save(str(tmp_path / "rm"), model=net, tokenizer_files=vocabulary())
    assert open_scorer(str(tmp_path / "rm")).score(rows(5)) == Scorer(net).score(rows(5))
    checkpoint.save(str(tmp_path / "lm"), model=network())
    with pytest.raises(ConfigError, match="no-reward-model"):
        open_scorer(str(tmp_path / "lm"))
