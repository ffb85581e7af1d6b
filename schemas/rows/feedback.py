"""Answers that are wanted or not, one by one, as conversations and as tokens."""

from __future__ import annotations

import pyarrow as pa

from schemas.rows.completions import COMPLETIONS
from schemas.rows.tokens import TOKENS
from schemas.schema import Column

_DESIRABLE = Column("desirable", pa.bool_(), "whether the answer is wanted")

FEEDBACK = COMPLETIONS.adding(_DESIRABLE).renamed("feedback", version=COMPLETIONS.version, key=COMPLETIONS.key)
"""An answer and whether it is wanted."""

FEEDBACK_TOKENS = TOKENS.adding(_DESIRABLE).renamed("feedback_tokens", key=TOKENS.key)
"""The conversation and its answer in tokens, and whether it is wanted."""
