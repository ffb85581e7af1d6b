"""How far two sides of the same computation are apart, and how far they may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

TOLERANCE: Mapping[str, float] = {"fp32": 2e-4, "bf16": 2e-2, "logprobs": 1e-3}
"""Greatest relative difference of a loss or gradient norm; greatest difference of a log-probability, nats."""


def training(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]], precision: str) -> dict[str, Any]:
    """Greatest relative difference of losses and gradient norms, step by step."""
    assert one and len(one) == len(other), "both sides make the same steps, one at least"
    apart = {
        name: max(abs(a[name] - b[name]) / abs(a[name]) for a, b in zip(one, other, strict=True))
        for name in ("loss", "norm")
    }
    return {**apart, "tolerance": TOLERANCE[precision], "agrees": max(apart.values()) <= TOLERANCE[precision]}


def sampling(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Answers that differ, greedy (none may) and drawn, and the greatest difference of a greedy log-probability: on the
    two sides, and on the second between drawing and reading the answer once more.
    """
    different = {kind: sum(a != b for a, b in zip(one[kind], other[kind], strict=True)) for kind in ("greedy", "drawn")}
    pairs = [(a, b) for a, b in zip(one["logprobs"], other["logprobs"], strict=True) if len(a) == len(b)]
    apart = _furthest(pairs)
    again = _furthest(list(zip(other["logprobs"], other["read"], strict=True)))
    agrees = not different["greedy"] and max(apart, again) <= TOLERANCE["logprobs"]
    counts = {
        "answers": len(one["greedy"]),
        "different_greedy": different["greedy"],
        "different_drawn": different["drawn"],
    }
    return {**counts, "logprobs": apart, "read_again": again, "tolerance": TOLERANCE["logprobs"], "agrees": agrees}


def _furthest(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
    return max((abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True)), default=0.0)
