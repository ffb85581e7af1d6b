"""Which network of a run answers which question about tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from datakit.clients.protocols import TokenModel
from pipelines.online.network import FIRST, FIRST_ANSWERS, Networks, served
from trainers.engine.megatron.leading import Lead


class Named:
    """A network that answers with its name and what it was asked."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, question: str) -> Any:
        return lambda *asked: (self.name, question, *asked)


def test_a_learner_says_what_it_declares_and_all_else_the_first_policy() -> None:
    known: dict[str, Any] = {
        **served("critic", Named("c"), ("values",)),  # type: ignore[arg-type]
        **served(FIRST, Named("f"), FIRST_ANSWERS),  # type: ignore[arg-type]
    }
    model, rows = Networks(Lead(known), {"critic": ("values",)}), [np.arange(3)]
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
