"""Sampling settings, as a generator takes them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The plain distribution, unless set otherwise."""

    samples_per_prompt: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    max_new_tokens: int = 12
    stop: tuple[str, ...] = ()
    greedy: bool = False
