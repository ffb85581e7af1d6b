"""A question and an answer that a model gave, with the exact text it read and every token it drew.

`logprobs` are those of the model as it is (temperature 1, nothing cut, all of its ids), whatever the settings the
tokens were drawn under: the same numbers as when the answer is read once more.
"""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from schemas.rows.conversation import IDS
from schemas.rows.prompts import PROMPTS
from schemas.rows.usage import USAGE
from schemas.schema import Column

CUT = "length"
"""The `finish_reason` of an answer that was cut at `max_new_tokens`."""
OPEN = "open"
"""That of a text to be read whole, to which no end belongs: an answer on offer."""

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

TOKEN_COLUMNS = ("response_ids", "logprobs")
"""What a server that gives text alone leaves null."""

REASONING = Column("reasoning", pa.string(), "what the model thought before its answer; null: nothing", nullable=True)

BESIDE = (REASONING, *USAGE)
"""What a generator may give besides an answer."""

SAMPLES = PROMPTS.adding(*SAMPLE_COLUMNS).renamed("samples", version=2, key=("sample_id",))


def answered_with(*given: str) -> tuple[int, tuple[Column, ...]]:
    """The version of `SAMPLES`, and its `SAMPLE_COLUMNS`, of a model that gives these of its answers: those of
    `TOKEN_COLUMNS` that are not among them may be null (version 3); `reasoning`, and what the request took (`USAGE`),
    stand behind them where they are.
    """
    columns = tuple(
        replace(column, nullable=True) if column.name in TOKEN_COLUMNS and column.name not in given else column
        for column in SAMPLE_COLUMNS
    )
    whole = all(name in given for name in TOKEN_COLUMNS)
    return SAMPLES.version if whole else 3, columns + tuple(one for one in BESIDE if one.name in given)
