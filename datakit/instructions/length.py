"""How many words, sentences and paragraphs a response has.

Words are runs of letters, digits and underscores. A sentence ends in a full stop, a question or an exclamation mark
before a blank or the end (`Mr.`, `e.g.`, initials and numbers of a list end none), or with the text; the reference
counts with a trained splitter of English, so that the two differ by a sentence now and then. Paragraphs stand between
the mark `***`, those whose first word counts between blank lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from datakit.instructions.check import Instruction, compared, number, relation, text

if TYPE_CHECKING:
    import polars as pl

_NO_END = (
    r"\b(?:\p{Lu}|Mr|Mrs|Ms|Dr|Prof|Sr|Jr|St|Mt|vs|etc|No|Inc|Ltd|Co|Fig|al|approx|[eE]\.g|[iI]\.e|[aApP]\.m)\.|"
    r"(?m:^\s*[0-9]{1,3}\.)"
)
_END = r"[.!?\u{3002}\u{ff01}\u{ff1f}]+[\"'\u{201d}\u{2019})\]]*(?:\s+|$)|[\u{3002}\u{ff01}\u{ff1f}]"


def _words(response: pl.Expr, given: Mapping[str, Any]) -> pl.Expr:
    return compared(response.str.count_matches(r"\w+"), given, "num_words")


def sentences(response: pl.Expr) -> pl.Expr:
    """How many sentences a text has."""
    marked = response.str.replace_all(_NO_END, "x").str.strip_chars().str.replace_all(_END, "\u0000")
    return marked.str.split("\u0000").list.eval(_some()).list.sum()


def _some() -> pl.Expr:
    import polars as pl

    return pl.element().str.contains(r"\w").cast(pl.Int64)


def _sentences(response: pl.Expr, given: Mapping[str, Any]) -> pl.Expr:
    return compared(sentences(response), given, "num_sentences")


def _paragraphs(response: pl.Expr, given: Mapping[str, Any]) -> pl.Expr:
    """Empty ones at both ends are none; an empty one between others is a fault."""
    import polars as pl

    parts = response.str.replace_all(r"\s?\*\*\*\s?", "\u0000").str.split("\u0000")
    blank = parts.list.eval(pl.element().str.strip_chars() == "")
    ends = blank.list.first().cast(pl.Int64) + (blank.list.last() & (parts.list.len() > 1)).cast(pl.Int64)
    return (blank.list.sum() == ends) & (parts.list.len().cast(pl.Int64) - ends == given["num_paragraphs"])


def _first_word(response: pl.Expr, given: Mapping[str, Any]) -> pl.Expr:
    import polars as pl

    parts = response.str.split("\n\n").list.eval(pl.element().str.strip_chars())
    whole = parts.list.eval(pl.element() != "").list.sum().cast(pl.Int64) == given["num_paragraphs"]
    word = parts.list.get(given["nth_paragraph"] - 1, null_on_oob=True).str.split(" ").list.first()
    word = word.str.strip_chars_start("'\"").str.extract(r"^([^.,?!'\"\s]*)", 1).str.to_lowercase()
    return whole & (word == given["first_word"].lower()).fill_null(False)


def _place(value: Any) -> bool:
    return number(value) and value >= 1


LENGTH = (
    Instruction("length_constraints:number_words", _words, {"num_words": number, "relation": relation}),
    Instruction("length_constraints:number_sentences", _sentences, {"num_sentences": number, "relation": relation}),
    Instruction("length_constraints:number_paragraphs", _paragraphs, {"num_paragraphs": number}),
    Instruction(
        "length_constraints:nth_paragraph_first_word",
        _first_word,
        {"num_paragraphs": number, "nth_paragraph": _place, "first_word": text},
    ),
)
