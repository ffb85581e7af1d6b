"""What a row may be and where rows live: row kinds as Arrow schemas, and the dataset folder with its manifest.

Depends on pyarrow and fsspec alone, so that every other room can stand on it.
"""

from __future__ import annotations

from schemas.dataset import Dataset as Dataset
from schemas.rows.attributed import ATTRIBUTED as ATTRIBUTED
from schemas.rows.attributed import ATTRIBUTED_TOKENS as ATTRIBUTED_TOKENS
from schemas.rows.attributed import STEERLM_ATTRIBUTES as STEERLM_ATTRIBUTES
from schemas.rows.chats import CHATS as CHATS
from schemas.rows.choices import CHOICES as CHOICES
from schemas.rows.completions import COMPLETIONS as COMPLETIONS
from schemas.rows.conversation import IDS as IDS
from schemas.rows.conversation import MESSAGES as MESSAGES
from schemas.rows.conversation import PIECES as PIECES
from schemas.rows.conversation import TOOLS as TOOLS
from schemas.rows.conversation import TURN as TURN
from schemas.rows.feedback import FEEDBACK as FEEDBACK
from schemas.rows.feedback import FEEDBACK_TOKENS as FEEDBACK_TOKENS
from schemas.rows.images import IMAGE_PREFERENCES as IMAGE_PREFERENCES
from schemas.rows.images import IMAGES as IMAGES
from schemas.rows.marks import MARKS as MARKS
from schemas.rows.preferences import PREFERENCES as PREFERENCES
from schemas.rows.prompts import PROMPTS as PROMPTS
from schemas.rows.records import RECORDS as RECORDS
from schemas.rows.records import records_of as records_of
from schemas.rows.reports import REPORTS as REPORTS
from schemas.rows.rewards import REWARD as REWARD
from schemas.rows.rewards import REWARDS as REWARDS
from schemas.rows.samples import SAMPLE_COLUMNS as SAMPLE_COLUMNS
from schemas.rows.samples import SAMPLES as SAMPLES
from schemas.rows.samples import TOKEN_COLUMNS as TOKEN_COLUMNS
from schemas.rows.tokens import PACKED_PAIRS as PACKED_PAIRS
from schemas.rows.tokens import PACKS as PACKS
from schemas.rows.tokens import PAIRS as PAIRS
from schemas.rows.tokens import TOKENS as TOKENS
from schemas.schema import Column as Column
from schemas.schema import Schema as Schema
from schemas.schema import common as common
from schemas.schema import with_columns as with_columns
from schemas.tokenizer import TOKENIZERS as TOKENIZERS
