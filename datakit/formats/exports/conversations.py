"""Conversations as other programs write them: messages of role and content, and NeMo-Aligner's texts with marks."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import Faults, any_turn, starts
from datakit.formats.exports.export import Lines, flags
from datakit.formats.exports.json_columns import TEXT, joined, listed, record, value
from schemas.rows.chats import SYSTEM_MARK, TURN_MARK


def turn_list(turns: pa.Array) -> pa.Array:
    """Lists of `{role, content, tool_calls?, tool_call_id?, reasoning_content?, weight?}`, as Hugging Face writes
    messages.
    """
    inner = turns.flatten()
    weights = inner.field("weight")
    whole = pc.if_else(pc.equal(weights, 0), "0", pc.if_else(pc.equal(weights, 1), "1", None))
    fields = {
        "role": value(inner.field("role")),
        "content": value(inner.field("content")),
        "tool_calls": inner.field("tool_calls"),
        "tool_call_id": value(inner.field("tool_call_id")),
        "reasoning_content": value(inner.field("reasoning")),
        "weight": pc.coalesce(whole.cast(TEXT), value(weights)),
    }
    return listed(starts(turns), record(fields))


def one_turn(role: str, texts: pa.Array) -> pa.Array:
    """Lists of one message each."""
    return joined("[", message(role, texts), "]")


def message(role: str, texts: pa.Array) -> pa.Array:
    """Messages of role and content."""
    return record({"role": f'"{role}"', "content": value(texts)})


def roles_and_contents(turns: pa.Array) -> pa.Array:
    """Lists of `{role, content}`, for formats that have no place for more (see `plain_faults`)."""
    inner = turns.flatten()
    fields = {"role": value(inner.field("role")), "content": value(inner.field("content"))}
    return listed(starts(turns), record(fields))


def open_faults(turns: pa.Array) -> Faults:
    """Rows whose last turn is not the user's, so that nothing is asked."""
    offsets, roles = starts(turns), turns.flatten().field("role")
    some = np.diff(offsets) > 0
    asked = np.zeros(len(turns), bool)
    asked[some] = flags(pc.equal(roles, "user"))[offsets[1:][some] - 1]
    return [(~asked, "last-turn-not-user")]


def plain_faults(turns: pa.Array, tools: pa.Array) -> Faults:
    """Rows that hold what a format of roles and contents alone would lose, or would let be learnt, and those with a
    system turn that is not the first, for which NeMo-Aligner has no place.
    """
    offsets, inner = starts(turns), turns.flatten()
    answers = flags(pc.equal(inner.field("role"), "assistant"))
    silent = flags(pc.equal(inner.field("weight"), pc.if_else(pa.array(answers), 0.0, 1.0)))
    fractional = inner.field("weight").is_valid().to_numpy(zero_copy_only=False) & ~flags(
        pc.is_in(inner.field("weight"), pa.array([0, 1], pa.float32()))
    )
    calls = pc.or_(inner.field("tool_calls").is_valid(), inner.field("tool_call_id").is_valid())
    used = flags(pc.or_(calls, pc.equal(inner.field("role"), "tool")))
    inside = flags(pc.equal(inner.field("role"), "system"))
    inside[offsets[:-1][np.diff(offsets) > 0]] = False
    return [
        (any_turn(offsets, inside), "system-turn-inside"),
        (np.asarray(tools.is_valid()) | any_turn(offsets, used), "tools"),
        (any_turn(offsets, np.asarray(inner.field("reasoning").is_valid())), "reasoning"),
        (any_turn(offsets, silent | fractional), "turn-weight"),
    ]


def nemo_text(turns: pa.Array, *, opens: bool) -> tuple[pa.Array, Faults]:
    """NeMo-Aligner's text of each conversation, `opens` with an open assistant header; and the rows whose contents hold
    a mark of it.
    """
    offsets, inner = starts(turns), turns.flatten()
    roles, contents = inner.field("role"), inner.field("content")
    system = pc.equal(roles, "system")
    heads = pc.if_else(system, f"{SYSTEM_MARK}System\n", joined(TURN_MARK, pc.utf8_capitalize(roles), "\n"))
    lines = joined(heads, contents, "\n")
    rows = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), lines)
    first = np.zeros(len(turns), bool)
    some = np.diff(offsets) > 0
    first[some] = flags(system)[offsets[:-1][some]]
    start = pc.if_else(pa.array(first), "", f"{SYSTEM_MARK}System\n\n")
    end = f"{TURN_MARK}Assistant\n" if opens else ""
    return joined(start, pc.binary_join(rows, pa.scalar("", TEXT)), end), marked(turns)


def marked(turns: pa.Array) -> Faults:
    """Rows of which a content holds a mark of NeMo-Aligner's template."""
    return [(any_turn(starts(turns), has_mark(turns.flatten().field("content"))), "template-mark-inside")]


def has_mark(texts: pa.Array) -> np.ndarray:
    """Texts that hold a mark of NeMo-Aligner's template."""
    return flags(pc.match_substring(texts, "<extra_id_"))


def lines_of(fields: dict[str, pa.Array | str], faults: Faults) -> Lines:
    """One JSON object a row of `fields` (columns of JSON texts by key), with the `faults` of rows that have none."""
    return Lines(record(fields), faults)
