"""Marks of people on answers that were drawn: a sheet or a list, by the ids of the samples."""

from __future__ import annotations

import pyarrow as pa

from datakit.columns.conversations import flat
from datakit.formats.forms.form import Built, Form
from datakit.formats.keys import TEXT, Key
from schemas import MARKS


def _marks(raw: pa.Table, dialogue: str) -> Built:
    return Built({name: flat(raw[name]) for name in MARKS.names})


FORMS = (
    Form(
        "marks",
        "{sample_id, mark?: good | bad | edited, edited?, note?}; an edited text says how the answer should be",
        (
            Key("sample_id", TEXT, aliases=("id",)),
            Key("mark", TEXT, required=False, aliases=("verdict", "label")),
            Key("edited", TEXT, required=False, aliases=("edit", "correction")),
            Key("note", TEXT, required=False, aliases=("comment",)),
        ),
        MARKS,
        _marks,
        refused={},
    ),
)
