"""Preferences in one record: a question, the better and the worse answer, as texts, messages or whole
transcripts.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.io.conversations import Faults, blank, flat, grammar, head, of_rows, of_turns, question
from datakit.io.dialogues import Turns, turns_of
from datakit.io.forms.completions import INSTRUCTION, instructed
from datakit.io.forms.form import Built, Form
from datakit.io.forms.prompts import asked
from datakit.io.parse import Key
from schemas import MESSAGES, PREFERENCES

REWARDS = (
    Key("chosen_reward", pa.float64(), required=False),
    Key("rejected_reward", pa.float64(), required=False),
)
_STOP = "\n<extra_id_1>"


def compared(turns: pa.Array, raw: pa.Table | None, chosen: pa.Array, rejected: pa.Array, faults: Faults) -> Built:
    """A preference, with the faults every preference may have."""
    columns = {"messages": turns, "chosen": chosen, "rejected": rejected}
    if raw is not None:
        columns |= {key.name: flat(raw[key.name]) for key in REWARDS if key.name in raw.column_names}
    same = np.asarray(pc.equal(chosen, rejected))
    answers = [(blank(chosen), "blank-chosen"), (blank(rejected), "blank-rejected"), (same, "same-answers")]
    return Built(columns, [*faults, *answers])


def _texts(raw: pa.Table, dialogue: str) -> Built:
    built = asked(flat(raw["prompt"]), dialogue)
    answers = [flat(raw[name]) for name in ("chosen", "rejected")]
    if dialogue == "extra_id":
        answers = [
            pc.utf8_trim_whitespace(pc.list_element(pc.split_pattern(a, _STOP, max_splits=1), 0)) for a in answers
        ]
    return compared(built.columns["messages"], raw, answers[0], answers[1], built.faults)


def _single(raw: pa.Table, prompt: str, role: str, content: str) -> Built:
    turns, faults = of_turns(flat(raw[prompt]), role, content)
    answers = []
    for name in ("chosen", "rejected"):
        text = flat(raw[name]).field(content)
        faults.append((np.asarray(pc.is_null(text)), "turn-without-content"))
        answers.append(pc.fill_null(text, ""))
    return compared(turns, raw, answers[0], answers[1], faults + grammar(turns, ends_with_user=True))


def _messages(raw: pa.Table, dialogue: str) -> Built:
    return _single(raw, "prompt", "role", "content")


def _share_gpt(raw: pa.Table, dialogue: str) -> Built:
    return _single(raw, "conversations", "from", "value")


def _chats(raw: pa.Table, dialogue: str) -> Built:
    """Two whole conversations that differ in their last turn; an explicit prompt goes before both."""
    faults: Faults = []
    sides = []
    for name in ("chosen", "rejected"):
        turns, own = of_turns(flat(raw[name]))
        before, last = head(turns)
        faults += [
            *own,
            (np.asarray(pc.fill_null(pc.not_equal(last.field("role"), "assistant"), True)), "last-turn-not-assistant"),
        ]
        sides.append((before, pc.fill_null(last.field("content"), "")))
    (turns, chosen), (other, rejected) = sides
    differ = [a != b for a, b in zip(turns.to_pylist(), other.to_pylist(), strict=True)]
    faults.append((np.array(differ, bool), "prompts-differ"))
    given, own = of_turns(pc.fill_null(flat(raw["prompt"]), pa.scalar([], MESSAGES)))
    if len(given.flatten()):
        pairs = zip(given.to_pylist(), turns.to_pylist(), strict=True)
        turns = pa.array([own if own[: len(said)] == said else said + own for said, own in pairs], MESSAGES)
        faults += own
    return compared(turns, raw, chosen, rejected, faults + grammar(turns, ends_with_user=True))


def _alpaca(raw: pa.Table, dialogue: str) -> Built:
    texts = instructed(raw)
    return compared(question(texts), raw, flat(raw["chosen"]), flat(raw["rejected"]), [(blank(texts), "blank-prompt")])


def shared_prefix(chosen: list[Turns | None], rejected: list[Turns | None]) -> Built:
    """Preferences of two transcripts that are the same but for their last assistant turn."""
    rows: list[Turns] = []
    answers: tuple[list[str], list[str]] = ([], [])
    unreadable, differ = np.zeros(len(chosen), bool), np.zeros(len(chosen), bool)
    for at, pair in enumerate(zip(chosen, rejected, strict=True)):
        one, other = ((side or [("assistant", "")]) for side in pair)
        unreadable[at] = None in pair or one[-1][0] != "assistant" or other[-1][0] != "assistant"
        differ[at] = one[:-1] != other[:-1]
        rows.append(one[:-1])
        answers[0].append(one[-1][1])
        answers[1].append(other[-1][1])
    turns = of_rows(rows)
    faults = [
        (unreadable, "not-a-transcript"),
        (differ, "prompts-differ"),
        *grammar(turns, ends_with_user=True),
    ]
    return compared(turns, None, pa.array(answers[0], pa.string()), pa.array(answers[1], pa.string()), faults)


def _transcripts(raw: pa.Table, dialogue: str) -> Built:
    kind = "hh" if dialogue == "plain" else dialogue
    return shared_prefix(turns_of(flat(raw["chosen"]), kind), turns_of(flat(raw["rejected"]), kind))


_TURN = MESSAGES.value_type
_SHARE = pa.struct([("from", pa.string()), ("value", pa.string())])
_ANSWERS = ("chosen_response",), ("rejected_response",)


def _answers(kind: pa.DataType) -> tuple[Key, Key]:
    return Key("chosen", kind, aliases=_ANSWERS[0]), Key("rejected", kind, aliases=_ANSWERS[1])


FORMS = (
    Form(
        "preferences",
        "{prompt, chosen | chosen_response, rejected | rejected_response, chosen_reward?, rejected_reward?}",
        (Key("prompt", pa.string()), *_answers(pa.string()), *REWARDS),
        PREFERENCES,
        _texts,
        dialogues=("plain", "extra_id", "hh"),
    ),
    Form(
        "preference_messages",
        "{prompt: [{role, content}, ...], chosen_response | chosen: {role, content}, rejected... likewise}",
        (Key("prompt", MESSAGES), *_answers(_TURN), *REWARDS),
        PREFERENCES,
        _messages,
    ),
    Form(
        "preference_chats",
        "{prompt?: [{role, content}, ...], chosen: [{role, content}, ...], rejected: likewise}",
        (
            Key("prompt", MESSAGES, required=False),
            Key("chosen", MESSAGES),
            Key("rejected", MESSAGES),
            *REWARDS,
        ),
        PREFERENCES,
        _chats,
    ),
    Form(
        "sharegpt_preferences",
        "{conversations: [{from, value}, ...], chosen: {from, value}, rejected: {from, value}}",
        (Key("conversations", pa.list_(_SHARE)), Key("chosen", _SHARE), Key("rejected", _SHARE)),
        PREFERENCES,
        _share_gpt,
    ),
    Form(
        "alpaca_preferences",
        "{instruction, input?, chosen, rejected}",
        (*INSTRUCTION, *_answers(pa.string())),
        PREFERENCES,
        _alpaca,
    ),
    Form(
        "hh",
        "{chosen, rejected}: two transcripts with the same beginning",
        (Key("chosen", pa.string()), Key("rejected", pa.string())),
        PREFERENCES,
        _transcripts,
        dialogues=("plain", "hh", "extra_id"),
    ),
)
