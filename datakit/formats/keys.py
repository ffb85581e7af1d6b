"""What a key of a record may hold: shapes that read one value in every way in which public sets write it.

A shape has one column type and any number of ways to write it: a text is a string or a list of text parts, a
conversation a text or a list of turns. `read` takes one value as JSON gives it; `columns` are the ways that Arrow reads
a block at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from datakit.formats.turns import (
    FROM_VALUE,
    ROLE_CONTENT,
    InvalidValue,
    as_list,
    clean,
    is_empty,
    joined_parts,
    read_turns,
    sides,
    turns_column,
)
from schemas import MESSAGES

Left = set[str]
"""Names of what was there and not read."""

Columns = tuple[tuple[pa.DataType, Callable[[pa.Array], pa.Array] | None], ...]


class Literal(float):
    """A number that remembers how it was written."""

    text: str

    def __new__(cls, text: str) -> Literal:
        """The number that `text` writes."""
        number = super().__new__(cls, text)
        number.text = text
        return number


@dataclass(frozen=True)
class Shape:
    """A name for error texts, the column's type, how one value is read, and the types that whole columns are read
    as, with what makes the column's type of them (None: nothing needed).
    """

    name: str
    type: pa.DataType
    read: Callable[[Any, Left], Any]
    columns: Columns = ()


@dataclass(frozen=True)
class Key:
    """A key of a record: its shape, whether a row must hold it, the other names it goes by, or the one name or
    dotted path given.
    """

    name: str
    shape: Shape
    required: bool = True
    aliases: tuple[str, ...] = ()
    mapped: str = ""
    carried: bool = False
    """Whether it is no key of the format, but one of the file that is carried along."""

    @property
    def column(self) -> str:
        """Its column among those that a record is read as: what is carried along may be named as a key is."""
        return f"carried.{self.name}" if self.carried else self.name

    @property
    def names(self) -> tuple[str, ...]:
        """The names it is looked for under; the first one with a value wins."""
        return (self.mapped,) if self.mapped else (self.name, *self.aliases)

    def value_in(self, record: Mapping[str, Any]) -> tuple[str, Any]:
        """The name under which the record has a value, and the value; an empty name where it has none."""
        for name in self.names:
            value = record.get(name)
            if value is None and "." in self.mapped:
                value = _at_path(record, self.mapped)
            if value is not None:
                return name, value
        return "", None

    def passed_over(self, record: Mapping[str, Any]) -> list[str]:
        """The names after the first one with a value that have another value."""
        first, value = self.value_in(record)
        others = self.names[self.names.index(first) + 1 :] if first else ()
        return [name for name in others if not is_empty(record.get(name)) and record[name] != value]

    @property
    def roots(self) -> tuple[str, ...]:
        """The names at the top of a record that it reads."""
        return tuple(name.split(".")[0] for name in self.names) + self.names


def _at_path(record: Any, path: str) -> Any:
    for part in path.split("."):
        if isinstance(record, list) and part.lstrip("-").isdigit():
            record = record[int(part)] if -len(record) <= int(part) < len(record) else None
        else:
            record = record.get(part) if isinstance(record, Mapping) else None
    return record


def compact(value: Any, sort_keys: bool = False) -> str:
    """JSON text without blanks; keys as they come, or sorted."""
    try:
        return json.dumps(
            value, ensure_ascii=False, sort_keys=sort_keys, separators=(",", ":"), allow_nan=False, default=str
        )
    except ValueError as error:
        raise InvalidValue("not-finite", "finite numbers") from error


def _text(value: Any, left: Left) -> str:
    if isinstance(value, list):
        return joined_parts(value)
    if not isinstance(value, str):
        raise InvalidValue("wrong-type", "text, or a list of text parts")
    return clean(value)


def _literal(value: Any, left: Left) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _text(value, left)
    if not math.isfinite(value):
        raise InvalidValue("not-finite", "a finite number")
    return value.text if isinstance(value, Literal) else str(value)


def _number(value: Any, left: Left) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidValue("wrong-type", "a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidValue("not-finite", "a finite number")
    return number


def _whole_number(value: Any, left: Left) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 31:
        raise InvalidValue("wrong-type", "a whole number")
    return value


def _flag(value: Any, left: Left) -> bool:
    if not isinstance(value, bool):
        raise InvalidValue("wrong-type", "true or false")
    return value


def _list_of(read: Callable[[Any, Left], Any]) -> Callable[[Any, Left], list[Any]]:
    def every(value: Any, left: Left) -> list[Any]:
        if not isinstance(value, list):
            raise InvalidValue("wrong-type", "a list")
        return [None if item is None else read(item, left) for item in value]

    return every


def _tools(value: Any, left: Left) -> str | None:
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else []
        except ValueError as error:
            raise InvalidValue("broken-json", "a list of tools, or its JSON text") from error
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise InvalidValue("wrong-type", "a list of tools, or its JSON text")
    return clean(compact(value)) if value else None


def _history(value: Any, left: Left) -> list[dict[str, Any]]:
    turns = []
    for pair in value if isinstance(value, list) else [None]:
        if not isinstance(pair, list) or len(pair) != 2:
            raise InvalidValue("wrong-type", "a list of [question, answer]")
        turns += [{"role": role, "content": _text(text, left)} for role, text in zip(_ROLES, pair, strict=True)]
    return turns


_ROLES = ("user", "assistant")

_CHATS: Columns = (
    (ROLE_CONTENT, lambda turns: turns_column(turns, "role", "content")),
    (FROM_VALUE, lambda turns: turns_column(turns, "from", "value")),
)

_SINGLE: Columns = (
    (ROLE_CONTENT.value_type, lambda turn: turns_column(as_list(turn), "role", "content")),
    (FROM_VALUE.value_type, lambda turn: turns_column(as_list(turn), "from", "value")),
)


def _conversation(name: str, role: str) -> Shape:
    """A list of turns, one turn, or a text that is a turn of `role`."""
    return Shape(
        name,
        MESSAGES,
        lambda value, left: read_turns(value, left, role),
        (*_CHATS, *_SINGLE, (pa.string(), lambda texts: sides(texts, role))),
    )


TEXT = Shape("text", pa.string(), _text, ((pa.string(), None),))
LITERAL = Shape("text or a number", pa.string(), _literal, ((pa.string(), None),))
NUMBER = Shape("a number", pa.float64(), _number, ((pa.float64(), None),))
INDEX = Shape("a whole number", pa.int32(), _whole_number, ((pa.int32(), None),))
FLAG = Shape("true or false", pa.bool_(), _flag, ((pa.bool_(), None),))
NUMBERS = Shape("a list of numbers", pa.list_(pa.float64()), _list_of(_number), ((pa.list_(pa.float64()), None),))
TEXTS = Shape("a list of texts", pa.list_(pa.string()), _list_of(_text))
FLAGS = Shape("a list of true and false", pa.list_(pa.bool_()), _list_of(_flag))
TOOL_LIST = Shape("a list of tools, or its JSON text", pa.string(), _tools)
HISTORY = Shape("a list of [question, answer]", MESSAGES, _history)
TURNS = Shape("a list of messages", MESSAGES, lambda value, left: read_turns(value, left, ""), _CHATS)
QUESTION = _conversation("text, or a list of messages", "user")
ANSWER = _conversation("text, a message, or a list of messages", "assistant")

KEPT: Mapping[str, Shape] = {
    "string": TEXT,
    "bool": FLAG,
    "double": NUMBER,
    "int64": Shape("a whole number", pa.int64(), lambda value, left: value, ((pa.int64(), None),)),
    "json": Shape("anything", pa.string(), lambda value, left: clean(compact(value, sort_keys=True))),
}
"""Shapes of columns that are carried along, by the name of their type."""
