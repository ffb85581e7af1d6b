"""label.verify: is a response right? By rule, without a model, without evaluating text."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import pyarrow as pa

from datakit.op import Context, FilterDecision, Label, LabelResult
from datakit.verifiers.choice import Choice
from datakit.verifiers.number import Number
from datakit.verifiers.registry import VERIFIERS, verifier_of
from datakit.verifiers.text import Text
from datakit.verifiers.verifier import ReadsBehind, Verifier
from schemas import Column, Schema
from schemas.canonical import DEFAULT_UNNAMED
from schemas.errors import ConfigError

_SHARED = ("after", "choices", "strict", "tolerance")
"""Settings that stand beside `kind`: each goes to the kinds that have one of that name."""


@dataclass(frozen=True, kw_only=True)
class Verify(Label):
    r"""Adds `output`, 1.0 where the response is right by the gold `answer` and 0.0 elsewhere, and what was read.

    number: the only number in the last \boxed{}, else the first behind `after`, else the last; whole numbers
    and decimals are compared digit by digit, fractions and powers of ten within `tolerance` (relative).
    choice: one of `choices`. text: equal once normalised (NFKC, lower case, blanks, end marks), or `strict`ly
    equal. Further kinds, with `settings` of their own, stand below "Verifiers". A response that cannot be read is
    wrong; a gold answer that cannot be read is a rejected row, and by default none is allowed.
    """

    name: ClassVar[str] = "label.verify"
    judges: ClassVar[bool] = True

    makes: ClassVar[tuple[Mapping[str, Any], ...]] = ({"kind": "number"},)
    max_rejected: ClassVar[int | None] = 0

    kind: str
    """One of the verifiers: number, choice, text, regex, ..."""
    response: str = "response"
    answer: str = "answer"
    output: str = "correct"
    after: str = ReadsBehind.after
    """Text that introduces the answer in a response, for example `####`; what lacks it cannot be read."""
    choices: str = Choice.choices
    strict: bool = Text.strict
    tolerance: float = Number.tolerance
    settings: Mapping[str, Any] = field(default_factory=dict, metadata=DEFAULT_UNNAMED)
    """Further settings of the kind."""

    def __post_init__(self) -> None:
        try:
            _ = self.verifier
        except ConfigError as fault:
            fault.where = fault.where or self.name
            raise

    @functools.cached_property
    def verifier(self) -> Verifier:
        """The verifier that these settings are of; `ConfigError` where they are of none."""
        own = {one.name for one in fields(VERIFIERS[self.kind])} if self.kind in VERIFIERS else set()
        shared = {name: getattr(self, name) for name in _SHARED if name in own}
        return verifier_of(self.kind, {**shared, **self.settings}, self.name)

    @property
    def gold(self) -> str:
        return self.answer if self.verifier.gold else ""

    @property
    def takes(self) -> Schema:
        """The response, and the gold answer where the kind reads one."""
        response = Column(self.response, pa.string(), "what was answered")
        gold = self.verifier.gold
        more = (Column(self.answer, pa.string(), gold, nullable=True),) if gold else ()
        return Schema("verifiable", 1, (response, *more))

    @property
    def adds(self) -> tuple[Column, ...]:
        """The verdict, and what was read (null where nothing could be)."""
        by = f"gives {self.answer}" if self.verifier.gold else f"is right by {self.kind}"
        read = f"{self.verifier.reading} in {self.response}"
        return (
            Column(self.output, pa.float64(), f"1 where {self.response} {by}", finite=True),
            Column(f"{self.output}_read", pa.string(), read, nullable=True),
        )

    def gives(self, *inputs: Schema) -> Schema:
        """As for other labels; `ConfigError` where this machine lacks what the kind needs."""
        self.verifier.require()
        return super().gives(*inputs)

    def label(self, rows: pa.Table, ctx: Context) -> LabelResult:
        import polars as pl

        gold = rows[self.answer] if self.verifier.gold else pa.nulls(rows.num_rows, pa.string())
        frame = pl.DataFrame({"response": pl.from_arrow(rows[self.response]), "gold": pl.from_arrow(gold)})
        frame = frame.with_columns(pl.all().cast(pl.String))
        verdicts = self.verifier.verdicts(frame).with_columns(pl.col("right").fill_null(0.0)).to_arrow()
        added = {self.output: verdicts["right"], f"{self.output}_read": verdicts["read"].cast(pa.string())}
        known = verdicts["known"].combine_chunks()
        return LabelResult(added, FilterDecision(known, "gold-not-readable", threshold=self.kind))
