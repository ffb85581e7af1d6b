"""Rows that hold what a model will be judged by: n-grams of words that stand in the rows of evaluation sets.

    Decontaminate(sets=("gsm8k", "mmlu"))    over the rows, GSM8K and MMLU

Thirteen words in common are a hit, as in Brown et al. 2020 (GPT-3, arXiv:2005.14165, appendix C); Llama 3 (Dubey et al.
2024, arXiv:2407.21783, section 5.1.4) takes eight and asks for a share. N-grams of the evaluation sets are held in
memory (some 20 bytes each), the rows go by in batches and are read twice: memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.columns.ngrams import Runs, units
from datakit.columns.overlaps import Overlaps, SoughtTexts
from datakit.columns.rejections import set_aside
from datakit.columns.row_texts import text_batches, with_texts
from datakit.op import NOTHING, Blend, Context, Result
from schemas import Column, Schema, with_columns
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from schemas.manifest import Manifest
from schemas.setting_faults import check_ranges, each_once

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Decontaminate(Blend):
    """Keep the rows of the first input, in their order, that overlap with no row of the `sets`, the other inputs.

    `columns` hold the text of a row, `sought` that of an evaluation row; `messages` stands for all turns but the
    system's. A row goes where it has an n-gram of `n` words in common with an evaluation row, and with it at least the
    `share` of that row's n-grams; its value is this share. Beside it stand the name of the set and the id (first key
    column, or the row number) of the evaluation row of which it has the largest share. An evaluation row of fewer than
    `n` words is sought as a whole, one of fewer than `shortest` not at all, as notes say. `counts` has for each set the
    rows that overlap with it, and its own rows that are overlapped with.
    """

    name: ClassVar[str] = "filter.decontaminate"

    sets: tuple[str, ...]
    columns: tuple[str, ...] = ("messages",)
    sought: tuple[str, ...] = ("messages",)
    n: int = 13
    share: float = 0.0
    shortest: int = 8

    def __post_init__(self) -> None:
        names = {"sets": self.sets, "columns": self.columns, "sought": self.sought}
        check_ranges(
            self.name,
            **{setting: (given, each_once(given), "names, each once") for setting, given in names.items()},
            n=(self.n, 1 <= self.n <= 100, "1 to 100"),
            shortest=(self.shortest, 1 <= self.shortest <= self.n, f"1 to {self.n} (n)"),
            share=(self.share, 0 <= self.share <= 1, "0 to 1"),
        )

    @property
    def takes(self) -> Schema:
        """Any rows: what is read of which input is checked in `gives`."""
        return NOTHING

    @property
    def rejects(self) -> tuple[Column, ...]:
        return (
            Column("evaluation_set", pa.string(), "the set with which the row overlaps most", nullable=True),
            Column("evaluation_row", pa.string(), "id, or number, of the row there", nullable=True),
        )

    def gives(self, *inputs: Schema) -> Schema:
        """The schema of the first input; `DataError` for a column that is not there."""
        if len(inputs) != len(self.sets) + 1:
            raise ConfigError(
                "bad-inputs", f"{self.name} got {len(inputs)} inputs for the rows and {len(self.sets)} sets",
                expected="the rows, and one dataset for each of sets", found=str(len(inputs)),
                kept="nothing was started", next=f"quiver ops {self.name}",
            )  # fmt: skip
        inputs[0].requires(with_texts(self.columns), self.name)
        for name, schema in zip(self.sets, inputs[1:], strict=True):
            schema.requires(with_texts(self.sought), f"{name} in {self.name}")
        return inputs[0]

    def blend(self, inputs: Sequence[Dataset], ctx: Context) -> Iterator[Result]:
        """The rows that stay, in order; those that go beside them."""
        keys, ids, sets = [], [], []
        for name, dataset in zip(self.sets, inputs[1:], strict=True):
            for words, named in _words(dataset, self.sought):
                keys.append(words)
                ids.append(named)
                sets.append(pa.repeat(name, len(named)))
        texts = pa.table({"evaluation_set": pa.chunked_array(sets, pa.string()),
                          "evaluation_row": pa.chunked_array(ids, pa.string())})  # fmt: skip
        sought, overlapped = SoughtTexts(keys, self.n, self.shortest), np.zeros(texts.num_rows, bool)
        for rows, text in text_batches(inputs[0], self.columns):
            yield self._parted(rows, sought.overlaps(units(text, "words")), texts, overlapped)
        names = np.asarray(texts["evaluation_set"])
        counts = {f"overlapped.{name}": float(overlapped[names == name].sum()) for name in self.sets}
        short = {f"short.{name}": float(sought.short[names == name].sum()) for name in self.sets}
        yield Result(inputs[0].schema.empty(), counts={**counts, **short})

    def _parted(self, rows: pa.Table, met: Iterator[Overlaps], texts: pa.Table, overlapped: Bools) -> Result:
        """The rows that stay and those that go; marks the texts that are `overlapped`."""
        share, text = np.full(rows.num_rows, -1.0), np.zeros(rows.num_rows, np.int64)
        touched = {name: np.zeros(rows.num_rows, bool) for name in self.sets}
        names = np.asarray(texts["evaluation_set"])
        for pairs in met:
            enough = pairs.share >= self.share
            row, other, value = pairs.row[enough], pairs.text[enough], pairs.share[enough]
            overlapped[other] = True
            for name in self.sets:
                touched[name][row[names[other] == name]] = True
            order = np.lexsort((-other, value))
            share[row[order]], text[row[order]] = value[order], other[order]
        goes = share >= 0
        which = texts.take(pa.array(text[goes]))
        gone = with_columns(rows.filter(pa.array(goes)), {name: which[name] for name in which.column_names})
        asked = f"{self.n}-grams in common" + (f", a share >= {self.share:g}" if self.share else "")
        counts = {f"rows.{name}": float(rows_of.sum()) for name, rows_of in touched.items()}
        return Result(
            rows.filter(pa.array(~goes)), set_aside(gone, "contaminated", pa.array(share[goes]), asked), counts
        )

    def notes(self, made: Manifest) -> tuple[str, ...]:
        """For each set how many rows overlap with how many of its own, and how many of these are too short."""
        counts = {name: int(count) for name, count in made.stats.get("counts", {}).items()}
        lines = []
        for name in self.sets:
            line = f"{name}: {counts[f'rows.{name}']:,} rows overlap with {counts[f'overlapped.{name}']:,} of its rows"
            short = counts[f"short.{name}"]
            lines.append(line + (f"; {short:,} of fewer than {self.shortest} words were not sought" if short else ""))
        return tuple(lines)


def _words(dataset: Dataset, columns: Sequence[str]) -> Iterator[tuple[Runs, pa.Array]]:
    """The words of all rows, and what to call each."""
    key, start = dataset.schema.key[:1], 0
    for rows, texts in text_batches(dataset, columns, key):
        ids = rows[key[0]].combine_chunks() if key else pa.array(np.arange(start, start + len(texts)))
        yield units(texts, "words"), ids.cast(pa.string())
        start += len(texts)
