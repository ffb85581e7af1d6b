"""A value of a row as HTML: conversations by turn, what is learnt of a text marked, long texts cut.

Whatever comes of rows is outside data: every text is escaped here, before it meets a tag of ours.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import pyarrow as pa

from schemas import MESSAGES, PIECES
from schemas.errors import escaped, printable
from schemas.schema import same_type

LONGEST = 4000
"""Characters of one cell that are shown."""

_LISTED = 12
_ROLES = {"system", "user", "assistant", "tool"}
NOTHING = '<span class="qv-none">-</span>'

Segment = tuple[str, bool]
"""A stretch of text, and whether it is learnt."""


def cell_of(kind: pa.DataType) -> Callable[[Any], str] | None:
    """What makes HTML of a value of this type; None for numbers, which stay numbers."""
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return None
    if same_type(kind, MESSAGES) or _is_turns(kind):
        return _or_nothing(_conversation)
    if same_type(kind, PIECES):
        return _or_nothing(lambda pieces: marked([(piece["text"], bool(piece["trained"])) for piece in pieces]))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _or_nothing(_text)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _or_nothing(_listed)
    return _or_nothing(_plain)


def marked(segments: Iterable[Segment]) -> str:
    """A text with what is learnt of it marked, as `quiver show --mask` has it."""
    parts, left = [], LONGEST
    for learnt, run in groupby(segments, key=itemgetter(1)):
        text = "".join(text for text, _ in run)
        shown, left = text[:left], left - len(text)
        parts.append(f"<mark>{_safe(shown)}</mark>" if learnt else _safe(shown))
        if left < 0:
            parts.append('<span class="qv-none"> …</span>')
            break
    return f'<div class="qv-text">{"".join(parts)}</div>'


def _is_turns(kind: pa.DataType) -> bool:
    """A list of structs with a role and a content, as queries make them too."""
    if not pa.types.is_list(kind) or not pa.types.is_struct(kind.value_type):
        return False
    return {"role", "content"} <= {field.name for field in kind.value_type}


def _or_nothing(shown: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda value: NOTHING if value is None else shown(value)


def _safe(text: object) -> str:
    return html.escape(escaped(str(text)))


def _text(text: str) -> str:
    more = f'<span class="qv-none"> … {len(text):,} characters</span>' if len(text) > LONGEST else ""
    return f'<div class="qv-text">{_safe(text[:LONGEST])}{more}</div>'


def _conversation(turns: Sequence[Mapping[str, Any]]) -> str:
    shown = []
    for turn in turns:
        role = str(turn["role"])
        kind = f"qv-{role}" if role in _ROLES else "qv-other"
        more = "".join(
            f'<div class="qv-aside">{_safe(name)}: {_safe(printable(turn[name], LONGEST))}</div>'
            for name in ("reasoning", "tool_calls")
            if turn.get(name)
        )
        unlearnt = " qv-unlearnt" if turn.get("weight") == 0 else ""
        head = f'<span class="qv-role">{_safe(printable(role))}</span>'
        shown.append(f'<div class="qv-turn {kind}{unlearnt}">{head}{more}{_text(turn["content"] or "")}</div>')
    return "".join(shown)


def _listed(values: Sequence[Any]) -> str:
    if values and not isinstance(values[0], int | float | None):
        return _plain(values)
    few = ", ".join("-" if one is None else f"{one:.6g}" for one in values[:_LISTED])
    more = f", … ({len(values):,})" if len(values) > _LISTED else ""
    return f"<code>{_safe(few + more)}</code>"


def _plain(value: Any) -> str:
    whole = isinstance(value, dict | list)
    return _text(json.dumps(value, default=str, ensure_ascii=False) if whole else str(value))
