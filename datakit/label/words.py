"""How often words of a list stand in a text, and the first that does: insults for toxicity, names, anything.

A list knows no meaning: it finds a quotation as it finds an insult, and misses what is said in other words. A model of
one's own is the better measure where one is there (`label.reward` with a Python function, `label.judge`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.columns.ngrams import Ints, Runs, ngrams, units
from datakit.columns.row_texts import row_texts
from datakit.op import Context, Label
from schemas import Column, Schema
from schemas.errors import ConfigError, printable


@dataclass(frozen=True, kw_only=True)
class Words(Label):
    """How often one of `listed`, words or phrases of several, stands in `column`, and the first of them (or null):
    `<output>` and `<output>_first`. A null text has none.

    Words are compared whole, in lower case and in Unicode's NFKC; punctuation and blanks make no difference, so that
    "well done" is also in "Well, done!". Phrases that overlap count each; of two that begin at one word the longer is
    first.
    """

    name: ClassVar[str] = "label.words"
    makes: ClassVar[tuple[Mapping[str, Any], ...]] = ({"listed": ["word"]},)

    listed: tuple[str, ...]
    column: str = "response"
    output: str = ""
    """Name of the new columns; `<column>_listed` if empty."""

    def __post_init__(self) -> None:
        sizes = units(pa.array(self.listed, pa.string()), "words").sizes
        without = [phrase for phrase, size in zip(self.listed, sizes.tolist(), strict=True) if not size]
        if not self.listed or without:
            raise ConfigError(
                "bad-setting", f"{self.name}: listed {printable(str(list(self.listed)), 200)}",
                expected="words or phrases, each with a letter or a digit", kept="nothing was started",
            )  # fmt: skip

    @property
    def takes(self) -> Schema:
        return Schema("texts", 1, (Column(self.column, pa.string(), "what is looked through", nullable=True),))

    @property
    def adds(self) -> tuple[Column, ...]:
        name = self.output or f"{self.column}_listed"
        return (
            Column(name, pa.int64(), f"listed words in {self.column}"),
            Column(f"{name}_first", pa.string(), "the first of them", nullable=True),
        )

    def label(self, rows: pa.Table, ctx: Context) -> dict[str, pa.Array]:
        texts, listed = (
            units(given, "words") for given in (row_texts(rows, (self.column,)), pa.array(self.listed, pa.string()))
        )
        matched = [_matches(ngrams(texts, n), ngrams(listed, n), listed.sizes == n) for n in {*listed.sizes.tolist()}]
        row, place, phrase = (np.concatenate(parts) for parts in zip(*matched, strict=True))
        order = np.lexsort((-listed.sizes[phrase], place, row))
        some, first = np.unique(row[order], return_index=True)
        taken = np.full(rows.num_rows, -1)
        taken[some] = phrase[order][first]
        columns = (
            pa.array(np.bincount(row, minlength=rows.num_rows)),
            pa.array(self.listed, pa.string()).take(pa.array(taken, mask=taken < 0)),
        )
        return {column.name: values for column, values in zip(self.adds, columns, strict=True)}


def _matches(texts: Runs, listed: Runs, chosen: npt.NDArray[np.bool_]) -> tuple[Ints, Ints, Ints]:
    """Of every n-gram of `texts` that is one of the `chosen` phrases, which are one n-gram each: its row, its place in
    that and the phrase, of equal ones the first.
    """
    phrases = np.flatnonzero(chosen)
    keys, number = np.unique(listed.keys[listed.starts[:-1][phrases]], return_index=True)
    near = np.minimum(np.searchsorted(keys, texts.keys), len(keys) - 1)
    at = np.flatnonzero(keys[near] == texts.keys)
    row = texts.rows[at]
    return row, at - texts.starts[:-1][row], phrases[number[near[at]]]
