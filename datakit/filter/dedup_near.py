"""Rows that nearly repeat another row: the Jaccard similarity of their sets of n-grams, over the whole dataset.

MinHash bands (`datakit.columns.minhash`) say which rows are worth comparing; every comparison is then exact, over the
n-grams themselves (by 64 bit hashes). So a row goes only where the similarity is as high as asked, and a pair that is
just as alike as asked is missed in at most one of fifty cases, more alike ones hardly ever. Texts are read twice (once
to compare, once to copy); buckets and n-grams lie in temporary files, memory stays bounded.

Where all texts share a template and are hardly less alike than asked, each may be like any other, and all are compared
with all, in blocks: the time is quadratic, at 40 nanoseconds a pair (32,000 such texts of 74 words: 20 s of one core).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from datakit.columns.kept_sets import KeptSets
from datakit.columns.measurement import measured, numbers, require_number
from datakit.columns.minhash import bands, buckets
from datakit.columns.ngrams import Unit, ngrams, units
from datakit.columns.rejections import parted
from datakit.columns.row_texts import text_batches, with_texts
from datakit.duck.near import near_repeats
from datakit.duck.session import Session
from datakit.op import Context, GatherAll, Result
from schemas import Schema
from schemas.dataset import Dataset
from schemas.setting_faults import check_ranges, each_once

_BATCH_ROWS = 65536
_MEMORY = "1GB"
_LIGHT = pa.schema(
    [("n", pa.int64()), ("id", pa.string()), ("value", pa.float64()), ("buckets", pa.list_(pa.uint64()))]
)
_PLACES = (
    "CREATE TABLE places AS SELECT n, id, row_number() OVER (ORDER BY value DESC NULLS LAST, n) AS place FROM rows"
)
_GOES = "SELECT gone.n, places.id, similarity FROM gone JOIN places ON stays = places.n ORDER BY gone.n"


@dataclass(frozen=True, kw_only=True)
class DedupNear(GatherAll):
    """Keep of rows whose texts are nearly the same the first, or the one with the highest number in `best`.

    The text is that of `columns`; `messages` stands for all turns but the system's. Two rows are alike where their sets
    of runs of `n` words (or characters, for scripts without blanks) have a Jaccard `similarity` of so much or above; a
    text of fewer than `n` words is one run. A row goes where it is so alike to one that stays, with the reason
    "near-duplicate", the similarity as value, and as threshold the id (first key column) of the row that stays, or its
    row number where the schema has no key. A text without a word is like no other.
    """

    name: ClassVar[str] = "filter.dedup_near"
    version: ClassVar[int] = 2

    columns: tuple[str, ...] = ("response",)
    similarity: float = 0.7
    n: int = 3
    unit: Unit = "words"
    best: str = ""

    def __post_init__(self) -> None:
        check_ranges(
            self.name,
            columns=(self.columns, each_once(self.columns), "names, each once"),
            similarity=(self.similarity, 0.1 <= self.similarity <= 1, "0.1 to 1"),
            n=(self.n, 1 <= self.n <= 100, "1 to 100"),
        )

    @property
    def takes(self) -> Schema:
        return with_texts(self.columns)

    def gives(self, *inputs: Schema) -> Schema:
        """The input's schema; `ConfigError` where `best` is no number there."""
        if self.best:
            require_number(inputs[0], self.best, self.name)
        return inputs[0]

    def gather_all(self, dataset: Dataset, ctx: Context) -> Iterator[Result]:
        """Rows that stay, in order; near-duplicates beside them."""
        with Session(memory=_MEMORY) as session, KeptSets() as sets:
            session.load("rows", _LIGHT, self._light(dataset, sets))
            session.rows(_PLACES)
            near_repeats(session, self.similarity, sets)
            yield from parted(dataset, session.batches(_GOES, _BATCH_ROWS), "near-duplicate", _BATCH_ROWS)

    def _light(self, dataset: Dataset, sets: KeptSets) -> Iterator[pa.RecordBatch]:
        """Number, id, the number that says which is best, and buckets of every row; its n-grams go to `sets`."""
        key = dataset.schema.key[:1]
        count, width = bands(self.similarity)
        start = 0
        for rows, texts in text_batches(dataset, self.columns, [*key, *filter(None, [self.best])]):
            grams = ngrams(units(texts, self.unit), self.n, short=True).distinct()
            sets.add(grams)
            number = np.arange(start, start + len(texts))
            value = measured(numbers(rows[self.best])) if self.best else pa.nulls(len(texts), pa.float64())
            keys = buckets(grams, count, width)
            sizes = np.where(grams.sizes > 0, count, 0)
            lists = pa.ListArray.from_arrays(
                np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32), keys[sizes > 0].ravel()
            )
            ids = rows[key[0]].combine_chunks().cast(pa.string()) if key else pa.array(number).cast(pa.string())
            yield pa.record_batch([pa.array(number), ids, value, lists], schema=_LIGHT)
            start += len(texts)
