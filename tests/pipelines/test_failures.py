"""Errors of several stages that fail: each once."""

from __future__ import annotations

from pipelines.runtime.failures import distinct
from schemas.errors import DataError


def failed(row: str, fault: str, where: str) -> DataError:
    return DataError("op-failed", f"row {row} in label.reward: {fault}", found=fault, where=where)


def test_a_line_of_a_persons_code_that_fails_in_two_stages_is_one_error() -> None:
    """The rows that it met differ; what has no line, or another one, stays."""
    line = "ValueError (line 2 of /here/rewards.py)"
    first, again = failed("a", line, "shard 0"), failed("b", line, "16 rows before label.reward")
    other = failed("a", "ValueError (line 9 of /here/rewards.py)", "shard 0")
    bare = [failed("a", "ValueError", "shard 0"), failed("a", "ValueError", "shard 1")]
    assert distinct([first, again, other, *bare, bare[0]]) == [first, other, *bare]
    assert distinct([]) == []
