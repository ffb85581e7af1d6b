"""What the request behind a row took, as a server counted it: columns that rows may have which a server answered.

A request for several answers has several rows, and each has the numbers of all of it, but for `cost`: that is the row's
share, so that costs are summed as they stand. Null is what nobody said.
"""

from __future__ import annotations

import pyarrow as pa

from schemas.schema import Column

USAGE = (
    Column("request_answers", pa.int32(), "answers that the row's request asked for", nullable=True),
    Column("request_prompt_tokens", pa.int64(), "tokens of its prompt, as the server counts", nullable=True),
    Column("request_completion_tokens", pa.int64(), "tokens of all its answers, as the server counts", nullable=True),
    Column("request_seconds", pa.float64(), "from its first byte out to its last one in", nullable=True, finite=True),
    Column(
        "cost", pa.float64(), "the row's share of what it cost, in the table's currency", nullable=True, finite=True
    ),
    Column("server", pa.string(), "who answered: the model's name there, and its system_fingerprint", nullable=True),
)
USAGE_NAMES = tuple(column.name for column in USAGE)
