"""What stands somewhere in a response: placeholders in brackets, a postscript."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from datakit.instructions.check import Instruction, literal, number, text

if TYPE_CHECKING:
    import polars as pl

_MARKERS = {"p.p.s": r"p\.\s?p\.\s?s", "p.s.": r"p\.\s?s\."}


def _placeholders(response: pl.Expr, given: Mapping[str, Any]) -> pl.Expr:
    return response.str.count_matches(r"\[[^\]\n]*\]") >= given["num_placeholders"]


def _postscript(response: pl.Expr, given: Mapping[str, Any]) -> pl.Expr:
    marker = given["postscript_marker"].strip().lower()
    return response.str.to_lowercase().str.contains(_MARKERS.get(marker, literal(marker)))


CONTENT = (
    Instruction("detectable_content:number_placeholders", _placeholders, {"num_placeholders": number}),
    Instruction("detectable_content:postscript", _postscript, {"postscript_marker": text}),
)
