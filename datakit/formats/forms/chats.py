"""Whole conversations: message lists, and NeMo-Aligner's chats, whose `mask` names the role that is not
learnt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import any_turn, flat, grammar, messages, named, starts, turn_column, with_system
from datakit.formats.forms.form import SYSTEM, TOOLS, Built, Form
from datakit.formats.forms.prompts import conversation
from datakit.formats.keys import TEXT, TURNS, Key, Left, Shape
from datakit.formats.turns import InvalidValue, clean
from schemas import CHATS, Column
from schemas.rows.chats import GIVEN_LABELS, LEARNT_LABELS

_TURN = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string()), ("label", pa.string())]))
LABELS = pa.list_(pa.string())

LABELLED = CHATS.adding(
    Column("labels", LABELS, "each turn's attribute text, null where it has none", nullable=True),
    Column("label_type", pa.string(), f"{GIVEN_LABELS}: labels are given, {LEARNT_LABELS}: learnt", nullable=True),
    Column("turn_names", LABELS, "each turn's name in the file, null where it is that of its role", nullable=True),
).renamed("chats", version=CHATS.version, key=("chat_id",))
"""Chats whose turns may carry attribute texts (SteerLM)."""


def _labelled_turns(value: Any, left: Left) -> list[dict[str, str | None]]:
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        raise InvalidValue("wrong-type", "a list of {from, value, label?}")
    rows = []
    for turn in value:
        row = {name: turn.get(name) for name in ("from", "value", "label")}
        if any(text is not None and not isinstance(text, str) for text in row.values()):
            raise InvalidValue("wrong-type", "texts in from, value and label")
        rows.append({name: None if text is None else clean(text) for name, text in row.items()})
        left.update(f"turns' {clean(name)}" for name in turn if name not in row and turn[name] is not None)
    return rows


_LABELLED_TURNS = Shape("a list of {from, value, label?}", _TURN, _labelled_turns, ((_TURN, None),))


def _chat(raw: pa.Table, dialogue: str) -> Built:
    built = conversation(raw, "messages")
    return Built(built.columns, built.faults + grammar(built.columns["messages"], ends_with_user=False))


def _masked(raw: pa.Table, dialogue: str) -> Built:
    """Turns under the role of their name (one that is not known: the user's where masked, else the assistant's); the
    weight says where `mask` learns something else of a role than its usual.
    """
    rows, system = flat(raw["conversations"]), pc.fill_null(flat(raw["system"]), "")
    offsets, inner = starts(rows), rows.flatten()
    mask = pc.fill_null(flat(raw["mask"]), "User").take(pa.array(np.repeat(np.arange(len(rows)), np.diff(offsets))))
    names, texts = inner.field("from"), pc.fill_null(inner.field("value"), "")
    asks = pc.fill_null(pc.equal(names, mask), False)
    role = named(names)
    tool = pc.fill_null(pc.equal(role, "tool"), False)
    learnt_as = pc.if_else(asks, "user", pc.if_else(tool, "tool", "assistant"))
    inside = np.asarray(pc.fill_null(pc.equal(role, "system"), False))
    roles = pc.coalesce(role, learnt_as)
    usual = pc.or_(pc.equal(roles, learnt_as), pc.equal(roles, "tool"))
    weights = pc.if_else(usual, None, pc.if_else(asks, 0.0, 1.0))
    turns = with_system(system, messages(offsets, turn_column(roles, texts, weight=weights)))
    absent = np.asarray(pc.or_(pc.is_null(names), pc.is_null(inner.field("value"))))
    kinds = pa.array([GIVEN_LABELS, LEARNT_LABELS])
    unknown = np.asarray(pc.and_(pc.is_valid(raw["type"]), pc.invert(pc.is_in(raw["type"], kinds))))
    own = pc.if_else(pc.equal(names, pc.utf8_capitalize(roles)), None, names)
    columns = {
        "messages": turns,
        "tools": flat(raw["tools"]),
        "labels": _per_turn(system, offsets, inner.field("label")),
        "label_type": flat(raw["type"]),
        "turn_names": _per_turn(system, offsets, own),
    }
    faults = [
        (any_turn(offsets, absent), "turn-without-content"),
        (unknown, "unknown-label-type"),
        (any_turn(offsets, inside), "system-turn-inside"),
    ]
    learning = with_system(system, messages(offsets, turn_column(learnt_as, texts)))
    return Built(columns, faults + grammar(learning, ends_with_user=False))


def _per_turn(system: pa.Array, offsets: np.ndarray, texts: pa.Array) -> pa.Array:
    """Texts of each row's turns, a null for the system turn; null where no turn of the row has one."""
    present = any_turn(offsets, np.asarray(pc.is_valid(texts)))
    has = np.asarray(pc.not_equal(system, ""))
    rows = texts.to_pylist() if present.any() else []
    values = [
        ([None] if has[row] else []) + rows[offsets[row] : offsets[row + 1]] if present[row] else None
        for row in range(len(system))
    ]
    return pa.array(values, LABELS)


def _optional(name: str) -> Key:
    return Key(name, TEXT, required=False)


FORMS = (
    Form(
        "messages",
        "{messages | conversations: [{role, content}, ...], system?, tools?}",
        (Key("messages", TURNS, aliases=("conversations",)), SYSTEM, TOOLS),
        CHATS,
        _chat,
    ),
    Form(
        "sharegpt",
        "{conversations: [{from, value}, ...], system?, tools?}",
        (Key("messages", TURNS, aliases=("conversations",)), SYSTEM, TOOLS),
        CHATS,
        _chat,
    ),
    Form(
        "chats",
        "{system?, conversations: [{from, value, label?}, ...], mask?, type?, dataset?, tools?}",
        (
            SYSTEM,
            Key("conversations", _LABELLED_TURNS),
            _optional("mask"),
            _optional("type"),
            _optional("dataset"),
            TOOLS,
        ),
        LABELLED,
        _masked,
    ),
)
