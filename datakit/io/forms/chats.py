"""Whole conversations: message lists, and NeMo-Aligner's chats, whose `mask` names the role that is not
learnt.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.io.conversations import (
    any_turn,
    flat,
    grammar,
    messages,
    named,
    of_turns,
    starts,
    turn_column,
    with_system,
)
from datakit.io.forms.form import Built, Form
from datakit.io.parse import Key
from schemas import CHATS, MESSAGES, Column

TURN = pa.struct([("from", pa.string()), ("value", pa.string()), ("label", pa.string())])
LABELS = pa.list_(pa.string())

LABELLED = CHATS.adding(
    Column("labels", LABELS, "each turn's attribute text, null where it has none", nullable=True),
    Column("label_type", pa.string(), "VALUE_TO_TEXT: labels are given, TEXT_TO_VALUE: learnt", nullable=True),
).renamed("chats", key=("chat_id",))
"""Chats whose turns may carry attribute texts (SteerLM)."""


def _turns(raw: pa.Table, dialogue: str) -> Built:
    turns, faults = of_turns(flat(raw["messages"]))
    return Built({"messages": turns}, faults + grammar(turns, ends_with_user=False))


def _share_gpt(raw: pa.Table, dialogue: str) -> Built:
    turns, faults = of_turns(flat(raw["conversations"]), "from", "value")
    turns = with_system(pc.fill_null(flat(raw["system"]), ""), turns)
    return Built({"messages": turns}, faults + grammar(turns, ends_with_user=False))


def _masked(raw: pa.Table, dialogue: str) -> Built:
    rows, system = flat(raw["conversations"]), pc.fill_null(flat(raw["system"]), "")
    offsets, inner = starts(rows), rows.flatten()
    mask = pc.fill_null(flat(raw["mask"]), "User").take(pa.array(np.repeat(np.arange(len(rows)), np.diff(offsets))))
    names, texts = inner.field("from"), inner.field("value")
    asks = pc.fill_null(pc.equal(names, mask), False)
    tool = pc.fill_null(pc.equal(named(names), "tool"), False)
    roles = pc.if_else(asks, "user", pc.if_else(tool, "tool", "assistant"))
    turns = with_system(system, messages(offsets, turn_column(roles, pc.fill_null(texts, ""))))
    absent = np.asarray(pc.or_(pc.is_null(names), pc.is_null(texts)))
    kinds = pa.array(["VALUE_TO_TEXT", "TEXT_TO_VALUE"])
    unknown = np.asarray(pc.and_(pc.is_valid(raw["type"]), pc.invert(pc.is_in(raw["type"], kinds))))
    labels = _labels(system, offsets, inner.field("label"))
    faults = [(any_turn(offsets, absent), "turn-without-content"), (unknown, "unknown-label-type")]
    columns = {"messages": turns, "labels": labels, "label_type": flat(raw["type"])}
    return Built(columns, faults + grammar(turns, ends_with_user=False))


def _labels(system: pa.Array, offsets: np.ndarray, labels: pa.Array) -> pa.Array:
    """Labels of each row's turns, a null for the system turn; null where no turn of the row has one."""
    present = any_turn(offsets, np.asarray(pc.is_valid(labels)))
    has = np.asarray(pc.not_equal(system, ""))
    rows = labels.to_pylist() if present.any() else []
    values = [
        ([None] if has[row] else []) + rows[offsets[row] : offsets[row + 1]] if present[row] else None
        for row in range(len(system))
    ]
    return pa.array(values, LABELS)


_SYSTEM = Key("system", pa.string(), required=False)

FORMS = (
    Form("messages", "{messages: [{role, content}, ...]}", (Key("messages", MESSAGES),), CHATS, _turns),
    Form(
        "sharegpt",
        "{conversations: [{from, value}, ...], system?}",
        (Key("conversations", pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))), _SYSTEM),
        CHATS,
        _share_gpt,
    ),
    Form(
        "chats",
        "{system, conversations: [{from, value, label?}, ...], mask, type?, dataset?}",
        (
            _SYSTEM,
            Key("conversations", pa.list_(TURN)),
            Key("mask", pa.string(), required=False),
            Key("type", pa.string(), required=False),
            Key("dataset", pa.string(), required=False),
        ),
        LABELLED,
        _masked,
    ),
)
