"""Capitals, small letters and commas. That a text of capitals alone is English, too, is not looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from datakit.instructions.check import Instruction, compared, number, relation

if TYPE_CHECKING:
    import polars as pl

_CAPITAL_WORD = r"[\p{N}\p{Lu}.-]*\p{Lu}[\p{N}\p{Lu}.-]*"


def _upper(response: pl.Expr, given: Mapping[str, Any]) -> pl.Expr:
    return response.str.contains(r"\p{Lu}") & response.str.contains(r"[\p{Ll}\p{Lt}]").not_()


def _lower(response: pl.Expr, given: Mapping[str, Any]) -> pl.Expr:
    return response.str.contains(r"\p{Ll}") & response.str.contains(r"[\p{Lu}\p{Lt}]").not_()


def _capital_words(response: pl.Expr, given: Mapping[str, Any]) -> pl.Expr:
    """Words all of whose letters are capitals; one letter is a word."""
    import polars as pl

    words = response.str.extract_all(r"[\p{L}\p{N}][\p{L}\p{N}.-]*")
    count = words.list.eval(pl.element().str.contains(f"^{_CAPITAL_WORD}$").cast(pl.Int64)).list.sum()
    return compared(count, given, "capital_frequency", "capital_relation")


def _no_comma(response: pl.Expr, given: Mapping[str, Any]) -> pl.Expr:
    return response.str.contains(",", literal=True).not_()


CASE = (
    Instruction("change_case:english_capital", _upper),
    Instruction("change_case:english_lowercase", _lower),
    Instruction(
        "change_case:capital_word_frequency",
        _capital_words,
        {"capital_frequency": number, "capital_relation": relation},
    ),
    Instruction("punctuation:no_comma", _no_comma),
)
