"""Judged answers: KTO's thumbs up and down, and NeMo-Aligner's attribute rows for regression reward
models.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import any_turn, blank, flat, grammar, head, of_rows, starts
from datakit.formats.dialogues import turns_of
from datakit.formats.forms.completions import DIALOGUES, PROMPT, RESPONSE, answered, completed
from datakit.formats.forms.form import SYSTEM, TOOLS, Built, Form
from datakit.formats.forms.prompts import conversation
from datakit.formats.keys import FLAG, NUMBERS, TEXT, TURNS, Key
from schemas import ATTRIBUTED, FEEDBACK
from schemas.rows.attributed import NOT_JUDGED


def _words(raw: pa.Table, dialogue: str) -> Built:
    word = flat(raw["preference"])
    built = answered(raw, dialogue)
    unknown = np.asarray(pc.invert(pc.is_in(word, pa.array(["chosen", "rejected"]))))
    columns = {**built.columns, "desirable": pc.equal(word, "chosen")}
    return Built(columns, [*built.faults, (unknown, "unknown-preference")])


def _flags(raw: pa.Table, dialogue: str) -> Built:
    built = answered(raw, dialogue)
    return Built({**built.columns, "desirable": flat(raw["label"])}, built.faults)


def _chats(raw: pa.Table, dialogue: str) -> Built:
    whole = conversation(raw, "messages")
    built = completed(whole, *head(whole.columns["messages"]))
    return Built({**built.columns, "desirable": flat(raw["label"])}, built.faults)


def _attributes(raw: pa.Table, dialogue: str) -> Built:
    turns = of_rows([row or [] for row in turns_of(flat(raw["text"]), dialogue)])
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


FORMS = (
    Form(
        "kto",
        "{prompt, response, preference: chosen | rejected, system?, tools?}",
        (PROMPT, RESPONSE, Key("preference", TEXT), SYSTEM, TOOLS),
        FEEDBACK,
        _words,
        dialogues=DIALOGUES,
    ),
    Form(
        "kto_labels",
        "{prompt, completion | response, label: true | false, system?, tools?}; each side a text or a list of messages",
        (PROMPT, RESPONSE, Key("label", FLAG, aliases=("kto_tag",)), SYSTEM, TOOLS),
        FEEDBACK,
        _flags,
        dialogues=DIALOGUES,
    ),
    Form(
        "kto_messages",
        "{messages | conversations that end with the judged answer, label: true | false, system?, tools?}",
        (
            Key("messages", TURNS, aliases=("conversations",)),
            Key("label", FLAG, aliases=("kto_tag",)),
            SYSTEM,
            TOOLS,
        ),
        FEEDBACK,
        _chats,
    ),
    Form(
        "attributes",
        "{text, label: [numbers]}, -100 where an attribute is unknown",
        (Key("text", TEXT), Key("label", NUMBERS)),
        ATTRIBUTED,
        _attributes,
        dialogues=DIALOGUES,
        usual="extra_id",
    ),
)
