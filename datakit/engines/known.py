"""engines.known: a few short texts, and what our own network thinks of each of their tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa

from datakit.clients.protocols import TokenModel, no_client
from datakit.columns.token_lists import answered, finite_rows
from datakit.op import BYTES_PER_TOKEN, Capability, Context, Read, Result, Size
from schemas import IDS, Column, Schema
from schemas.errors import ConfigError, DataError

if TYPE_CHECKING:
    from datakit.tokenizers.tokenizer import Tokenizer

TEXTS = (
    "The capital of France is Paris, and that of Italy is Rome.",
    "2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31",
    "def add(a, b):\n    return a + b\n",
    "Once upon a time there was a small house at the edge of a forest.",
    "Water boils at one hundred degrees and freezes at zero.",
    "SELECT name, count(*) FROM visits GROUP BY name ORDER BY 2 DESC",
    "Der Hund schläft unter dem Tisch, die Katze darauf.",
    "red, green, blue, yellow, black, white",
)
"""Prose, numbers, code and two languages: tokens of high and of low probability."""

KNOWN = Schema(
    "known_logprobs",
    1,
    (
        Column("input_ids", IDS, "the tokens of a text"),
        Column("logprobs", pa.list_(pa.float32()), "log-probability (nats, temperature 1) of each; 0 at the first"),
    ),
)


@dataclass(frozen=True, kw_only=True)
class KnownLogprobs(Read):
    """The first `longest` tokens of eight texts, with log-probabilities by the resource `model` in fp32; a text of
    fewer than two tokens is left out. `DataError` where none is left, or where a log-probability is not finite.

    The default is fewer than engines keep together of a prompt that they have seen: none of them is ever kept.
    """

    name: ClassVar[str] = "engines.known"
    needs: ClassVar[tuple[str, ...]] = ("model", "tokenizer")

    longest: int = 24

    def __post_init__(self) -> None:
        if self.longest < 2:
            raise ConfigError("bad-setting", f"{self.name}: longest {self.longest}", expected="longest >= 2")

    def grown(self, given: Size) -> Size:
        rows = len(TEXTS)
        return Size(rows, rows * self.longest * BYTES_PER_TOKEN)

    @property
    def asks(self) -> frozenset[Capability]:
        return frozenset({"logprobs"})

    def gives(self, *inputs: Schema) -> Schema:
        """Rows that have no name of their own: there are eight of them at most."""
        return KNOWN

    def read(self, ctx: Context) -> Iterator[Result]:
        """One table of all rows."""
        tokenizer: Tokenizer = ctx.resources["tokenizer"]
        model = ctx.resources["model"]
        if not isinstance(model, TokenModel):
            raise no_client(model, TokenModel)
        rows = [np.asarray(ids[: self.longest], np.int64) for ids in tokenizer.encode(TEXTS) if len(ids) > 1]
        if not rows:
            raise _unusable("its tokenizer makes no two tokens of any text", "texts of two tokens or more")
        logprobs = answered(model.logprobs(rows), rows, "log-probabilities")
        if not finite_rows(logprobs).all():
            raise _unusable("it gives log-probabilities that are not finite", "finite numbers")
        ids = pa.array([row.tolist() for row in rows], IDS)
        yield Result(pa.table([ids, logprobs.cast(KNOWN["logprobs"].type)], schema=KNOWN.arrow))


def _unusable(what: str, expected: str) -> DataError:
    return DataError(
        "cannot-compare",
        f"no engine can be held against the model: {what}",
        expected=expected,
        kept="nothing of this output",
        next="ask the checkpoint itself: leave out what stands before the colon of --model",
    )
