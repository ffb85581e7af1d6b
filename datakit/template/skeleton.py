"""What a template writes around contents, per pattern of roles: rendered once with stand-ins, then joined by
columns.

Stand-ins are private strings in the contents' places. Cutting the rendered text at them separates what the
template wrote (where control tokens count) from what was given (where they never do). Renderings of the
conversation's beginnings tell which part of an assistant turn a model has to say itself: from where the open
header ends to where the turn ends.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from datakit.template.ending import closing, next_end
from datakit.template.sandbox import Conversation, Rendered, Sandbox
from schemas.end_tokens import TurnEnd

_CORE = "aZ\"<&\\'\n{{é"
_OPEN, _CLOSE = "\ue010", "\ue011"
_MARK = re.compile("\ue000([0-9]+)" + re.escape(_CORE) + "\ue001")
_ROLE = re.compile(r"[A-Za-z][A-Za-z_]{0,31}")


@dataclass(frozen=True)
class Part:
    """A stretch of text: what the template wrote (`text`), or content number `slot`; and whether it is
    learnt.
    """

    text: str
    slot: int
    trained: bool


@dataclass(frozen=True)
class Skeleton:
    """The parts of a rendering in order; which contents lose outer white space; whether contents were looked
    into.
    """

    parts: tuple[Part, ...] = ()
    left: frozenset[int] = frozenset()
    right: frozenset[int] = frozenset()
    looked: bool = False
    fault: str = ""
    told: str = ""

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


def skeleton(
    sandbox: Sandbox,
    roles: tuple[str, ...],
    blank: tuple[bool, ...],
    *,
    generation: bool,
    learn: str,
    ends: TurnEnd,
    control: re.Pattern[str] | None,
) -> Skeleton:
    """The skeleton of a pattern: its roles, and which contents are blank (those stay as they are: empty). `ends` and
    `control`: how the template ends a turn, and what matches control tokens (`datakit.template.ending`).
    """
    odd = [role for role in roles if not _ROLE.fullmatch(role)]
    if odd:
        return Skeleton(fault="unknown-role", told=f"{odd[0]!r} is no role")
    contents = tuple("" if empty else _stand_in(slot) for slot, empty in enumerate(blank))
    padded = tuple(f" \n{content}\n " if content else "" for content in contents)
    turns = [] if generation else [slot for slot, role in enumerate(roles) if role == "assistant"]
    turns = turns[-1:] if learn == "last" else turns
    whole = [Conversation(roles, contents, generation, probe=True), Conversation(roles, padded, generation)]
    heads = [Conversation(roles[:slot], contents[:slot], open=True) for slot in turns]
    tails = [Conversation(roles[: slot + 1], contents[: slot + 1]) for slot in turns]
    answers = sandbox.render([*whole, *heads, *tails])
    first, second = answers[:2]
    if first.fault:
        return Skeleton(fault=first.fault, told=first.told)
    raw = first.text
    missing = [slot for slot, content in enumerate(contents) if content and content not in raw]
    if missing:
        return Skeleton(fault="template-alters-contents", told=f"turn {missing[0]} does not come out as it is")
    spans = _marked(raw, ends, control)
    if spans is None:
        beginnings = zip(turns, answers[2 : 2 + len(turns)], answers[2 + len(turns) :], strict=True)
        spans = [_span(raw, slot, contents, head, tail, ends, control) for slot, head, tail in beginnings]
    elif generation or learn == "last":
        spans = [] if generation else spans[-1:]
    left, right, altered = _strips(second, contents)
    looked = first.looked or altered
    return Skeleton(_parts(raw, spans), left, right, looked)


def _stand_in(slot: int) -> str:
    return f"\ue000{slot}{_CORE}\ue001"


def _strips(padded: Rendered, contents: tuple[str, ...]) -> tuple[frozenset[int], frozenset[int], bool]:
    """Which contents came out without their leading and trailing white space; whether it cannot be told."""
    text = padded.text.replace(_OPEN, "").replace(_CLOSE, "")
    there = [slot for slot, content in enumerate(contents) if content]
    left = frozenset(slot for slot in there if f" \n{contents[slot]}" not in text)
    right = frozenset(slot for slot in there if f"{contents[slot]}\n " not in text)
    return left, right, bool(padded.fault) or any(contents[slot] not in text for slot in there)


def _marked(raw: str, ends: TurnEnd, control: re.Pattern[str] | None) -> list[tuple[int, int]] | None:
    """Spans between generation marks, if the template has them, and the turn's end where it stands behind the mark."""
    if _OPEN not in raw:
        return None
    opens = [match.start() for match in re.finditer(_OPEN, raw)]
    closes = [match.start() for match in re.finditer(_CLOSE, raw)]
    spans = []
    for start, end in zip(opens, closes, strict=True):
        closed = raw[start:end].rstrip().endswith(ends.stop) if ends.stop else True
        spans.append((start, end if closed else end + 1 + next_end(raw[end + 1 :], ends, control)))
    return spans


def _span(
    raw: str,
    slot: int,
    contents: tuple[str, ...],
    head: Rendered,
    tail: Rendered,
    ends: TurnEnd,
    control: re.Pattern[str] | None,
) -> tuple[int, int]:
    """What a model has to say in turn `slot`: from the end of the open header to the end of the turn's
    closing mark.
    """
    at = raw.find(contents[slot]) if contents[slot] else len(head.text)
    end = at + len(contents[slot])
    opened = not head.fault and raw.startswith(head.text) and len(head.text) <= at
    start = len(head.text) if opened else at
    if not (contents[slot] or opened):
        return start, end
    closed = tail.text.partition(contents[slot])[2] if contents[slot] else tail.text[end:]
    following = _MARK.search(raw, end)
    return start, end + closing(raw[end : following.start() if following else len(raw)], closed, ends, control)


def _parts(raw: str, spans: list[tuple[int, int]]) -> tuple[Part, ...]:
    """The text cut at stand-ins and at the ends of spans; generation marks left out."""
    parts: list[Part] = []
    slots = {match.start(): (match.end(), int(match.group(1))) for match in _MARK.finditer(raw)}
    cuts = sorted({0, len(raw), *slots, *(end for end, _ in slots.values()), *(at for span in spans for at in span)})
    inside = [(at, end) for at, (end, _) in slots.items()]
    cuts = [cut for cut in cuts if not any(at < cut < end for at, end in inside)]
    for at, end in pairwise(cuts):
        trained = any(start <= at and end <= stop for start, stop in spans)
        if at in slots:
            parts.append(Part("", slots[at][1], trained))
        elif text := raw[at:end].replace(_OPEN, "").replace(_CLOSE, ""):
            parts.append(Part(text, -1, trained))
    return tuple(parts)
