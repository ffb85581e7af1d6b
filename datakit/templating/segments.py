"""What a template writes around contents, per pattern of roles: rendered once with stand-ins, then joined by
columns.

Stand-ins are private strings in the contents' places. Cutting the rendered text where they come out separates what the
template wrote from what was given. What a model has to say itself of it, `datakit.templating.learnt` tells.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from datakit.templating.learnt import (
    CLOSE,
    OPEN,
    LossTurns,
    Part,
    Turns,
    beginnings,
    has_marks,
    parts_of,
    spans_of,
    too_many,
)
from datakit.templating.sandbox import Conversation, Rendered, Sandbox

_CORE = "aZ\"<&\\'\n{{é"
_MARKED = re.compile(rf"\ue000([0-9]+){re.escape(_CORE)}\ue001")
_ROLE = re.compile(r"[A-Za-z][A-Za-z_]{0,31}")


@dataclass(frozen=True)
class Segments:
    """The parts of a rendering in order; which contents lose outer white space; whether contents were looked
    into, or come out other than they are (`alters`: then there are no parts).
    """

    parts: tuple[Part, ...] = ()
    left: frozenset[int] = frozenset()
    right: frozenset[int] = frozenset()
    looked: bool = False
    alters: bool = False
    fault: str = ""
    detail: str = ""

    def contents(self, given: Sequence[str]) -> list[str]:
        """The contents as the template writes them."""
        return [self.stripped(slot, [content])[0] for slot, content in enumerate(given)]

    def stripped(self, slot: int, contents: Sequence[str]) -> Sequence[str]:
        """Contents of one slot as the template writes them; by Python's `strip`, which is what Jinja
        calls.
        """
        if slot in self.left and slot in self.right:
            return [content.strip() for content in contents]
        if slot in self.left:
            return [content.lstrip() for content in contents]
        return [content.rstrip() for content in contents] if slot in self.right else contents

    def text(self, given: Sequence[str]) -> str:
        """The rendering of these contents, if contents do nothing but stand in their places."""
        contents = self.contents(given)
        return "".join(part.text if part.slot < 0 else contents[part.slot] for part in self.parts)


def segments_of(sandbox: Sandbox, turns: Turns, blank: tuple[bool, ...], loss_turns: LossTurns) -> Segments:
    """The segments of a pattern: its turns, and which contents are blank (those stay as they are: empty)."""
    if fault := odd_role(turns.roles):
        return Segments(fault="unknown-role", detail=fault)
    contents = tuple("" if empty else f"\ue000{slot}{_CORE}\ue001" for slot, empty in enumerate(blank))
    padded = tuple(f" \n{content}\n " if content else "" for content in contents)
    whole = Conversation.of(turns.roles, contents, loss_turns.generation, traced=True)
    bare = Conversation.of(turns.roles, padded, loss_turns.generation)
    first, second = sandbox.render([whole, bare])
    if first.fault:
        return Segments(fault=first.fault, detail=first.detail, looked=first.looked)
    out = [(first.text[start:end], slot) for start, end, slot in first.runs]
    if {slot for _, slot in out} != {slot for slot, empty in enumerate(blank) if not empty} or any(
        text != contents[slot] for text, slot in out
    ):
        return Segments(alters=True, looked=True)
    learnt = [] if has_marks(first) else loss_turns.learnt(turns)
    if detail := too_many(whole, learnt):
        return Segments(fault="too-many-turns", detail=detail)
    left, right, altered = _strips(second, contents)
    spans, over = spans_of(first, sandbox.stream(beginnings(whole, learnt)), turns, loss_turns)
    if over is not None:
        return Segments(fault=over.fault, detail=over.detail)
    return Segments(parts_of(first, spans), left, right, first.looked or altered)


def odd_role(roles: Sequence[str]) -> str:
    """What is wrong with the first role that is none; empty if all are."""
    return next((f"{role!r} is no role" for role in roles if not _ROLE.fullmatch(role)), "")


def _strips(padded: Rendered, contents: tuple[str, ...]) -> tuple[frozenset[int], frozenset[int], bool]:
    """Which contents came out without their leading and trailing white space; whether that is unknown."""
    text = padded.text.replace(OPEN, "").replace(CLOSE, "")
    there = [slot for slot, content in enumerate(contents) if content]
    seen, left, right = set(), {*there}, {*there}
    for mark in _MARKED.finditer(text):
        slot, (start, end) = int(mark[1]), mark.span()
        seen.add(slot)
        if text.endswith(" \n", 0, start):
            left.discard(slot)
        if text.startswith("\n ", end):
            right.discard(slot)
    return frozenset(left), frozenset(right), bool(padded.fault) or not seen.issuperset(there)
