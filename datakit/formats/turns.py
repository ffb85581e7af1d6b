"""Turns as public sets write them, one by one: names of keys, text parts, tool calls, reasoning, weights.

What changes what is learnt is read, or refused by a reason of its own; what does not is noted by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import messages, starts, turn_column

ROLE_CONTENT = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
FROM_VALUE = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))

_TEXT_PARTS = ("text", "input_text", "output_text")
_REASONING = ("reasoning_content", "reasoning", "thinking")
_FLAGS = ("train", "trainable", "train_on_turn")
_WEIGHTS = ("weight", "loss_weight")
_REFUSED = ("mask", "masked", "loss_mask", "images", "audio", "prefix")
_READ = {
    "role", "from", "content", "value", "tool_calls", "function_call", "tool_call_id",
    *_REASONING, *_FLAGS, *_WEIGHTS,
}  # fmt: skip
_TWO_NAMES = (("role", "from"), ("content", "value"), ("tool_calls", "function_call"), _REASONING)
"""Names of one thing, of which the first one that says something is read."""
_LEARNT = {"assistant", "gpt", "model", "chatbot", "bot", "function_call"}


class InvalidValue(Exception):
    """A value that a row cannot be made of: the reason, and what would have been right."""

    def __init__(self, reason: str, expected: str) -> None:
        super().__init__(reason, expected)
        self.reason, self.expected = reason, expected


def is_empty(value: Any) -> bool:
    """Whether a value says nothing."""
    return value is None or value in ("", [], {})


def clean(text: str) -> str:
    """`text` as it is; `InvalidValue` for a NUL or half of a surrogate pair in it."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidValue("bad-text", "text that UTF-8 can write") from error
    if "\x00" in text:
        raise InvalidValue("bad-text", "text without NUL")
    return text


def joined_parts(parts: list[Any]) -> str:
    """The text parts of a content, joined; `InvalidValue` for a part of another type."""
    texts = []
    for part in parts:
        if isinstance(part, Mapping):
            kind = part.get("type")
            if kind not in (None, *_TEXT_PARTS):
                raise InvalidValue("content-part", f"text parts, not one of type {str(kind)[:40]}")
            text, *more = [part[name] for name in ("text", "value") if part.get(name) is not None] or [None]
            if any(other != text for other in more):
                raise InvalidValue("content-part", "text parts of one text each")
        else:
            text = part
        if not isinstance(text, str):
            raise InvalidValue("wrong-type", "text, or a list of text parts")
        texts.append(clean(text))
    return "".join(texts)


def read_turns(value: Any, left: set[str], role: str) -> list[dict[str, Any]]:
    """The turns of a list of messages, of one message, or (with `role`) of a text, which is a turn of that role."""
    if isinstance(value, str) and role:
        return [{"role": role, "content": clean(value)}]
    if isinstance(value, Mapping) and role:
        value = [value]
    if not isinstance(value, list):
        raise InvalidValue("wrong-type", "text, or a list of messages" if role else "a list of messages")
    if role and value and all(_is_part(part) for part in value):
        return [{"role": role, "content": joined_parts(value)}]
    return [_turn(turn, left) for turn in value]


def _is_part(part: Any) -> bool:
    return isinstance(part, Mapping) and "role" not in part and "from" not in part and part.get("type") in _TEXT_PARTS


def _turn(turn: Any, left: set[str]) -> dict[str, Any]:
    if not isinstance(turn, Mapping):
        raise InvalidValue("wrong-type", "messages of role and content")
    role, content = _first(turn, ("role", "from")), _first(turn, ("content", "value"))
    if role is not None and not isinstance(role, str):
        raise InvalidValue("wrong-type", "a role that is text")
    if isinstance(content, list):
        content = joined_parts(content)
    elif content is not None and not isinstance(content, str):
        raise InvalidValue("wrong-type", "a content that is text, or a list of text parts")
    calls = _calls(turn, role, content)
    if calls is not None:
        content = "" if role == "function_call" else content or ""
    for name in turn:
        if name not in _READ and not is_empty(turn[name]):
            if name in _REFUSED:
                raise InvalidValue("key-not-read", f"turns without {name}")
            left.add(f"turns' {clean(name)}")
    for names in _TWO_NAMES:
        first, *others = [name for name in names if not is_empty(turn.get(name))] or [""]
        left.update(f"turns' {name}" for name in others if turn[name] != turn[first])
    return {
        "role": None if role is None else clean(role),
        "content": None if content is None else clean(content),
        "tool_calls": calls,
        "tool_call_id": _some_text(turn, ("tool_call_id",)),
        "reasoning": _some_text(turn, _REASONING),
        "weight": _weight(turn, role),
    }


def _first(turn: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    given = [turn[name] for name in names if turn.get(name) is not None]
    return next((value for value in given if not is_empty(value)), given[0] if given else None)


def _some_text(turn: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    value = _first(turn, names)
    if isinstance(value, list):
        return joined_parts(value) or None
    if value is not None and not isinstance(value, str):
        raise InvalidValue("wrong-type", f"{names[0]} that is text")
    return clean(value) if value else None


def _calls(turn: Mapping[str, Any], role: str | None, content: str | None) -> str | None:
    """The tool calls as compact JSON text, keys as they come (templates write them
    in that order): a list, its JSON text, one old `function_call`, or a turn that is one.
    """
    calls = turn.get("tool_calls")
    if not calls and turn.get("function_call"):
        calls = [{"type": "function", "function": turn["function_call"]}]
    elif not calls and role == "function_call":
        calls = _called(content)
    if isinstance(calls, str):
        try:
            calls = json.loads(calls)
        except ValueError as error:
            raise InvalidValue("broken-json", "tool_calls, a list or its JSON text") from error
    if not calls:
        return None
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        raise InvalidValue("wrong-type", "tool_calls, a list of calls")
    return clean(json.dumps(calls, ensure_ascii=False, separators=(",", ":"), allow_nan=False))


def _called(content: str | None) -> list[dict[str, Any]] | None:
    """The calls that a content writes out as JSON; None where it is some other text."""
    try:
        given = json.loads(content or "")
    except ValueError:
        return None
    calls = given if isinstance(given, list) else [given]
    if not all(isinstance(call, Mapping) and "name" in call for call in calls):
        return None
    return [{"type": "function", "function": dict(call)} for call in calls]


def _weight(turn: Mapping[str, Any], role: str | None) -> float | None:
    """0 or 1, None where nothing is said; `InvalidValue` for a fraction, for a user's turn that is to be learnt, and
    where two names say different things.
    """
    weights = {name: turn[name] for name in (*_WEIGHTS, *_FLAGS) if turn.get(name) is not None}
    if any(name in _FLAGS and not isinstance(flag, bool) for name, flag in weights.items()):
        raise InvalidValue("wrong-type", "a train flag that is true or false")
    if not weights:
        return None
    value, *others = weights.values()
    if any(other != value for other in others):
        raise InvalidValue("two-weights", f"{' and '.join(weights)} that say the same")
    if not isinstance(value, int | float):
        raise InvalidValue("wrong-type", "a weight of 0 or 1")
    if value not in (0, 1):
        raise InvalidValue("fractional-weight", "a weight of 0 or 1")
    if value and (role or "").strip().lower() not in _LEARNT:
        raise InvalidValue("learns-other-role", "weights above 0 on assistant turns alone")
    return float(value)


def turns_column(turns: pa.Array, role: str, content: str) -> pa.Array:
    """MESSAGES of a column of plain turns whose fields have these names; roles stay as they are written."""
    inner = turns.flatten()
    column = messages(starts(turns), turn_column(inner.field(role), inner.field(content)))
    return pc.if_else(turns.is_valid(), column, None) if turns.null_count else column


def sides(texts: pa.Array, role: str) -> pa.Array:
    """MESSAGES of one turn a row; null where there is no text."""
    offsets = pa.array(range(len(texts) + 1), pa.int32())
    column = messages(offsets.to_numpy(), turn_column(role, texts))
    return pc.if_else(texts.is_valid(), column, None) if texts.null_count else column


def as_list(turns: pa.Array) -> pa.Array:
    """A list of one turn for each row; null where there is none."""
    offsets = pa.array(range(len(turns) + 1), pa.int32())
    column = pa.ListArray.from_arrays(offsets, turns)
    return pc.if_else(turns.is_valid(), column, None) if turns.null_count else column
