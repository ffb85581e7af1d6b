"""Preference pairs of an answer that is there already and one that a policy gave: self-play's.

Chen et al., "Self-Play Fine-Tuning" (2024, arXiv:2401.01335): the answer of the original data is chosen, the policy's
own is rejected, whatever either is worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.drawn import finish_reasons, sample_ids
from datakit.columns.measurement import require_columns
from datakit.columns.rejections import set_aside
from datakit.formats.ids import content_ids
from datakit.op import Context, Gather, Result
from schemas import PREFERENCES, SAMPLES, Schema
from schemas.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PairAnswer(Gather):
    """For every sample the text in `column`, chosen, and its own, rejected.

    A pair holds the `sample_id` and the `finish_reason` of the sample, its rejected answer, and of the chosen one what
    `<column>_sample_id` and `<column>_finish_reason` say. Rows without that text (no-answer), and those where both are
    the same (same), which teach nothing, are rejected.
    """

    name: ClassVar[str] = "blend.pair_answer"
    version: ClassVar[int] = 2

    column: str = "answer"

    @property
    def takes(self) -> Schema:
        """A sample's ids, conversation and answer; the other answer is checked in `gives`."""
        return SAMPLES.selecting("prompt_id", "messages", "sample_id", "response").renamed("answered")

    def gives(self, *inputs: Schema) -> Schema:
        require_columns(inputs[0], (self.column,), self.name)
        kind = inputs[0][self.column].type
        if kind != pa.string():
            raise ConfigError(
                "schema", f"{self.name} needs a text in {self.column}, which is {kind}", kept="nothing was started"
            )
        return PREFERENCES

    def gather(self, rows: pa.Table, ctx: Context) -> Result:
        """One pair for each sample that has another answer beside it, in their order."""
        missing = pc.is_null(rows[self.column])
        same = pc.fill_null(pc.equal(rows[self.column], rows["response"]), False)
        out = pc.or_(missing, same)
        kept = rows.filter(pc.invert(out))
        pairs = {
            "pair_id": content_ids(kept["prompt_id"], kept["sample_id"], kept[self.column]),
            **{name: kept[name] for name in ("prompt_id", "messages")},
            "chosen": kept[self.column],
            "chosen_sample_id": sample_ids(kept, self.column),
            "chosen_finish_reason": finish_reasons(kept, self.column),
            "rejected": kept["response"],
            "rejected_sample_id": kept["sample_id"],
            "rejected_finish_reason": finish_reasons(kept),
            **{name: pa.nulls(kept.num_rows, pa.float64()) for name in ("chosen_reward", "rejected_reward")},
        }
        pairs |= {name: kept[name] for name in ("tools", "source") if name in rows.column_names}
        names = [name for name in ("prompt_id", "sample_id", "messages", "tools") if name in rows.column_names]
        reason = np.where(np.asarray(missing.filter(out)), "no-answer", "same")
        rejected = set_aside(rows.select(names).filter(out), pa.array(reason, pa.string()))
        return Result(PREFERENCES.conform(pa.table(pairs)), rejected)
