"""Columns of rollouts, answers of a policy in tokens: what operations of `datakit.label` make and losses read.

Lists have one number for every token of `input_ids`, 0 where nothing was measured. Generation gives `logprobs` of an
answer's tokens alone; `tokenize.drawn` lays them along the whole sequence, as everything else that a trainer reads.
"""

from __future__ import annotations

import pyarrow as pa

from schemas.schema import Column

NUMBERS = pa.list_(pa.float32())
"""One number for every token."""

RESPONSE_MASK = Column(
    "response_mask", pa.list_(pa.int8()), "1 on tokens of response_ids that were drawn, 0 on those of other turns"
)
ENVIRONMENT_REWARD = "environment_reward"
"""What an environment gave, where something else rewards answers."""
OLD_LOGPROBS = Column("old_logprobs", NUMBERS, "log-probability by the policy as the step begins, nats")
REF_LOGPROBS = Column("ref_logprobs", NUMBERS, "log-probability by the reference policy, nats")
TOKEN_KL = Column("token_kl", NUMBERS, "estimate of the divergence from the reference, nats")
TOKEN_REWARDS = Column("token_rewards", NUMBERS, "what the token earned")
VALUES = Column("values", NUMBERS, "what the critic expected before the token")
RETURNS = Column("returns", NUMBERS, "what the critic should have expected")
ADVANTAGES = Column("advantages", NUMBERS, "how much better the token was than expected")
IMPORTANCE_WEIGHTS = Column("importance_weights", NUMBERS, "training policy over the engine that drew, after the cut")
