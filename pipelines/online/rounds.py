"""Where a step's prompts stand in their order, round by round: its own, then, while too few of them give rows to learn
from, others in their place.

The first round of step k asks the `prompts` behind those of step k - 1. Further rounds go on half-way round the order,
so that no prompt is asked twice in a step, and hardly in two steps running; each asks as many as should fill the step,
by the share that was left of those before, and never more than the first did. All follows from the numbers of step
and round and from the rows themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from datakit.filter import Window
from datakit.op import Context, Op
from datakit.run.chain import Chain
from schemas.dataset import Dataset


@dataclass(frozen=True)
class Round:
    """Prompts that are asked together: those of step `number`, from 0, or of the warm-up before them; with
    `again` above 0 the further ones of this step.
    """

    number: int
    warmup: bool = False
    again: int = 0

    @property
    def position(self) -> dict[str, int]:
        """What sets it apart from the other rounds of a run."""
        return {"warmup" if self.warmup else "step": self.number, **({"round": self.again} if self.again else {})}

    @property
    def suffix(self) -> str:
        """What stands behind the name of its step's datasets."""
        return f".round={self.again + 1}" if self.again else ""

    def __str__(self) -> str:
        return f"{'warmup' if self.warmup else 'step'}={self.number + 1:06d}"


def window_of(step: int, prompts: int, there: int, sizes: Sequence[int], kept: int) -> Window | None:
    """The prompts of the next round of `step`, of `there` in all: `sizes` are those of its rounds so far, of which
    `kept` prompts are learnt; None where these suffice, or no others are left.
    """
    if not sizes:
        return Window(offset=step * prompts, limit=prompts, wrap=True)
    beyond = max(prompts, there // 2) + sum(sizes[1:])
    missing = prompts - kept
    enough = math.ceil(missing * sum(sizes) / max(kept, 1))
    asked = min(prompts, enough, there - beyond)
    return Window(offset=step * prompts + beyond, limit=asked, wrap=True) if missing > 0 < asked else None


def prompts_kept(filters: Sequence[Op], answers: Sequence[Dataset]) -> int:
    """How many prompts have an answer that `filters` leave."""
    rows, schema = pa.concat_tables([one.read() for one in answers]), answers[0].schema
    if filters:
        chain = Chain(ops=tuple(filters), max_rejected_share=1.0)
        rows = chain.result(rows, schema, Context()).rows
    return int(pc.count_distinct(rows["prompt_id"]).as_py())
