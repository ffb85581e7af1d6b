"""The two nested types that every room speaks: a conversation, and a templated text."""

from __future__ import annotations

import pyarrow as pa

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
"""A conversation: turns with a role (system, user, assistant, tool) and a text, in order."""

PIECES = pa.list_(pa.struct([("text", pa.string()), ("special", pa.bool_()), ("trained", pa.bool_())]))
"""A templated text in pieces: only `special` pieces may hold control tokens; `trained` pieces are learnt."""

IDS = pa.list_(pa.int32())
"""Token ids."""
