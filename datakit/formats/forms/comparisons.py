"""Bradley-Terry comparisons as NeMo-Aligner keeps them: two lines a pair, the better text first."""

from __future__ import annotations

import pyarrow as pa

from datakit.columns.conversations import flat
from datakit.formats.dialogues import turns_of
from datakit.formats.forms.form import Built, Form
from datakit.formats.forms.preferences import shared_prefix
from datakit.formats.keys import TEXT, Key
from schemas import PREFERENCES


def _pairs(raw: pa.Table, dialogue: str) -> Built:
    turns = turns_of(flat(raw["text"]), dialogue)
    return shared_prefix(turns[0::2], turns[1::2])


FORMS = (
    Form(
        "comparisons",
        "{text} in pairs of lines: even lines hold the better text, odd lines the worse",
        (Key("text", TEXT),),
        PREFERENCES,
        _pairs,
        dialogues=("plain", "extra_id", "hh"),
        usual="extra_id",
        pairs=True,
    ),
)
