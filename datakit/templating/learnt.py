"""A traced rendering cut into parts: what the template wrote (where control tokens count), what was given (where they
never do), and which of both a model has to say itself.

That is what stands between generation marks, where the template has them. Where it has none, renderings of the
conversation's beginnings tell: from where the open header of an assistant turn ends to where the turn ends.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from datakit.templating.ending import closing, next_end
from datakit.templating.sandbox import LIMIT, Conversation, Rendered
from schemas.end_tokens import TurnEnd

OPEN, CLOSE = "\ue010", "\ue011"
_MARK = re.compile(f"[{OPEN}{CLOSE}]")
_HIDDEN = "\ufffc"
_TURN = 64
MOST_READ = 1 << 27
"""Characters that the beginnings of one conversation may have together, each turn counted as `_TURN` more: what is
rendered grows as the square of its turns.
"""


@dataclass(frozen=True)
class Part:
    """A stretch of text, the turn that it came from (-1: the template wrote it) and whether it is learnt."""

    text: str
    slot: int
    trained: bool


@dataclass(frozen=True)
class Turns:
    """The roles of a conversation's turns, and which turns are never learnt (`silent`: their weight is 0)."""

    roles: tuple[str, ...]
    silent: tuple[bool, ...]


@dataclass(frozen=True)
class LossTurns:
    """What is learnt: nothing of a prompt (`generation`), else all assistant turns or the last; with `ends` and
    `control`, how the template ends a turn and what matches control tokens (`datakit.templating.ending`).
    """

    generation: bool
    last: bool
    ends: TurnEnd
    control: re.Pattern[str] | None

    def learnt(self, turns: Turns) -> list[int]:
        """Numbers of the turns that are learnt."""
        answers = [] if self.generation else [at for at, role in enumerate(turns.roles) if role == "assistant"]
        return [at for at in (answers[-1:] if self.last else answers) if not turns.silent[at]]


def beginnings(whole: Conversation, learnt: Iterable[int]) -> Iterator[Conversation]:
    """For each turn that is learnt: the conversation before it, its header open, and the conversation up to its end."""
    for slot in learnt:
        yield replace(whole, messages=whole.messages[:slot], open=True, traced=False)
        yield replace(whole, messages=whole.messages[: slot + 1], open=False, traced_from=slot)


def too_many(whole: Conversation, learnt: Sequence[int]) -> str:
    """What is wrong with a conversation whose `beginnings` are `MOST_READ` characters or more; empty if nothing is."""
    sizes = (len(turn["content"]) + _TURN for turn in whole.messages)
    upto = list(accumulate(sizes, initial=0))
    total = sum(upto[slot] + upto[slot + 1] for slot in learnt)
    if total < MOST_READ:
        return ""
    of_turns = f"{len(learnt):,} of {len(whole.messages):,} turns are learnt"
    return f"{of_turns}: {total:,} characters to render, at most {MOST_READ - 1:,}"


def spans_of(
    whole: Rendered, begun: Iterator[Rendered], turns: Turns, loss_turns: LossTurns
) -> tuple[list[tuple[int, int]], Rendered | None]:
    """Where what is learnt stands in the text, and the rendering that was over a limit if one was: then nobody knows.
    `begun` are the renderings of `beginnings` (none are needed where the text has generation marks).
    """
    if (marked := _marked(whole, loss_turns)) is None:
        begins = [start for start, _, _ in whole.runs]
        own: dict[int, tuple[int, int]] = {}
        for start, end, slot in whole.runs:
            own[slot] = own.get(slot, (start, end))[0], end
        spans, over = [], None
        for slot in loss_turns.learnt(turns):
            head, tail = next(begun), next(begun)
            over = over or next((one for one in (head, tail) if one.fault == LIMIT), None)
            spans.append(_span(whole, begins, own.get(slot), slot, head, tail, loss_turns))
        return spans, over
    inside = [_slots(whole, *span) for span in marked]
    answers = set().union(*inside)
    silent = {slot for slot in answers if slot < len(turns.silent) and turns.silent[slot]}
    chosen = [span for span, slots in zip(marked, inside, strict=True) if not silent & slots]
    if loss_turns.generation:
        return [], None
    return [span for span in chosen if span == marked[-1]] if loss_turns.last else chosen, None


def has_marks(whole: Rendered) -> bool:
    """Whether the template wrote generation marks."""
    return OPEN in _own(whole)


def parts_of(whole: Rendered, spans: Sequence[tuple[int, int]]) -> tuple[Part, ...]:
    """The text cut where its origin changes and at the ends of spans; generation marks left out."""
    given = {start: (end, slot) for start, end, slot in _runs(whole)}
    text, parts = whole.text, []
    cuts = sorted({0, len(text), *given, *(end for end, _ in given.values()), *(at for span in spans for at in span)})
    inside = {
        at for start, (end, _) in given.items() for at in cuts[bisect_right(cuts, start) : bisect_left(cuts, end)]
    }
    begins, ends = [start for start, _ in sorted(spans)], [*accumulate((stop for _, stop in sorted(spans)), max)]
    for at, end in pairwise(cut for cut in cuts if cut not in inside):
        before = bisect_right(begins, at)
        trained = before > 0 and end <= ends[before - 1]
        if at in given:
            parts.append(Part(text[at:end], given[at][1], trained))
        elif own := _MARK.sub("", text[at:end]):
            parts.append(Part(own, -1, trained))
    return tuple(parts)


def _runs(whole: Rendered) -> list[tuple[int, int, int]]:
    """The runs in order, those of one turn that touch made one."""
    merged: list[tuple[int, int, int]] = []
    for start, end, slot in whole.runs:
        if merged and merged[-1][1:] == (start, slot):
            merged[-1] = (merged[-1][0], end, slot)
        else:
            merged.append((start, end, slot))
    return merged


def _own(whole: Rendered) -> str:
    """The text with what was given hidden, every character in its place."""
    parts, at = [], 0
    for start, end, _ in whole.runs:
        parts += [whole.text[at:start], _HIDDEN * (end - start)]
        at = end
    return "".join([*parts, whole.text[at:]])


def _slots(whole: Rendered, start: int, end: int) -> set[int]:
    runs = whole.runs
    return {
        slot
        for _, last, slot in runs[bisect_left(runs, start, key=_start) : bisect_right(runs, end, key=_start)]
        if last <= end
    }


def _start(run: tuple[int, int, int]) -> int:
    return run[0]


def _marked(whole: Rendered, loss_turns: LossTurns) -> list[tuple[int, int]] | None:
    """Spans between generation marks, if the template has them, and the turn's end where it stands behind the mark."""
    own, ends = _own(whole), loss_turns.ends
    if OPEN not in own:
        return None
    opens, closes = ([match.start() for match in re.finditer(mark, own)] for mark in (OPEN, CLOSE))
    spans = []
    for start, end in zip(opens, closes, strict=True):
        closed = own[start:end].rstrip().endswith(ends.stop) if ends.stop else True
        spans.append((start, end if closed else end + 1 + next_end(own[end + 1 :], ends, loss_turns.control)))
    return spans


def _span(
    whole: Rendered,
    begins: Sequence[int],
    own: tuple[int, int] | None,
    slot: int,
    head: Rendered,
    tail: Rendered,
    loss_turns: LossTurns,
) -> tuple[int, int]:
    """What a model has to say in turn `slot`, which stands at `own`: from the end of the open header to the end of the
    turn's closing mark. `begins`: where the runs of the text do.
    """
    at, end = own or (len(head.text), len(head.text))
    opened = not head.fault and whole.text.startswith(head.text) and len(head.text) <= at
    start = len(head.text) if opened else at
    if not (own or opened):
        return start, end
    last = max((stop for _, stop, turn in tail.runs if turn == slot), default=end)
    after = bisect_left(begins, end)
    following = begins[after] if after < len(begins) else len(whole.text)
    return start, end + closing(whole.text[end:following], tail.text[last:], loss_turns.ends, loss_turns.control)
