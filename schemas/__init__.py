"""What a row may be and where rows live: row kinds as Arrow schemas, and the dataset folder with its manifest.

Depends on pyarrow and fsspec alone, so that every other room can stand on it.
"""

from __future__ import annotations

from schemas.attributed import ATTRIBUTED as ATTRIBUTED
from schemas.chats import CHATS as CHATS
from schemas.completions import COMPLETIONS as COMPLETIONS
from schemas.conversation import IDS as IDS
from schemas.conversation import MESSAGES as MESSAGES
from schemas.conversation import PIECES as PIECES
from schemas.conversation import TOOLS as TOOLS
from schemas.conversation import TURN as TURN
from schemas.preferences import PREFERENCES as PREFERENCES
from schemas.prompts import PROMPTS as PROMPTS
from schemas.records import RECORDS as RECORDS
from schemas.records import records_of as records_of
from schemas.reports import REPORTS as REPORTS
from schemas.rewards import REWARD as REWARD
from schemas.rewards import REWARDS as REWARDS
from schemas.samples import SAMPLE_COLUMNS as SAMPLE_COLUMNS
from schemas.samples import SAMPLES as SAMPLES
from schemas.schema import Column as Column
from schemas.schema import Schema as Schema
from schemas.schema import common as common
from schemas.tokens import PACKS as PACKS
from schemas.tokens import PAIRS as PAIRS
from schemas.tokens import TOKENS as TOKENS
from schemas.vocabularies import TOKENIZERS as TOKENIZERS
