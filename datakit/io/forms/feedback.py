"""Judged answers: KTO's thumbs up and down, and NeMo-Aligner's attribute rows for regression reward
models.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.io.conversations import any_turn, blank, flat, grammar, head, of_rows, starts
from datakit.io.dialogues import turns_of
from datakit.io.forms.completions import PROMPT, RESPONSE
from datakit.io.forms.form import Built, Form
from datakit.io.forms.prompts import asked
from datakit.io.parse import Key
from schemas import COMPLETIONS, Column
from schemas.attributed import NOT_JUDGED

FEEDBACK = COMPLETIONS.adding(Column("desirable", pa.bool_(), "whether the answer is wanted")).renamed(
    "feedback", key=("sample_id",)
)
"""An answer and whether it is wanted."""

VALUES = pa.list_(pa.float64())
ATTRIBUTES = COMPLETIONS.adding(Column("attributes", VALUES, "one value an attribute, null where unknown")).renamed(
    "attributes", key=("sample_id",)
)
"""An answer and its attribute values, in the order of the attribute list."""


def _answered(raw: pa.Table, dialogue: str, desirable: pa.Array) -> Built:
    built, response = asked(flat(raw["prompt"]), dialogue), flat(raw["response"])
    columns = {**built.columns, "response": response, "desirable": desirable}
    return Built(columns, [*built.faults, (blank(response), "blank-response")])


def _words(raw: pa.Table, dialogue: str) -> Built:
    word = flat(raw["preference"])
    built = _answered(raw, dialogue, pc.equal(word, "chosen"))
    unknown = np.asarray(pc.invert(pc.is_in(word, pa.array(["chosen", "rejected"]))))
    return Built(built.columns, [*built.faults, (unknown, "unknown-preference")])


def _flags(raw: pa.Table, dialogue: str) -> Built:
    return _answered(raw, dialogue, flat(raw["label"]))


def _attributes(raw: pa.Table, dialogue: str) -> Built:
    turns = of_rows([row or [] for row in turns_of(flat(raw["text"]), "extra_id" if dialogue == "plain" else dialogue)])
    before, last = head(turns)
    role, response = last.field("role"), pc.fill_null(last.field("content"), "")
    label = flat(raw["label"])
    values, offsets = label.flatten(), starts(label)
    known = pc.if_else(pc.or_(pc.equal(values, NOT_JUDGED), pc.is_nan(values)), None, values)
    faults = [
        (np.asarray(pc.fill_null(pc.not_equal(role, "assistant"), True)), "not-a-transcript"),
        (blank(response), "blank-response"),
        (~any_turn(offsets, np.asarray(pc.is_valid(known))), "no-attribute"),
        *grammar(before, ends_with_user=True),
    ]
    attributes = pa.ListArray.from_arrays(pa.array(offsets), known)
    return Built({"messages": before, "response": response, "attributes": attributes}, faults)


_DIALOGUES = ("plain", "extra_id", "hh")

FORMS = (
    Form(
        "kto",
        "{prompt, response, preference: chosen | rejected}",
        (PROMPT, RESPONSE, Key("preference", pa.string())),
        FEEDBACK,
        _words,
        dialogues=_DIALOGUES,
    ),
    Form(
        "kto_labels",
        "{prompt, completion | response, label: true | false}",
        (PROMPT, RESPONSE, Key("label", pa.bool_())),
        FEEDBACK,
        _flags,
        dialogues=_DIALOGUES,
    ),
    Form(
        "attributes",
        "{text, label: [numbers]}, -100 where an attribute is unknown",
        (Key("text", pa.string()), Key("label", VALUES)),
        ATTRIBUTES,
        _attributes,
        dialogues=_DIALOGUES,
    ),
)
