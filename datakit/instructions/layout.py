"""The form of a response: bullets, highlighted parts, sections, a title, JSON, one of three answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from datakit.instructions.check import Instruction, literal, number, text
from schemas.untrusted import strict_json, unfenced

if TYPE_CHECKING:
    import polars as pl

_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def _bullets(response: pl.Expr, given: Mapping[str, Any]) -> pl.Expr:
    """Lines that begin with one star, or with a dash."""
    return response.str.count_matches(r"(?m)^[^\S\n]*(?:\*[^*]|-)") == given["num_bullets"]


def _highlights(response: pl.Expr, given: Mapping[str, Any]) -> pl.Expr:
    """Runs between stars, or between pairs of stars, that are not blank."""
    single = response.str.extract_all(r"\*[^\n*]*\*").list.eval(_filled())
    double = response.str.extract_all(r"\*\*[^\n*]*\*\*").list.eval(_filled())
    return single.list.sum() + double.list.sum() >= given["num_highlights"]


def _filled() -> pl.Expr:
    import polars as pl

    return pl.element().str.contains(r"[^\s*]").cast(pl.Int64)


def _sections(response: pl.Expr, given: Mapping[str, Any]) -> pl.Expr:
    splitter = literal(given["section_spliter"].strip())
    return response.str.count_matches(rf"{splitter}\s?\d+") >= given["num_sections"]


def _title(response: pl.Expr, given: Mapping[str, Any]) -> pl.Expr:
    return response.str.contains(r"<<[^\n]*[^\n<>\s][^\n]*>>")


def _json(response: pl.Expr, given: Mapping[str, Any]) -> pl.Expr:
    import polars as pl

    return response.map_elements(_is_json, return_dtype=pl.Boolean, skip_nulls=False)


def _is_json(value: str | None) -> bool:
    try:
        strict_json(unfenced(value or ""))
    except (ValueError, RecursionError):
        return False
    return True


def _constrained(response: pl.Expr, given: Mapping[str, Any]) -> pl.Expr:
    import polars as pl

    return pl.any_horizontal(response.str.contains(answer, literal=True) for answer in _ANSWERS)


LAYOUT = (
    Instruction("detectable_format:number_bullet_lists", _bullets, {"num_bullets": number}),
    Instruction("detectable_format:number_highlighted_sections", _highlights, {"num_highlights": number}),
    Instruction("detectable_format:multiple_sections", _sections, {"section_spliter": text, "num_sections": number}),
    Instruction("detectable_format:title", _title),
    Instruction("detectable_format:json_format", _json),
    Instruction("detectable_format:constrained_response", _constrained),
)
