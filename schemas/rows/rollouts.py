"""Answers of a policy in tokens, with what one online step needs of them: a step is a partition of such rows.

Lists have one number for every token of `input_ids`, 0 where nothing was measured. Generation gives `logprobs` of an
answer's tokens alone; here they run along with the whole sequence, as everything else that a trainer reads.
"""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from schemas.rows.tokens import TOKENS
from schemas.schema import Column

NUMBERS = pa.list_(pa.float32())
"""One number for every token."""

DRAWN_LOGPROBS = Column("drawn_logprobs", NUMBERS, "log-probability by the engine that drew the token, nats")
OLD_LOGPROBS = Column("old_logprobs", NUMBERS, "log-probability by the policy as the step begins, nats")
REF_LOGPROBS = Column("ref_logprobs", NUMBERS, "log-probability by the reference policy, nats")
TOKEN_KL = Column("token_kl", NUMBERS, "estimate of the divergence from the reference, nats")
TOKEN_REWARDS = Column("token_rewards", NUMBERS, "what the token earned")
VALUES = Column("values", NUMBERS, "what the critic expected before the token")
RETURNS = Column("returns", NUMBERS, "what the critic should have expected")
ADVANTAGES = Column("advantages", NUMBERS, "how much better the token was than expected")
IMPORTANCE_WEIGHTS = Column("importance_weights", NUMBERS, "training policy over the engine that drew, after the cut")

ROLLOUTS = TOKENS.adding(
    Column("prompt_id", pa.string(), "the question it answers; answers to one are a group"),
    Column("step", pa.int64(), "the online step that it was drawn for"),
    Column("weight_version", pa.int64(), "the step whose weights drew it"),
    Column("finish_reason", pa.string(), "stop: the model ended; length: it was cut"),
    Column("reward", pa.float64(), "of the whole answer", nullable=True),
    *(
        replace(column, nullable=True)
        for column in (
            *(DRAWN_LOGPROBS, OLD_LOGPROBS, REF_LOGPROBS, TOKEN_KL, TOKEN_REWARDS),
            *(VALUES, RETURNS, ADVANTAGES, IMPORTANCE_WEIGHTS),
        )
    ),
).renamed("rollouts", key=TOKENS.key)
"""What is not nullable comes of generation; operations of `datakit.label` and models fill the others."""
