"""A reply that came in pieces (server-sent events), put together: what the same server gives when it answers at once.

So an answer does not depend on how it came. A stream that breaks off, or says that something went wrong, is no answer,
and is asked for again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from schemas.untrusted import strict_json

TYPE = "text/event-stream"
_END = b"[DONE]"
_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")
_OF_ALL = ("model", "system_fingerprint", "usage")


class BrokenOff(Exception):
    """The stream ends before its end, or says why it does."""


def put_together(data: bytes) -> dict[str, Any]:
    """The reply whose pieces `data` holds; `BrokenOff` for less than all of it, `ValueError` for pieces of none."""
    whole: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    ended = False
    for event in _events(data):
        if event == _END:
            ended = True
            break
        piece = strict_json(event)
        if not isinstance(piece, dict):
            raise ValueError("a piece is no object")
        if piece.get("error") is not None:
            fault = piece["error"]
            raise BrokenOff(str(fault.get("message", fault)) if isinstance(fault, dict) else str(fault))
        whole |= {name: piece[name] for name in _OF_ALL if piece.get(name) is not None}
        for choice in piece.get("choices") or ():
            _add(choices.setdefault(choice.get("index", 0), {}), choice)
    if not ended:
        raise BrokenOff("the stream ended before its end")
    return {**whole, "choices": [{"index": index, **choice} for index, choice in sorted(choices.items())]}


def _events(data: bytes) -> Iterator[bytes]:
    """What stands behind `data:`, event by event: its lines up to an empty one; comments and other fields are none."""
    lines: list[bytes] = []
    for line in [*data.splitlines(), b""]:
        if line.startswith(b"data:"):
            lines.append(line.removeprefix(b"data:").strip())
        elif not line and lines:
            yield b"\n".join(lines)
            lines = []


def _add(choice: dict[str, Any], piece: Mapping[str, Any]) -> None:
    """Add a piece to its choice; `ValueError` for one behind its end."""
    if choice.get("finish_reason") is not None:
        raise ValueError("a choice goes on behind its end")
    choice["finish_reason"] = piece.get("finish_reason")
    _append(choice, "text", piece.get("text"))
    if isinstance(delta := piece.get("delta"), dict):
        message = choice.setdefault("message", {})
        for name in _TEXTS:
            _append(message, name, delta.get(name))
        _append(message, "tool_calls", delta.get("tool_calls"))
    _append(choice, "token_ids", piece.get("token_ids"))
    if isinstance(listed := piece.get("logprobs"), dict):
        _append(choice.setdefault("logprobs", {}), "token_logprobs", listed.get("token_logprobs"))


def _append(holder: dict[str, Any], name: str, more: Any) -> None:
    """A text behind a text, a list behind a list; `TypeError` for one behind the other."""
    if more is not None:
        holder[name] = holder[name] + more if name in holder else more
