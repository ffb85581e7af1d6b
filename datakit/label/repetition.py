"""How much of a text repeats itself: the measures of Gopher (Rae et al. 2021, arXiv:2112.11446, table A1).

Gopher drops a text where a measure is above its bound, as a predicate of `filter.where` (here of `response`):

    response_duplicate_lines > 0.3 OR response_duplicate_line_characters > 0.2 OR
    response_duplicate_paragraphs > 0.3 OR response_duplicate_paragraph_characters > 0.2 OR
    response_top_2gram > 0.2 OR response_top_3gram > 0.18 OR response_top_4gram > 0.16 OR
    response_duplicate_5gram > 0.15 OR response_duplicate_6gram > 0.14 OR response_duplicate_7gram > 0.13 OR
    response_duplicate_8gram > 0.12 OR response_duplicate_9gram > 0.11 OR response_duplicate_10gram > 0.1

    T words of all rows    R rows
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import starts
from datakit.columns.ngrams import Ints, Runs, ngrams, words
from datakit.columns.row_texts import row_texts
from datakit.columns.seeded import Keys, mixed, text_keys
from datakit.op import Context, Label
from schemas import Column, Schema

Floats = npt.NDArray[np.float64]
_TOP, _REPEATED = range(2, 5), range(5, 11)
_PARTS = {"line": r"\n", "paragraph": r"\n\s*\n"}


@dataclass(frozen=True, kw_only=True)
class Repetition(Label):
    """Shares (0..1) of `column`, named `<column>_...`; 0 for a text without any, and for null.

    `duplicate_lines` and `duplicate_paragraphs`: those that an earlier one equals, over all (blank ones are none), and
    `..._characters` the same by characters. `top_<n>gram`, n from 2 to 4: characters of all occurrences of the n-gram
    of words that has most of them, of those that occur twice or more. `duplicate_<n>gram`, n from 5 to 10: characters
    of the words in any n-gram that occurs twice or more, each counted once. Both are of the characters of all words.
    """

    name: ClassVar[str] = "label.repetition"

    column: str = "response"

    @property
    def takes(self) -> Schema:
        return Schema("texts", 1, (Column(self.column, pa.string(), "what is measured", nullable=True),))

    @property
    def adds(self) -> tuple[Column, ...]:
        names = [f"duplicate_{part}{end}" for part in _PARTS for end in ("s", "_characters")]
        names += [f"top_{n}gram" for n in _TOP] + [f"duplicate_{n}gram" for n in _REPEATED]
        return tuple(
            Column(f"{self.column}_{name}", pa.float64(), f"{name.replace('_', ' ')} of {self.column}", finite=True)
            for name in names
        )

    def label(self, rows: pa.Table, ctx: Context) -> dict[str, pa.Array]:
        texts = row_texts(rows, (self.column,))
        shares = [share for between in _PARTS.values() for share in _parts(texts, between)]
        lists = words(texts)
        of = Runs(text_keys(pa.chunked_array([lists.flatten()])), starts(lists).astype(np.int64))
        length = np.asarray(pc.utf8_length(lists.flatten()), np.int64)
        shares += [_top(of, length, n) for n in _TOP] + [_repeated(of, length, n) for n in _REPEATED]
        return {column.name: pa.array(share) for column, share in zip(self.adds, shares, strict=True)}


def _parts(texts: pa.Array, between: str) -> tuple[Floats, Floats]:
    """The share of parts that an earlier one of the row equals, and of their characters [R]."""
    lists = pc.split_pattern_regex(texts, between)
    parts = pc.utf8_trim_whitespace(lists.flatten())
    rows = np.asarray(pc.list_parent_indices(lists), np.int64)
    length = np.asarray(pc.utf8_length(parts), np.int64)
    some = length > 0
    rows, length, keys = rows[some], length[some], text_keys(pa.chunked_array([parts]))[some]
    _, first = np.unique(_of_row(keys, rows), return_index=True)
    again = np.ones(len(rows), bool)
    again[first] = False
    return _share(rows, again, np.ones_like(length), len(texts)), _share(rows, again, length, len(texts))


def _top(of: Runs, length: Ints, n: int) -> Floats:
    """The largest share of the characters that all occurrences of one n-gram cover [R]."""
    grams, inside = ngrams(of, n), _lengths(of, length, n)
    rows = grams.rows
    _, place, counts = np.unique(_of_row(grams.keys, rows), return_inverse=True, return_counts=True)
    covered = np.where(counts[place] > 1, counts[place] * inside, 0)
    most = np.zeros(len(of.sizes), np.int64)
    np.maximum.at(most, rows, covered)
    return np.minimum(most / np.maximum(_sums(of, length), 1), 1.0)


def _repeated(of: Runs, length: Ints, n: int) -> Floats:
    """The share of the characters of words in an n-gram that occurs twice or more [R]."""
    grams = ngrams(of, n)
    rows = grams.rows
    _, place, counts = np.unique(_of_row(grams.keys, rows), return_inverse=True, return_counts=True)
    first = (np.arange(len(rows)) - grams.starts[:-1][rows] + of.starts[:-1][rows])[counts[place] > 1]
    change = np.bincount(first, minlength=len(length) + 1) - np.bincount(first + n, minlength=len(length) + 1)
    return _share(of.rows, np.cumsum(change[: len(length)]) > 0, length, len(of.sizes))


def _lengths(of: Runs, length: Ints, n: int) -> Ints:
    """The characters of each n-gram."""
    total = np.concatenate([[0], np.cumsum(length)])
    grams = ngrams(of, n)
    first = np.arange(len(grams.keys)) - grams.starts[:-1][grams.rows] + of.starts[:-1][grams.rows]
    return total[first + n] - total[first]


def _sums(of: Runs, length: Ints) -> Ints:
    return np.diff(np.concatenate([[0], np.cumsum(length)])[of.starts])


def _share(rows: Ints, chosen: npt.NDArray[np.bool_], weight: Ints, count: int) -> Floats:
    every = np.bincount(rows, weight, count)
    return np.bincount(rows[chosen], weight[chosen], count) / np.maximum(every, 1)


def _of_row(keys: Keys, rows: Ints) -> Keys:
    """Keys that are equal within a row alone."""
    return mixed(keys + mixed(rows.astype(np.uint64)))
