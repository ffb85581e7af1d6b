"""Fields of a request's JSON: each is read by name and type, and what nobody has read is refused by name."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.errors import printable
from schemas.nearest import suggestion


class RequestError(Exception):
    """A request that cannot be answered, in the OpenAI dialect: a status, words, the field (`param`), a code."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass
class Fields:
    """The fields of `body`; null is as if a field were not there."""

    body: Mapping[str, Any]
    within: str = ""
    read: set[str] = field(default_factory=set)

    @staticmethod
    def of(body: Any, within: str = "") -> Fields:
        """`RequestError` for a body that is no object."""
        if not isinstance(body, dict):
            raise RequestError(f"{within or 'the body'} is no JSON object", param=within or None)
        return Fields(body, within)

    def any(self, name: str) -> Any:
        """The value as it is, or None."""
        self.read.add(name)
        return self.body.get(name)

    def number(self, name: str, default: float, least: float, most: float = float("inf")) -> float:
        """A number within these bounds, or the default."""
        value = self.any(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(name, f"is no number: {printable(value, 40)}")
        if not least <= value <= min(most, sys.float_info.max):
            raise self.wrong(name, f"is {printable(value, 24)}, expected from {least:g} to {most:g}")
        return float(value)

    def integer(self, name: str, default: int | None, least: int, most: int) -> int | None:
        """A whole number within bounds; true and false count as 1 and 0 where both fit."""
        value = self.any(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(name, f"is no whole number: {printable(value, 40)}")
        if not least <= value <= most:
            raise self.wrong(name, f"is {printable(value, 24)}, expected from {least} to {most}")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """Whether it is true; `RequestError` for what is neither true nor false."""
        value = self.any(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, f"is neither true nor false: {printable(value, 40)}")
        return value

    def text(self, name: str) -> str | None:
        """A text, or None where there is none."""
        value = self.any(name)
        if value is not None and not is_text(value):
            raise self.wrong(name, f"is no text: {printable(value, 40)}")
        return value

    def texts(self, name: str, most: int) -> tuple[str, ...]:
        """A text or a list of them, none of which is empty."""
        value = self.any(name)
        listed = [] if value is None else value if isinstance(value, list) else [value]
        if len(listed) > most or not all(is_text(one) and one for one in listed):
            raise self.wrong(name, f"is no list of at most {most} texts: {printable(value, 40)}")
        return tuple(listed)

    def ids(self, name: str, size: int) -> tuple[int, ...]:
        """A list of token ids below `size`."""
        value = self.any(name)
        if value is None:
            return ()
        if not are_ids(value, size):
            raise self.wrong(name, f"is no list of token ids in 0 .. {size - 1}: {printable(value, 40)}")
        return tuple(value)

    def neutral(self, **values: Collection[Any]) -> None:
        """`RequestError` for a field that would change answers and that nobody heeds, unless it has one of these
        values.
        """
        for name, allowed in values.items():
            value = self.any(name)
            if value is not None and not any(value == one and type(value) is type(one) for one in allowed):
                raise self.wrong(name, f"is {printable(value, 40)}, which this server does not do")

    def ignored(self, *names: str) -> None:
        """Fields that change no answer."""
        self.read |= {*names}

    def end(self) -> None:
        """`RequestError` for a field that nobody has read."""
        others = [name for name, value in self.body.items() if name not in self.read and value is not None]
        if others:
            near = suggestion(others[0], sorted(self.read))
            raise self.wrong(others[0], f"is no field of this request{near}", code="unknown_field")

    def wrong(self, name: str, what: str, code: str | None = None) -> RequestError:
        """The error of the field `name`."""
        where = f"{self.within}.{name}" if self.within else name
        return RequestError(f"{printable(where)} {what}", param=where[:80], code=code)


def is_text(value: object) -> bool:
    """Whether it is text that can be written down."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def are_ids(value: object, size: int) -> bool:
    """Whether it is a list of token ids below `size`, with one at least."""
    return isinstance(value, list) and bool(value) and all(type(one) is int and 0 <= one < size for one in value)


def turns(fields: Fields) -> Sequence[Mapping[str, Any]]:
    """The `messages` of a request: role and content as text, parts of type text joined."""
    listed = fields.any("messages")
    if not isinstance(listed, list) or not listed:
        raise fields.wrong("messages", "is no list of messages")
    return [_turn(Fields.of(one, f"messages[{at}]")) for at, one in enumerate(listed)]


def _turn(fields: Fields) -> Mapping[str, Any]:
    role, text = fields.text("role"), fields.any("content")
    if role not in ("system", "developer", "user", "assistant", "tool"):
        raise fields.wrong("role", f"is none of system, user, assistant, tool: {printable(role, 40)}")
    calls = fields.any("tool_calls")
    if calls is not None and not isinstance(calls, list):
        raise fields.wrong("tool_calls", "is no list")
    if isinstance(text, list):
        parts = [Fields.of(one, f"{fields.within}.content[{at}]") for at, one in enumerate(text)]
        for part in parts:
            if part.text("type") != "text" or part.text("text") is None:
                raise part.wrong("type", "is not text: this server reads text alone")
        text = "".join(part.body["text"] for part in parts)
    if text is None and calls:
        text = ""
    if not is_text(text):
        raise fields.wrong("content", f"is no text: {printable(text, 40)}")
    fields.ignored("name", "refusal")
    thought = fields.text("reasoning_content") or fields.text("reasoning")
    turn = {"role": "system" if role == "developer" else role, "content": text, "tool_calls": calls}
    turn |= {"tool_call_id": fields.text("tool_call_id"), "reasoning_content": thought}
    fields.end()
    return turn
