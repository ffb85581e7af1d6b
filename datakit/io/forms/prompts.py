"""Questions: a text (RLHF prompts, offline samplers) or a list of messages, with a gold answer where there is
one.
"""

from __future__ import annotations

import pyarrow as pa

from datakit.io.conversations import flat, grammar, of_rows, of_turns, question
from datakit.io.dialogues import turns_of
from datakit.io.forms.form import Built, Form
from datakit.io.parse import Key
from schemas import MESSAGES, PROMPTS

ANSWER = Key("answer", pa.string(), required=False)


def asked(prompts: pa.Array, dialogue: str) -> Built:
    """The conversation before an answer, of prompt texts; a trailing empty assistant header is left out."""
    if dialogue == "plain":
        turns = question(prompts)
        return Built({"messages": turns}, grammar(turns, ends_with_user=True))
    rows = [row or [] for row in turns_of(prompts, dialogue)]
    turns = of_rows(row[:-1] if row and row[-1] == ("assistant", "") else row for row in rows)
    return Built({"messages": turns}, grammar(turns, ends_with_user=True))


def _texts(raw: pa.Table, dialogue: str) -> Built:
    built = asked(flat(raw["prompt"]), dialogue)
    return Built({**built.columns, "answer": flat(raw["answer"])}, built.faults)


def _turns(raw: pa.Table, dialogue: str) -> Built:
    turns, faults = of_turns(flat(raw["messages"]))
    return Built({"messages": turns, "answer": flat(raw["answer"])}, faults + grammar(turns, ends_with_user=True))


FORMS = (
    Form(
        "prompts",
        "{prompt | text | input, answer?}",
        (Key("prompt", pa.string(), aliases=("text", "input")), ANSWER),
        PROMPTS,
        _texts,
        dialogues=("plain", "extra_id", "hh"),
    ),
    Form(
        "prompt_messages",
        "{messages: [{role, content}, ...] that ends with a user turn, answer?}",
        (Key("messages", MESSAGES, aliases=("prompt",)), ANSWER),
        PROMPTS,
        _turns,
    ),
)
