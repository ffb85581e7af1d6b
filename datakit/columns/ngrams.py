"""N-grams of texts, as 64 bit hashes in flat arrays: rows as runs of words, words as runs of characters.

A text is read as its words: runs of letters, marks and digits of any script, in lower case and in Unicode's NFKC, so
that case, punctuation and blanks make no difference (as in Brown et al. 2020, arXiv:2005.14165, appendix C). Scripts
without blanks between words are compared by characters.

A word is hashed by MD5 (`seeded.text_keys`), a character by its code point, and an n-gram by mixing its parts in order:
the same for good, whatever the cut into batches. Two n-grams of different words share one of 2^64 numbers by chance
alone, or where somebody looked for such words.

    T units (words or characters) or n-grams of all rows    R rows; row r is [starts[r], starts[r + 1])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import starts
from datakit.columns.seeded import Keys, mixed, text_keys

Unit = Literal["words", "characters"]
Ints = npt.NDArray[np.int64]

_BETWEEN = r"[^\p{L}\p{M}\p{N}]+"
_BEGIN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Runs:
    """Hashes [T] of each row in order, and where each row starts [R + 1]."""

    keys: Keys
    starts: Ints

    @property
    def rows(self) -> Ints:
        """The row of every hash [T]."""
        return np.repeat(np.arange(len(self.starts) - 1), self.sizes)

    @property
    def sizes(self) -> Ints:
        """How many hashes each row has [R]."""
        return np.diff(self.starts)

    def distinct(self) -> Runs:
        """The hashes of each row, each once, ascending."""
        order = np.argsort(self.keys)
        rows = self.rows[order]
        order = order[np.argsort(rows.astype(np.uint16) if len(self.starts) <= 1 << 16 else rows, kind="stable")]
        keys, rows = self.keys[order], self.rows[order]
        first = np.ones(len(keys), bool)
        first[1:] = (keys[1:] != keys[:-1]) | (rows[1:] != rows[:-1])
        return Runs(keys[first], _starts(np.bincount(rows[first], minlength=len(self.starts) - 1)))


def plain(texts: pa.Array) -> pa.Array:
    """Texts as their words in lower case, with one blank between two."""
    lower = pc.utf8_lower(pc.utf8_normalize(texts, form="NFKC"))
    return pc.utf8_trim(pc.replace_substring_regex(lower, pattern=_BETWEEN, replacement=" "), " ")


def words(texts: pa.Array) -> pa.Array:
    """The words of each text as a list."""
    text = plain(texts)
    split = pc.split_pattern(text, " ")
    counts = np.where(np.asarray(pc.equal(text, "")), 0, np.asarray(pc.list_value_length(split)))
    inner = split.flatten()
    return pa.ListArray.from_arrays(pa.array(_starts(counts), pa.int32()), inner.filter(pc.not_equal(inner, "")))


def units(texts: pa.Array, unit: Unit) -> Runs:
    """The words, or the characters of the words and the blanks between them, of each text."""
    if unit == "words":
        lists = words(texts)
        return Runs(text_keys(pa.chunked_array([lists.flatten()])), starts(lists).astype(np.int64))
    text = plain(texts)
    points = np.frombuffer("".join(text.to_pylist()).encode("utf-32-le"), np.uint32)
    return Runs(mixed(points.astype(np.uint64) + _BEGIN), _starts(np.asarray(pc.utf8_length(text))))


def ngrams(of: Runs, n: int, *, short: bool = False) -> Runs:
    """The runs of `n` neighbours in each row; `short`: a row of fewer, but one or more, is one n-gram as a whole."""
    sizes = of.sizes
    counts = np.maximum(sizes - n + 1, (sizes > 0) if short else 0)
    begins = _starts(counts)
    rows = np.repeat(np.arange(len(sizes)), counts)
    first = np.arange(begins[-1]) - begins[:-1][rows] + of.starts[:-1][rows]
    end = of.starts[1:][rows]
    cut = bool(((sizes < n) & (counts > 0)).any())
    keys = np.full(len(first), _BEGIN)
    for step in range(n):
        at = first + step
        further = mixed(keys + of.keys[np.minimum(at, end - 1)])
        keys = np.where(at < end, further, keys) if cut else further
    return Runs(keys, begins)


def _starts(counts: npt.NDArray[np.integer]) -> Ints:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
