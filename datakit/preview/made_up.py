"""Rows where none came: a model after the two steps of a preview may give nothing that a filter keeps or a pair is made
of, and the stages behind it are to be seen all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from datakit.op import NOTHING, Context, GatherAll, Result
from schemas import Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class MadeUp(GatherAll):
    """The rows that came; where none came, `rows` that are made up by their schema, and counted as such."""

    name: ClassVar[str] = "preview.made_up"

    rows: int = 2

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ConfigError("bad-setting", f"{self.name}: rows {self.rows}", expected="rows >= 1")

    @property
    def takes(self) -> Schema:
        """Any row: none of its columns is read."""
        return NOTHING

    def gives(self, *inputs: Schema) -> Schema:
        return inputs[0]

    def gather_all(self, dataset: Dataset, ctx: Context) -> Iterator[Result]:
        """All rows, a shard at a time, or the made-up ones."""
        if not dataset.num_rows:
            yield Result(dataset.schema.example(self.rows), counts={"rows.made-up": self.rows})
            return
        for shard in range(len(dataset.shards)):
            yield Result(dataset.read_shard(shard))
