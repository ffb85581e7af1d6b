"""blend.mismatch: beside each answer one that was given to another question, for KTO's reference point.

The answers are handed round among the questions, so that nearly every one is used exactly once: what stands in the new
column is distributed as the answers are. Ethayarajh et al., "KTO" (2024, arXiv:2402.01306), section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.columns.conversations import flat
from datakit.columns.drawn import finish_reasons
from datakit.columns.rejections import set_aside
from datakit.columns.seeded import Keys, text_keys
from datakit.op import Context, GatherAll, Result, Size
from schemas import COMPLETIONS, Column, Schema, with_columns
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from schemas.store.scratch import Scratch

Ints = npt.NDArray[np.int64]
_BATCH_ROWS = 65536
_REASON, _NEEDED = "finish_reason", "another question's answer, of another text"
_ANSWERS = pa.schema([("response", pa.string()), (_REASON, pa.string())])


@dataclass(frozen=True, kw_only=True)
class Mismatch(GatherAll):
    """Adds `column`: the answer of a row with another `prompt_id` and another text, chosen by the run's seed.

    It does not depend on the order of the rows; rows without one are rejected as `no-other-answer`. Where rows have a
    `finish_reason`, that of the other answer is `<column>_finish_reason`.
    """

    name: ClassVar[str] = "blend.mismatch"
    version: ClassVar[int] = 2
    makes: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)

    column: str = "mismatched"

    def __post_init__(self) -> None:
        if not self.column or self.column in COMPLETIONS:
            raise ConfigError(
                "bad-setting",
                f"{self.name}: column must be a new one, not {self.column!r}",
                kept="nothing was started",
            )

    @property
    def takes(self) -> Schema:
        """The columns of ids and answers that are read."""
        return COMPLETIONS.selecting("sample_id", "prompt_id", "response")

    def gives(self, *inputs: Schema) -> Schema:
        reason = Column(f"{self.column}_{_REASON}", pa.string(), "why it ended, where known", nullable=True)
        given = inputs[0].adding(reason) if _REASON in inputs[0] else inputs[0]
        return given.adding(Column(self.column, pa.string(), "an answer to another question"))

    def grown(self, given: Size) -> Size:
        return given.wider(1.45)

    def gather_all(self, dataset: Dataset, ctx: Context) -> Iterator[Result]:
        """All rows in their order, each with another one's answer; those that nothing is left for beside them."""
        with Scratch("quiver-mismatch-") as folder:
            path = f"{folder}/answers.arrow"
            keys = self._read(dataset, path, ctx.seed)
            order = np.lexsort(keys[:2])
            place = _partners(keys[1][order], keys[2][order])
            partner = np.empty(len(order), np.int64)
            partner[order] = np.where(place < 0, -1, order[place])
            with pa.memory_map(path) as source:
                answers = _Answers(pa.ipc.open_file(source))
                start = 0
                for shard in range(len(dataset.shards)):
                    for rows in dataset.batches(shard, _BATCH_ROWS):
                        yield self._matched(rows, partner[start : start + rows.num_rows], answers)
                        start += rows.num_rows

    def _read(self, dataset: Dataset, path: str, seed: int) -> list[Keys]:
        """Keys of all rows' ids, prompts and answers; the answers themselves go to a file."""
        names, parts = self.takes.names, list[list[Keys]]()
        more = {_REASON} & {*dataset.schema.names}
        with pa.ipc.new_file(path, _ANSWERS) as writer:
            for shard in range(len(dataset.shards)):
                for rows in dataset.batches(shard, _BATCH_ROWS, columns=[*names, *more]):
                    parts.append([text_keys(rows[name], seed, self.name) for name in names])
                    writer.write_batch(pa.record_batch([flat(rows["response"]), finish_reasons(rows)], _ANSWERS))
        return [np.concatenate([np.empty(0, np.uint64), *column]) for column in zip(*parts, strict=True)] or [
            np.empty(0, np.uint64) for _ in names
        ]

    def _matched(self, rows: pa.Table, partner: Ints, answers: _Answers) -> Result:
        some = partner >= 0
        added = dict(zip((self.column, f"{self.column}_{_REASON}"), answers.take(partner[some]).columns, strict=True))
        rejected = set_aside(rows.filter(pa.array(~some)), "no-other-answer", threshold=_NEEDED)
        matched = with_columns(rows.filter(pa.array(some)), added)
        return Result(self.gives(Schema.of_arrow(rows.schema)).conform(matched), rejected)


class _Answers:
    """The rows of a mapped file by their number."""

    def __init__(self, file: pa.RecordBatchFileReader) -> None:
        self.file = file
        self.ends = np.cumsum([file.get_batch(i).num_rows for i in range(file.num_record_batches)])

    def take(self, numbers: Ints) -> pa.Table:
        """The texts with these numbers, and why each ended."""
        batch = np.searchsorted(self.ends, numbers, side="right")
        order = np.argsort(batch, kind="stable")
        parts = [_ANSWERS.empty_table()]
        for number in np.unique(batch):
            rows = pa.table(self.file.get_batch(number))
            parts.append(
                rows.take(pa.array(numbers[order][batch[order] == number] - self.ends[number] + rows.num_rows))
            )
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return pa.concat_tables(parts).take(pa.array(back))


def _partners(prompt: Keys, text: Keys) -> Ints:
    """For rows in the order of their prompts: the place of a row with another prompt and another text, -1 without one.

    Rows stand in a ring, and each takes the one that is as far ahead as the largest prompt is wide; where that has the
    text of its own, the next that has another.
    """
    count = len(prompt)
    if not count:
        return np.empty(0, np.int64)
    first = np.flatnonzero(np.concatenate([[True], prompt[1:] != prompt[:-1]]))
    sizes = np.diff(np.append(first, count))
    ends, again = np.repeat(first + sizes, sizes), np.repeat(first, sizes) + count
    ring = np.tile(text, 2)
    changes = np.append(np.where(ring[1:] != ring[:-1], np.arange(1, 2 * count), 2 * count), 2 * count)
    other = np.minimum.accumulate(changes[::-1])[::-1]

    def with_other_text(place: Ints) -> Ints:
        inside = np.minimum(place, 2 * count - 1)
        return np.where(ring[inside] == text, other[inside], place)

    ahead = with_other_text(np.arange(count) + sizes.max())
    place = np.where(ahead < again, ahead, with_other_text(ends))
    return np.where(place < again, place % count, -1)
