"""Columns of every table that holds a policy against the one that it came of, on prompts held out."""

from __future__ import annotations

from pipelines.report.figures import Figure

_GOLD, _REWARD, _TOKENS = "gold", "held-out reward", "answer tokens"


def before_and_after(last: str) -> tuple[Figure, ...]:
    """Share of gold answers before and after, mean reward and mean length; `last` is what "after" follows."""
    return (
        Figure(
            "gold before", ".1%", meaning="held-out prompts answered as their gold (known right) answer says",
            change=_GOLD,
        ),
        Figure("gold after", ".1%", meaning=f"the same after {last}; by rule, no model judges it", change=_GOLD),
        Figure(_REWARD, "+.2f", " -> ", "mean reward of answers to held-out prompts, before and after", change=_REWARD),
        Figure(
            _TOKENS, ".1f", " -> ", "mean length of these answers: does reward pay for length?", change=_TOKENS
        ),
    )  # fmt: skip
