"""The three nested types of columns: a conversation, a text in templated pieces, and token ids."""

from __future__ import annotations

import pyarrow as pa

from schemas.schema import Column

TURN = pa.struct(
    [
        ("role", pa.string()),
        ("content", pa.string()),
        ("tool_calls", pa.string()),
        ("tool_call_id", pa.string()),
        ("reasoning", pa.string()),
        ("weight", pa.float32()),
    ]
)
"""One turn. Role (system, user, assistant, tool) and content are never null, the rest is where it is not given.

`tool_calls` is JSON text without blanks, keys as they came, of the list of calls that an assistant makes;
`tool_call_id` names the call that a tool turn answers; `reasoning` is what the assistant thought before its content;
`weight` is how much the turn's tokens count in training, null as 1. All but `weight` are part of the row's id.
"""

MESSAGES = pa.list_(TURN)
"""A conversation: turns in order."""

TOOLS = Column("tools", pa.string(), "the tools on offer, a list as canonical JSON text; null: none", nullable=True)
"""What stands beside a conversation in every row kind that holds one."""

PIECES = pa.list_(pa.struct([("text", pa.string()), ("special", pa.bool_()), ("trained", pa.bool_())]))
"""A templated text in pieces: only `special` pieces may hold control tokens; `trained` pieces are learnt."""

IDS = pa.list_(pa.int32())
"""Token ids."""
