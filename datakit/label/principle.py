"""label.principle: one principle of a constitution for every row, by lot, with what is asked by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from datakit.columns.seeded import text_keys
from datakit.constitution.principles import Principle, read_constitution
from datakit.op import Context, Label, Op
from schemas import Column, Schema
from schemas.errors import ConfigError, printable
from schemas.settings import parse

Asked = Literal["critique", "revision", "choice"]
_COLUMNS: Mapping[Asked, Column] = {
    "critique": Column("critique_request", pa.string(), "what the critic of an answer is asked by the principle"),
    "revision": Column("revision_request", pa.string(), "what is asked for behind the critique"),
    "choice": Column("criterion", pa.string(), "what a judge of two answers goes by"),
}


def _shipped() -> tuple[Principle, ...]:
    return tuple(parse(Principle, one) for one in read_constitution("harmless"))


@dataclass(frozen=True, kw_only=True)
class DrawPrinciple(Label):
    """Adds the name of one of `principles`, and of its `texts` `critique_request`, `revision_request` and `criterion`.

    Which one is a function of the run's seed, `draw` and the row's `key`: rows of one prompt share theirs, whatever
    stands beside them. `principles` is a file's name, or they stand here whole: their text, not its place, is part of
    the key of the task.
    """

    name: ClassVar[str] = "label.principle"

    principles: tuple[Principle, ...] = field(default_factory=_shipped)
    """A JSON file, or text with numbered lines (datakit.constitution.principles), or `harmless`, which is there."""
    texts: tuple[Asked, ...] = ("critique", "revision")
    key: str = "prompt_id"
    draw: int = 1

    def __post_init__(self) -> None:
        names = [one.name for one in self.principles]
        lacking = [(one.name, part) for one in self.principles for part in self.texts if not getattr(one, part)]
        if not names or len(set(names)) < len(names) or lacking:
            what = "principles are one at least, of different names"
            if lacking:
                what = f"the principle {printable(lacking[0][0], 80)} has no text for the {lacking[0][1]}"
            raise ConfigError(
                "bad-constitution", f"{self.name}: {what}", kept="nothing was started",
                expected="prompt (the critique) and edit_request (the revision) of every principle, or its choice",
                found=f"{len(names)} principles: {printable(', '.join(names), 200)}",
            )  # fmt: skip

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Op:
        """As for other operations; principles that are a text are the name of a file."""
        given = params.get("principles")
        return super().of({**params, "principles": read_constitution(given)} if isinstance(given, str) else params)

    @property
    def takes(self) -> Schema:
        return Schema("asked", 1, (Column(self.key, pa.string(), "rows of one value share a principle"),))

    @property
    def adds(self) -> tuple[Column, ...]:
        name = Column("principle", pa.string(), "the principle of the constitution, by lot")
        return (name, *(_COLUMNS[part] for part in self.texts))

    def label(self, rows: pa.Table, ctx: Context) -> dict[str, pa.Array]:
        """By the key's lot; the bias of a remainder of 64 bits is below 1e-15."""
        lots = text_keys(rows[self.key], ctx.seed, self.name, self.draw) % np.uint64(len(self.principles))
        at = pa.array(lots.astype(np.int64))
        texts = {"principle": "name"} | {_COLUMNS[part].name: part for part in self.texts}
        return {
            column: pa.array([getattr(one, part) for one in self.principles], pa.string()).take(at)
            for column, part in texts.items()
        }
