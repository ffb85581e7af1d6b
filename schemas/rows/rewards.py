"""An answer and its reward: the least that a reward-reading operation needs of a row."""

from __future__ import annotations

import pyarrow as pa

from schemas.schema import Column, Schema

REWARD = Column("reward", pa.float64(), "higher is better", finite=True)

REWARDS = Schema(
    "rewards",
    1,
    (
        Column("sample_id", pa.string(), "the sample"),
        Column("prompt_id", pa.string(), "the question it answers"),
        Column("response", pa.string(), "the answer"),
        REWARD,
    ),
    key=("sample_id",),
)
