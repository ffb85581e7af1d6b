"""Words and letters that a response has, has not, or has often enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from datakit.instructions.check import Instruction, compared, literal, number, relation, text, texts

if TYPE_CHECKING:
    import polars as pl


def _existence(response: pl.Expr, given: Mapping[str, Any]) -> pl.Expr:
    import polars as pl

    return pl.all_horizontal(response.str.contains(f"(?i){literal(word)}") for word in given["keywords"])


def _forbidden(response: pl.Expr, given: Mapping[str, Any]) -> pl.Expr:
    import polars as pl

    words = (response.str.contains(rf"(?i)\b{literal(word)}\b") for word in given["forbidden_words"])
    return pl.any_horizontal(words).not_()


def _frequency(response: pl.Expr, given: Mapping[str, Any]) -> pl.Expr:
    return compared(response.str.count_matches(f"(?i){literal(given['keyword'])}"), given, "frequency")


def _letters(response: pl.Expr, given: Mapping[str, Any]) -> pl.Expr:
    count = response.str.to_lowercase().str.count_matches(literal(given["letter"].lower()))
    return compared(count, given, "let_frequency", "let_relation")


KEYWORDS = (
    Instruction("keywords:existence", _existence, {"keywords": texts}),
    Instruction("keywords:forbidden_words", _forbidden, {"forbidden_words": texts}),
    Instruction("keywords:frequency", _frequency, {"keyword": text, "frequency": number, "relation": relation}),
    Instruction(
        "keywords:letter_frequency",
        _letters,
        {"letter": lambda one: text(one) and len(one) == 1, "let_frequency": number, "let_relation": relation},
    ),
)
