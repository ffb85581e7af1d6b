"""template.question: what a judge is asked about a row by a rubric, as a conversation.

For a model of which no reply is read, but what it thinks of the verdicts: their log-probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa

from datakit.judging.asking import conversation, shown
from datakit.judging.rubric import LETTERS, Rubric, read_rubric, with_rubric
from datakit.op import Context, Label, Op
from schemas import MESSAGES, Column, Schema
from schemas.errors import ConfigError
from schemas.settings import parse


def _by_principle() -> Rubric:
    return parse(Rubric, read_rubric("principle"))


@dataclass(frozen=True, kw_only=True)
class Question(Label):
    """Adds `into`, the turns in which `label.judge` would ask about `answers`, shown in this order under A, B, ...

    Everything of the row is fenced but the `criterion`; `verdicts` name columns of the verdicts A, B, ... as the rubric
    has them written (`[[A]]`), for `label.logprobs`.
    """

    name: ClassVar[str] = "template.question"
    makes: ClassVar[tuple[Mapping[str, Any], ...]] = ()

    answers: tuple[str, ...]
    rubric: Rubric = field(default_factory=_by_principle)
    """A JSON file, one that is there already, or its settings, as of `label.judge`."""
    conversation: str = "messages"
    criterion: str = "criterion"
    into: str = "messages"
    verdicts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        several = self.rubric.kind == "pairwise" and len(self.answers) == 2 == len(set(self.answers))
        if not several or self.rubric.reads_reference or len(self.verdicts) not in (0, 2):
            raise ConfigError(
                "bad-setting", f"{self.name}: {len(self.answers)} answers by a rubric of kind {self.rubric.kind}",
                expected="a pairwise rubric without {reference}, two columns of answers, two of verdicts or none",
                kept="nothing was started",
            )  # fmt: skip

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Op:
        """As for other operations; a rubric that is a text is the name of a file."""
        return super().of(with_rubric(params))

    @property
    def takes(self) -> Schema:
        answers = (Column(name, pa.string(), "an answer to be judged") for name in self.answers)
        more = (Column(self.criterion, pa.string(), "what it is judged by"),) if self.rubric.reads_criterion else ()
        return Schema("judged", 1, (Column(self.conversation, MESSAGES, "what was asked"), *answers, *more))

    @property
    def adds(self) -> tuple[Column, ...]:
        verdicts = (Column(name, pa.string(), "how this verdict is written") for name in self.verdicts)
        return (Column(self.into, MESSAGES, "what a judge is asked"), *verdicts)

    def label(self, rows: pa.Table, ctx: Context) -> dict[str, pa.Array]:
        """A judge's question for every row."""
        seen = shown(self.rubric, rows, self.answers, turns=self.conversation, criterion=self.criterion)
        asked = [conversation(self.rubric, row, range(len(row.answers))) for row in seen]
        written = {
            name: pa.repeat(pa.scalar(f"[[{letter}]]", pa.string()), rows.num_rows)
            for name, letter in zip(self.verdicts, LETTERS, strict=False)
        }
        return {self.into: pa.array(asked, MESSAGES), **written}
