"""A question and an answer that a model gave, with the exact text it read and every token it drew.

`logprobs` are those of the model as it is (temperature 1, nothing cut, all of its ids), whatever the settings the
tokens were drawn under: the same numbers as when the answer is read once more.
"""

from __future__ import annotations

import pyarrow as pa

from schemas.rows.conversation import IDS
from schemas.rows.prompts import PROMPTS
from schemas.schema import Column

CUT = "length"
"""The `finish_reason` of an answer that was cut at `max_new_tokens`."""

SAMPLE_COLUMNS = (
    Column("prompt", pa.string(), "the exact text that the model read"),
    Column("prompt_ids", IDS, "its tokens"),
    Column("sample_id", pa.string(), "function of prompt, policy, sampling, seed and sample index"),
    Column("sample_index", pa.int32(), "0 .. samples per prompt - 1"),
    Column("response", pa.string(), "the answer, without stop text"),
    Column("response_ids", IDS, "the tokens drawn, the stop token included"),
    Column(
        "logprobs", pa.list_(pa.float32()), "log-probability (nats) of each token under the policy at temperature 1"
    ),
    Column("finish_reason", pa.string(), "stop: the model ended; length: it was cut"),
)

SAMPLES = PROMPTS.adding(*SAMPLE_COLUMNS).renamed("samples", version=2, key=("sample_id",))
