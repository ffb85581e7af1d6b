"""label.judge: what a judge thinks of answers by a rubric: a score, attributes, the better of two, a ranking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from datakit.clients.asking_label import AskingLabel
from datakit.clients.protocols import Judge as JudgeClient
from datakit.clients.protocols import no_client
from datakit.clients.sampling import Sampling
from datakit.columns import usage
from datakit.judging import panel
from datakit.judging.asking import shown
from datakit.judging.reading import NO_VERDICT
from datakit.judging.rubric import LETTERS, Rubric, read_rubric, with_rubric
from datakit.op import Capability, Context, Op
from schemas import MESSAGES, Column, Schema
from schemas.canonical import DEFAULT_UNNAMED
from schemas.errors import ConfigError
from schemas.manifest import Manifest
from schemas.rows.usage import USAGE_NAMES
from schemas.settings import parse


def _score() -> Rubric:
    return parse(Rubric, read_rubric("score"))


@dataclass(frozen=True, kw_only=True)
class Judge(AskingLabel):
    """Adds a judge's verdict on `answers` and how it came about; no row is dropped, and no verdict is made up.

    By the rubric's kind `<output>` is a score (the mean of `votes` replies; `<output>_<attribute>` for attributes) or
    the column that is preferred, or `tie`. Two answers are shown in both orders (`swap`) and a win is one that both
    give; `<output>_wins` is the first one's share (a tie is half), `<output>_ranks` the mean rank of every answer.
    `<output>_consistent` is the share of votes whose orders agree, `<output>_first` the share of replies for what they
    saw first: 0.5 of a judge of two answers that does not look at the order. `<output>_refusal`, `_unparsed`,
    `_truncated` and `_error` count replies without a verdict. The rubric is a file's name, or stands here whole: its
    text, not its place, is part of the key. One with `{criterion}` reads what a row is judged by from that column.
    """

    name: ClassVar[str] = "label.judge"
    version: ClassVar[int] = 2
    needs: ClassVar[tuple[str, ...]] = ("judge",)
    capabilities: ClassVar[tuple[Capability, ...]] = ()
    judges: ClassVar[bool] = True

    rows_per_chunk: int = 64
    rubric: Rubric = field(default_factory=_score)
    """A JSON file, one that is there already (score, attributes, pairwise, ranking, reference), or its settings."""
    answers: tuple[str, ...] = ()
    """Columns of the answers; by default `response`, or `chosen` and `rejected` where two are compared."""
    reference: str = "answer"
    votes: int = 1
    swap: bool = True
    sampling: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=512, greedy=True))
    output: str = "judge"
    criterion: str = field(default="criterion", metadata=DEFAULT_UNNAMED)
    usage: bool = field(default=False, metadata=DEFAULT_UNNAMED)
    """Whether what the judge's requests took stands in columns: `usage=true` of a server."""

    def __post_init__(self) -> None:
        fitting = {"score": 1, "attributes": 1, "pairwise": 2}.get(self.rubric.kind)
        count = len(self.columns)
        few = count != fitting if fitting else not 2 <= count <= len(LETTERS)
        again = self.sampling.greedy and self.votes > 1 and self.rubric.kind in ("score", "attributes")
        if few or len(set(self.columns)) < count or self.votes < 1 or again or self.sampling.samples_per_prompt > 1:
            raise ConfigError(
                "bad-setting", f"{self.name}: {count} answers, {self.votes} votes, {self.sampling}",
                expected=f"kind {self.rubric.kind}: {fitting or '2 to 26'} columns, votes >= 1; several votes "
                "on one answer by draws that differ (sampling.greedy false)",
                kept="nothing was started",
            )  # fmt: skip

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Op:
        """As for other operations; a rubric that is a text is the name of a file."""
        return super().of(with_rubric(params))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that hold the answers."""
        return self.answers or (("chosen", "rejected") if self.rubric.kind == "pairwise" else ("response",))

    @property
    def takes(self) -> Schema:
        answers = (Column(name, pa.string(), "an answer to be judged") for name in self.columns)
        reference = Column(self.reference, pa.string(), "the reference answer", nullable=True)
        criterion = Column(self.criterion, pa.string(), "what the answers are judged by")
        given = {reference: self.rubric.reads_reference, criterion: self.rubric.reads_criterion}
        more = (column for column, reads in given.items() if reads)
        return Schema("judged", 1, (Column("messages", MESSAGES, "what was asked"), *answers, *more))

    @property
    def adds(self) -> tuple[Column, ...]:
        took = usage.columns_of(self.output) if self.usage else ()
        return (*panel.columns_of(self.rubric, self.columns, self.output), *took)

    def with_outputs(self, outputs: Mapping[str, tuple[str, ...]]) -> Judge:
        """A judge that says what its replies took says it in columns."""
        return replace(self, usage=True) if {*USAGE_NAMES} <= {*outputs.get("judge", ())} else self

    def label(self, rows: pa.Table, ctx: Context) -> dict[str, pa.Array]:
        judge = ctx.resources["judge"]
        if not isinstance(judge, JudgeClient):
            raise no_client(judge, JudgeClient)
        seen = shown(self.rubric, rows, self.columns, reference=self.reference, criterion=self.criterion)
        made = panel.judged(
            judge, self.rubric, seen, self.columns,
            each=self.votes, swap=self.swap, sampling=self.sampling, seed=ctx.seed,
        )  # fmt: skip
        parts = {column: column.name.removeprefix(self.output).removeprefix("_") for column in self.adds}
        return {column.name: pa.array([row[part] for row in made], column.type) for column, part in parts.items()}

    def counts(self, rows: pa.Table, ctx: Context) -> Mapping[str, float]:
        """Replies without a verdict, by why, and all replies."""
        missing = {f"judge.{status}": pc.sum(rows[f"{self.output}_{status}"]).as_py() or 0 for status in NO_VERDICT}
        replies = pc.sum(pc.list_value_length(rows[f"{self.output}_replies"])).as_py() or 0
        took = usage.taken_about(rows, self.output) if self.usage else {}
        return {name: float(count) for name, count in (missing | {"judge.replies": replies} | took).items()}

    def notes(self, made: Manifest) -> tuple[str, ...]:
        """How many replies held no verdict, by why."""
        counts = made.stats.get("counts", {})
        missing = {status: int(counts.get(f"judge.{status}", 0)) for status in NO_VERDICT}
        words = ", ".join(f"{count:,} {status}" for status, count in missing.items() if count)
        of = int(counts.get("judge.replies", 0))
        none = (f"{sum(missing.values()):,} of {of:,} replies of the judge hold no verdict: {words}",) if words else ()
        return (*none, *usage.usage_notes(made))
