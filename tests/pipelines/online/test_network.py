"""Which network of a run answers which question about tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from datakit.clients.protocols import TokenModel
from pipelines.online.network import CRITIC, FIRST, Networks, served
from trainers.engine.megatron.leading import Lead


class Named:
    """A network that answers with its name and what it was asked."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, question: str) -> Any:
        return lambda *asked: (self.name, question, *asked)


def test_what_answers_are_worth_says_the_critic_and_all_else_the_first_policy() -> None:
    known: dict[str, Any] = {**served(CRITIC, Named("c")), **served(FIRST, Named("f"))}  # type: ignore[arg-type]
    model, rows = Networks(Lead(known)), [np.arange(3)]
    assert isinstance(model, TokenModel)
    given: list[tuple[pa.Array | tuple[Any, ...], tuple[Any, ...]]] = [
        (model.values(rows), ("c", "values", rows)),
        (model.logprobs(rows), ("f", "logprobs", rows)),
        (model.entropies(rows), ("f", "entropies", rows)),
        (model.top_k(rows, 2), ("f", "top_k", rows, 2)),
        (model.logprobs_at(rows, rows), ("f", "logprobs_at", rows, rows)),
    ]
    assert all(answer == expected for answer, expected in given)
    assert "critic.logprobs" not in known and "first.values" not in known
