"""How a response begins and ends, and what it is made of: the prompt repeated first, two answers, quotation marks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from datakit.instructions.check import Instruction, text

if TYPE_CHECKING:
    import polars as pl


def _ending(response: pl.Expr, given: Mapping[str, Any]) -> pl.Expr:
    whole = response.str.strip_chars().str.strip_chars('"').str.to_lowercase()
    return whole.str.ends_with(given["end_phrase"].strip().lower())


def _quotation(response: pl.Expr, given: Mapping[str, Any]) -> pl.Expr:
    return response.str.strip_chars().str.contains(r'(?s)^".*"$')


def _repeated(response: pl.Expr, given: Mapping[str, Any]) -> pl.Expr:
    first = given["prompt_to_repeat"].strip().lower()
    return response.str.strip_chars().str.to_lowercase().str.starts_with(first)


def _two(response: pl.Expr, given: Mapping[str, Any]) -> pl.Expr:
    """Two different ones with `******` between them; what is empty may stand at an end alone."""
    import polars as pl

    parts = response.str.split("******").list.eval(pl.element().str.strip_chars())
    inner = parts.list.slice(1, pl.max_horizontal(parts.list.len().cast(pl.Int64) - 2, 0))
    whole = parts.list.eval(pl.element().filter(pl.element() != ""))
    return (
        (whole.list.len() == 2)
        & (whole.list.n_unique() == 2)
        & (inner.list.eval((pl.element() == "").cast(pl.Int64)).list.sum().fill_null(0) == 0)
    )


ENDS = (
    Instruction("startend:end_checker", _ending, {"end_phrase": text}),
    Instruction("startend:quotation", _quotation),
    Instruction("combination:repeat_prompt", _repeated, {"prompt_to_repeat": text}),
    Instruction("combination:two_responses", _two),
)
