"""Answers with several judgements each, as conversations and as tokens: what a regression reward model eats."""

from __future__ import annotations

import pyarrow as pa

from schemas.rows.completions import COMPLETIONS
from schemas.rows.tokens import TOKENS
from schemas.schema import Column

NOT_JUDGED = -100.0
"""NeMo-Aligner's number for an attribute that nobody judged; no trainer takes it for one, wherever it came from."""

HELPSTEER_ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
"""The attributes of HelpSteer 1 and 2, whole numbers from 0 to 4, in the order of NeMo-Aligner's nine."""

STEERLM_ATTRIBUTES = ("quality", "toxicity", "humor", "creativity", *HELPSTEER_ATTRIBUTES)
"""NeMo-Aligner's nine in its order: four of Open Assistant, five of HelpSteer; 0..4 each."""

_ATTRIBUTES = Column("attributes", pa.list_(pa.float64()), "one value an attribute, null where unknown")

ATTRIBUTED = COMPLETIONS.adding(_ATTRIBUTES).renamed("attributes", version=COMPLETIONS.version, key=COMPLETIONS.key)
"""An answer and its attribute values, in the order of the attribute list."""

ATTRIBUTED_TOKENS = TOKENS.dropping("loss_mask").adding(_ATTRIBUTES).renamed("attributed_tokens", key=TOKENS.key)
"""The conversation and its answer in tokens, and its attribute values."""
