"""Seeds of requests: answer i to a prompt is drawn with the prompt's base + i, by servers and by engines in process.

A base is a 63-bit number whose low 16 bits are zero, so that of any 65,536 answers to each prompt no two share a seed,
and more answers to a prompt go on where the first ones ended.
"""

from __future__ import annotations

_LOW = (1 << 16) - 1
_SIGNED = (1 << 63) - 1


def base_seed(seed: int) -> int:
    """The base of a prompt whose seed is `seed` (64 bits, a hash of the run's seed and the prompt's name)."""
    return seed & _SIGNED & ~_LOW
