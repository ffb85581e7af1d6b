"""The arrangement of a step, as a value that a recipe declares: what makes rewarded answers rows for an algorithm.

    Arrangement(rows=(Drawn(), Rloo()))                                  every answer, with advantages
    Arrangement(rows=(Drawn(), BestOf(k=1)), per_prompt=1)               the best answer to every prompt
    Arrangement(rows=(Drawn(), Pair(beside=...)), per_prompt=1)          a better and a worse answer to it

What an algorithm reads of policies of the run itself is added to what is declared: log-probabilities of tokens by
`online.logprobs`, those of whole answers by `label.logprobs`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

from datakit.columns.group_rewards import GroupRewards
from datakit.filter import Where
from datakit.label import ImportanceWeights
from datakit.online import StepLag, StepLogprobs
from datakit.online.lag import LAG
from datakit.online.logprobs import LogprobColumn
from datakit.op import Gather, Op
from pipelines.graph.made_by import logprobs_of
from schemas.errors import ConfigError
from schemas.rows.rollouts import ADVANTAGES
from schemas.rows.samples import CUT
from trainers.algorithm import Algorithm


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """`rows` are operations over all answers of a step; an `online.logprobs` among them stands where an algorithm's
    columns are to be made (default: behind all others). `per_prompt` is how many rows come of the answers to a prompt
    (None: one of each answer).
    """

    rows: tuple[Op, ...]
    per_prompt: int | None = None

    def behind(self, kind: type[Op], op: Op, flag: str) -> Arrangement:
        """The arrangement with `op`, which `flag` asks for, behind its operation of this `kind`; `ConfigError` where it
        has none.
        """
        at = next((number for number, one in enumerate(self.rows) if isinstance(one, kind)), None)
        if at is None:
            raise ConfigError(
                "no-place",
                f"{flag} adds {op.name} behind {kind.name}, and no operation over the rows of a step is one",
                expected=f"{kind.name} among the operations",
                found=", ".join(one.name for one in self.rows) or "no operation",
                where=flag,
                kept="nothing was started",
                next=f"leave out {flag}",
            )
        return replace(self, rows=(*self.rows[: at + 1], op, *self.rows[at + 1 :]))

    def without_cut(self) -> Arrangement:
        """The arrangement that learns nothing of answers which were cut at their limit. What holds rewards of a group
        against each other counts theirs; all else, pairs and averages over a step, does not see them.
        """
        against = [number for number, op in enumerate(self.rows) if isinstance(op, GroupRewards)]
        at = against[-1] + 1 if against else 0
        whole = Where(predicate=f"finish_reason IS DISTINCT FROM '{CUT}'")
        return replace(self, rows=(*self.rows[:at], whole, *self.rows[at:]))

    @property
    def compares(self) -> str:
        """The operation that holds answers to one prompt against each other; empty where none does."""
        return next((op.name for op in self.rows if isinstance(op, Gather)), "")

    def rows_of_step(self, prompts: int, answers_each: int) -> int:
        """About how many rows a step learns."""
        return prompts * (answers_each if self.per_prompt is None else self.per_prompt)

    def off_by_a_step(self, importance: ImportanceWeights, algorithm: Algorithm) -> Arrangement:
        """The arrangement over answers that the policy of a step before drew: how old they are, and what is older than
        a step left out; advantages weighed by how much likelier the answers are to the policy as the step begins,
        where there are any (a loss over anything else is not weighed).
        """
        aged = (StepLag(), Where(predicate=f"{LAG.name} <= 1"))
        first = next((at for at, op in enumerate(self.rows) if not op.name.startswith("filter.")), len(self.rows))
        rows = (*self.rows[:first], *aged, *self.rows[first:])
        if ADVANTAGES.name not in algorithm.rows:
            return replace(self, rows=rows)
        asked = any(isinstance(op, StepLogprobs) for op in rows)
        rows = tuple(_widened(op, ("old_logprobs",)) if isinstance(op, StepLogprobs) else op for op in rows)
        return replace(self, rows=(*rows, *(() if asked else (StepLogprobs(columns=("old_logprobs",)),)), importance))

    def made_for(self, algorithm: Algorithm) -> tuple[Op, ...]:
        """All operations, those that `algorithm` asks of policies of the run among them."""
        read = tuple(name for name in get_args(LogprobColumn) if name in algorithm.rows)
        if not any(isinstance(op, StepLogprobs) for op in self.rows):
            asked = (StepLogprobs(columns=read),) if read else ()
            return (*self.rows, *asked, *((logprobs_of(algorithm),) if algorithm.references else ()))
        widened = (_widened(op, read) if isinstance(op, StepLogprobs) else op for op in self.rows)
        return tuple(op for op in widened if not isinstance(op, StepLogprobs) or op.columns)


def _widened(op: StepLogprobs, read: tuple[LogprobColumn, ...]) -> StepLogprobs:
    return replace(op, columns=tuple(dict.fromkeys((*op.columns, *read))))
