"""label.kl: how far the policy is from a reference, token by token, on answers that the policy gave.

    x  = log pi - log pi_ref
    k1 = x        k2 = x^2 / 2        k3 = e^-x - 1 + x, x at least -20        abs = |x|

Schulman, "Approximating KL Divergence" (2020). Each is a number, so as a part of the reward each is as good as what it
estimates: k1 is the divergence without bias, k3 too and never below 0, k2 is near it for small x; `abs` is what
NeMo-Aligner subtracts. As a loss only two of them have the right gradient (`kl_estimator` of the policy losses).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from datakit.columns.counted_tokens import CountedTokens
from datakit.columns.measurement import NOT_FINITE
from datakit.op import Context, FilterDecision, Label, LabelResult
from schemas import Column, Schema
from schemas.rows.rollouts import TOKEN_KL

_MOST = 20.0
"""Nats by which the reference is taken to be likelier at most where k3 takes the exponent of it."""


@dataclass(frozen=True, kw_only=True)
class Kl(Label):
    """Adds `token_kl`, at every token that `mask` counts, and `kl`, its sum over an answer, in nats.

    A row with a log-probability that is not finite at a counted token is rejected as `not-finite`.
    """

    name: ClassVar[str] = "label.kl"
    version: ClassVar[int] = 2

    estimator: Literal["k1", "k2", "k3", "abs"] = "k1"
    policy: str = "old_logprobs"
    reference: str = "ref_logprobs"
    mask: str = "loss_mask"

    @property
    def token_bytes(self) -> int:
        return 4

    @property
    def takes(self) -> Schema:
        return CountedTokens.reading("referred rollouts", self.mask, self.policy, self.reference)

    @property
    def adds(self) -> tuple[Column, ...]:
        return (TOKEN_KL, Column("kl", pa.float64(), "its sum over the answer", finite=True))

    def label(self, rows: pa.Table, ctx: Context) -> LabelResult:
        tokens = CountedTokens.of(rows, self.mask)
        gain_C = tokens.read(self.policy) - tokens.read(self.reference)
        finite_B = tokens.finite(gain_C)
        if self.estimator == "k3":
            gain_C = np.maximum(gain_C, -_MOST)
            kl_C = np.exp(-gain_C) - 1 + gain_C
        else:
            kl_C = {"k1": gain_C, "k2": gain_C**2 / 2, "abs": np.abs(gain_C)}[self.estimator]
        finite_B &= tokens.finite(kl_C)
        kl_B = np.where(finite_B, tokens.sums(np.nan_to_num(kl_C)), 0.0)
        columns = {TOKEN_KL.name: tokens.column(kl_C), "kl": pa.array(kl_B)}
        return LabelResult(columns, FilterDecision(pa.array(finite_B), NOT_FINITE))
