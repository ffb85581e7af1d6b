"""Rank 0 works and all others do what it asks: what becomes of a fault on one of these."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.errors import DataError
from trainers.engine.megatron import leading
from trainers.engine.megatron.leading import Lead


@pytest.mark.parametrize("fault", [DataError("cannot-score", "a row cannot be scored"), MemoryError("no room")])
def test_a_fault_of_the_rows_is_left_to_rank_0_and_one_of_its_own_is_raised(
    fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What rank 0 meets as well it says itself; what one rank alone meets would otherwise be a hang without a line."""
    messages = iter([("score", 1), ("done", 7, None)])
    monkeypatch.setattr(leading, "_received", lambda: next(messages))
    monkeypatch.setattr(leading, "is_rank_zero", lambda: False)

    def score(number: int) -> Any:
        raise fault

    lead = Lead({"score": score})
    if isinstance(fault, DataError):
        assert lead.run(lambda: None) == 7
    else:
        with pytest.raises(MemoryError):
            lead.run(lambda: None)
