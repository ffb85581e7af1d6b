"""online.agreement: whether the log-probabilities that answers were drawn with are those of the network in training.

Where they differ, ratios and importance weights are of another policy than the one that drew: a decoder that rounds
otherwise, an engine that was not given the newest weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from datakit.columns.counted_tokens import CountedTokens
from datakit.columns.token_lists import answered, token_rows
from datakit.op import Context, Label
from schemas import TOKENS, Column, Schema
from schemas.errors import HealthError, printable
from schemas.rows.rollouts import NUMBERS
from schemas.setting_faults import check_ranges

_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class StepAgreement(Label):
    """Adds `logprob_error`: the mean over an answer's tokens of how far `drawn_logprobs` are from what the network that
    learns gives them as the step begins, in nats. Rows beyond `most` stop the run (`beyond` stop), or get the
    network's numbers for `drawn_logprobs` (recompute).
    """

    name: ClassVar[str] = "online.agreement"
    needs: ClassVar[tuple[str, ...]] = ("generator",)
    makes: ClassVar[tuple[Mapping[str, Any], ...]] = ()

    most: float
    beyond: Literal["stop", "recompute"] = "stop"

    def __post_init__(self) -> None:
        check_ranges(self.name, most=(self.most, 0 <= self.most < math.inf, "at least 0"))

    @property
    def takes(self) -> Schema:
        numbers = CountedTokens.reading("drawn", "loss_mask", "drawn_logprobs")
        return Schema("drawn", 1, (TOKENS["input_ids"], *numbers.columns))

    @property
    def adds(self) -> tuple[Column, ...]:
        return (
            Column("logprob_error", pa.float64(), "mean distance of drawn_logprobs from the network in training, nats"),
            Column("drawn_logprobs", NUMBERS, "logprobs along input_ids, 0 over the prompt"),
        )

    def label(self, rows: pa.Table, ctx: Context) -> Mapping[str, Any]:
        """Asked of the network on all ranks together; `HealthError` names the rows beyond the bound."""
        policy: Any = ctx.resources["generator"]
        texts = token_rows(rows["input_ids"])
        own = answered(policy.logprobs("old_logprobs", texts), texts, "log-probabilities")
        tokens = CountedTokens.of(rows.append_column("own", own), "loss_mask")
        own_C, drawn_C = tokens.read("own"), tokens.read("drawn_logprobs")
        far_C = np.abs(own_C - drawn_C)
        error_B = tokens.sums(np.where(np.isfinite(far_C), far_C, math.inf)) / np.maximum(tokens.lengths_B, 1)
        bad_B = error_B > self.most
        if bad_B.any() and self.beyond == "stop":
            raise self._astray(rows, error_B, bad_B)
        mended = tokens.column(np.where(tokens.each(bad_B) != 0, own_C, drawn_C))
        return {"logprob_error": pa.array(error_B), "drawn_logprobs": mended}

    def _astray(self, rows: pa.Table, error_B: Any, bad_B: Any) -> HealthError:
        places = np.argsort(-error_B, kind="stable")[: min(_NAMED, int(bad_B.sum()))]
        name = next((one for one in ("sample_id", "prompt_id") if one in rows.column_names), "input_ids")
        worst = ", ".join(printable(rows[name][int(at)].as_py()) for at in places)
        return HealthError(
            "guard-logprobs",
            f"{int(bad_B.sum())} of {len(bad_B)} answers were drawn with other log-probabilities than the network in "
            "training gives them",
            expected=f"at most {self.most:g} nats a token apart (--logprob-bound), or those of training in their place",
            found=f"{float(error_B.max()):.4g}, farthest off {worst}",
            next="--logprob-beyond recompute",
        )
