"""Rows whose text is not segments with contents in their places: each is rendered for itself, traced.

Such are rows whose contents the template takes apart and writes again (the reasoning of a thinking model), and rows
with tools, tool calls or reasoning. A row of which no one could say what came from it is not kept, nor one of which the
template leaves a whole turn, its tool calls or the tools out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from datakit.templating.learnt import LossTurns, Part, Turns, beginnings, has_marks, parts_of, spans_of, too_many
from datakit.templating.sandbox import Conversation, Rendered, Sandbox
from datakit.templating.segments import odd_role

_BATCH_ROWS, _BATCH_CHARS = 128, 1 << 22


@dataclass(frozen=True)
class Row:
    """One conversation as a template gets it, and which of its turns may be learnt."""

    conversation: Conversation
    turns: Turns


@dataclass(frozen=True)
class Aligned:
    """The parts of a row's text, or why it has none."""

    parts: tuple[Part, ...] = ()
    fault: str = ""
    detail: str = ""


def row_of(messages: Sequence[Mapping[str, Any]], tools: str | None, generation: bool) -> Row:
    """A row of turns (`schemas.rows.conversation.TURN`) and tools as JSON text. Names are those that templates read in
    Hugging Face's libraries: `tool_calls` (a list), `tool_call_id`, `reasoning_content` and, the same, `thinking`.
    `ValueError` for tools or tool calls that are no JSON list.
    """
    turns = []
    for message in messages:
        turn = {"role": message["role"], "content": message["content"]}
        if message["tool_calls"]:
            turn["tool_calls"] = _listed(message["tool_calls"])
        if message["tool_call_id"] is not None:
            turn["tool_call_id"] = message["tool_call_id"]
        if message["reasoning"] is not None:
            turn |= {"thinking": message["reasoning"], "reasoning_content": message["reasoning"]}
        turns.append(turn)
    offered = (_listed(tools) if tools else None) or None
    roles, silent = tuple(turn["role"] for turn in turns), tuple(message["weight"] == 0 for message in messages)
    return Row(Conversation(turns, offered, generation, traced=True), Turns(roles, silent))


def _listed(text: str) -> list[Any]:
    """The JSON list in `text`; `ValueError` for anything else."""
    try:
        value = json.loads(text)
    except RecursionError:
        value = None
    if isinstance(value, list):
        return value
    raise ValueError("no JSON list")


def aligned(sandbox: Sandbox, rows: Iterable[tuple[Any, str | None]], loss_turns: LossTurns) -> list[Aligned]:
    """The parts of each row, of turns and tools."""
    results: list[Aligned] = []
    readable: dict[int, Row] = {}
    for at, (messages, tools) in enumerate(rows):
        results.append(Aligned(fault="bad-tools", detail="tools or tool_calls are no JSON list"))
        with suppress(ValueError):
            readable[at] = row_of(messages, tools, loss_turns.generation)
    done = (one for batch in _batches(list(readable.values())) for one in _aligned(sandbox, batch, loss_turns))
    for at in readable:
        results[at] = next(done)
    return results


def _batches(rows: Sequence[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += sum(len(turn["content"]) for turn in row.conversation.messages) * (1 + len(row.turns.roles))
        if len(batch) == _BATCH_ROWS or size > _BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _aligned(sandbox: Sandbox, rows: Sequence[Row], loss_turns: LossTurns) -> Iterator[Aligned]:
    texts = sandbox.render([row.conversation for row in rows])
    learnt = [[] if has_marks(text) else loss_turns.learnt(row.turns) for row, text in zip(rows, texts, strict=True)]
    faults = [_fault(row, text, slots, sandbox.template) for row, text, slots in zip(rows, texts, learnt, strict=True)]
    fine = [(row, slots) for row, slots, fault in zip(rows, learnt, faults, strict=True) if not fault.fault]
    begun = sandbox.stream(one for row, slots in fine for one in beginnings(row.conversation, slots))
    for row, text, fault in zip(rows, texts, faults, strict=True):
        if fault.fault:
            yield fault
            continue
        spans, over = spans_of(text, begun, row.turns, loss_turns)
        yield Aligned(parts_of(text, spans)) if over is None else Aligned(fault=over.fault, detail=over.detail)


def _fault(row: Row, text: Rendered, learnt: Sequence[int], template: str) -> Aligned:
    """Why a row is not kept, if it is not; `learnt` are the turns whose beginnings have to be rendered."""
    if odd := odd_role(row.turns.roles):
        return Aligned(fault="unknown-role", detail=odd)
    if text.fault:
        return Aligned(fault=text.fault, detail=text.detail)
    if ignored := _ignored(row.conversation, template):
        return Aligned(fault=f"template-ignores-{ignored}", detail=f"the template does not read {ignored}")
    out = {slot for _, _, slot in text.runs}
    if min(out, default=0) < 0:
        return Aligned(fault="template-alters-contents", detail="a content comes out changed")
    for slot, turn in enumerate(row.conversation.messages):
        if slot not in out and (turn["content"].strip() or turn.get("tool_calls")):
            detail = f"turn {slot} ({turn['role']}) does not come out"
            return Aligned(fault="template-alters-contents", detail=detail)
    detail = too_many(row.conversation, learnt)
    return Aligned(fault="too-many-turns" if detail else "", detail=detail)


def _ignored(conversation: Conversation, template: str) -> str:
    """What the row has and the template does not so much as name."""
    turns = conversation.messages
    if conversation.tools and "tools" not in template:
        return "tools"
    if any("tool_calls" in turn for turn in turns) and "tool_calls" not in template:
        return "tool_calls"
    thinks = any("thinking" in turn for turn in turns)
    return "reasoning" if thinks and not any(name in template for name in ("reasoning_content", "thinking")) else ""
