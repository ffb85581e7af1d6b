"""NeMo-Aligner's own files. Its data classes read roles and contents alone: rows with tools, reasoning or turns of
weight 0 are set aside, because NeMo-Aligner would drop the one and learn the other.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import Faults, per_turn, single_question, starts, with_response
from datakit.formats.exports.conversations import (
    has_mark,
    lines_of,
    message,
    nemo_text,
    open_faults,
    plain_faults,
    roles_and_contents,
)
from datakit.formats.exports.export import Export, Lines, column, flags
from datakit.formats.exports.json_columns import joined, listed, record, value
from datakit.formats.forms.chats import LABELS
from schemas.rows.attributed import NOT_JUDGED
from schemas.rows.chats import LABEL_MARK, TURN_MARK

_MARK = f"\n{TURN_MARK}"
_SIDES = ("chosen", "rejected")


def _asked(rows: pa.Table) -> tuple[pa.Array, Faults]:
    turns = column(rows, "messages")
    return turns, plain_faults(turns, column(rows, "tools"))


def _sft(rows: pa.Table) -> Lines:
    turns, faults = _asked(rows)
    question, several = single_question(turns)
    fields = {"input": value(question), "output": value(rows["response"])}
    return lines_of(fields, [*faults, (several, "several-turns")])


def _chat_sft(rows: pa.Table) -> Lines:
    turns, faults = _asked(rows)
    labels = column(rows, "labels")
    if "response" in rows.column_names:
        turns, labels = with_response(turns, column(rows, "response")), pa.nulls(len(rows), LABELS)
    offsets, inner = starts(turns), turns.flatten()
    system = flags(pc.equal(inner.field("role"), "system"))
    texts = pc.if_else(pa.array(system), inner.field("content"), None)
    first = np.zeros(len(rows), bool)
    some = np.diff(offsets) > 0
    first[some] = system[offsets[:-1][some]]
    own, odd = per_turn(labels, offsets)
    opening = pc.fill_null(texts.take(pa.array(np.where(first, offsets[:-1], 0), mask=~first)), "")
    fields = {
        "from": value(pc.utf8_capitalize(inner.field("role"))),
        "value": value(inner.field("content")),
        "label": pc.fill_null(value(own), "null"),
    }
    bounds = offsets - np.concatenate([[0], np.cumsum(first)])
    opens = np.zeros(len(inner), bool)
    opens[offsets[:-1][first]] = True
    items = record(fields).filter(pa.array(~opens))
    conversations = {"system": value(opening), "conversations": listed(bounds, items), "mask": '"User"'}
    kind = pc.fill_null(value(column(rows, "label_type")), "null")
    faults += [(odd, "labels-are-not-one-a-turn"), (np.asarray(column(rows, "turn_names").is_valid()), "turn-names")]
    dataset = pc.fill_null(value(column(rows, "source")), '""')
    return lines_of({**conversations, "type": kind, "dataset": dataset}, faults)


def _dpo(rows: pa.Table) -> Lines:
    turns, faults = _asked(rows)
    fields = {"prompt": roles_and_contents(turns)}
    fields |= {f"{side}_response": message("assistant", column(rows, side)) for side in _SIDES}
    return lines_of({**fields, **_rewards(rows)}, faults)


def _dpo_text(rows: pa.Table) -> Lines:
    turns, faults = _asked(rows)
    prompt, marks = nemo_text(turns, opens=True)
    fields = {"prompt": value(prompt)}
    for side in _SIDES:
        answers = column(rows, side)
        fields[f"{side}_response"] = value(joined(answers, _MARK))
        marks.append((has_mark(answers), "template-mark-inside"))
    return lines_of({**fields, **_rewards(rows)}, [*faults, *marks])


def _rewards(rows: pa.Table) -> dict[str, pa.Array]:
    return {f"{side}_reward": value(column(rows, f"{side}_reward")) for side in _SIDES}


def _comparisons(rows: pa.Table) -> Lines:
    turns, faults = _asked(rows)
    lines = []
    for side in _SIDES:
        text, marks = nemo_text(with_response(turns, column(rows, side)), opens=False)
        lines.append(record({"text": value(joined(text, TURN_MARK))}))
        faults += marks
    return Lines(joined(lines[0], "\n", lines[1]), faults)


def _regression(rows: pa.Table) -> Lines:
    turns, faults = _asked(rows)
    text, marks = nemo_text(with_response(turns, column(rows, "response")), opens=False)
    given = column(rows, "attributes")
    flat = given.flatten()
    known = pc.if_else(pc.fill_null(pc.is_nan(flat), True), NOT_JUDGED, flat)
    label = pa.ListArray.from_arrays(pa.array(starts(given)), known)
    return lines_of({"text": value(joined(text, LABEL_MARK)), "label": value(label)}, [*faults, *marks])


def _kto(rows: pa.Table) -> Lines:
    turns, faults = _asked(rows)
    prompt, marks = nemo_text(turns, opens=True)
    answers = column(rows, "response")
    word = pc.if_else(column(rows, "desirable"), "chosen", "rejected")
    fields = {"prompt": value(prompt), "response": value(joined(answers, _MARK)), "preference": value(word)}
    return lines_of(fields, [*faults, *marks, (has_mark(answers), "template-mark-inside")])


def _prompts(rows: pa.Table) -> Lines:
    turns, faults = _asked(rows)
    text, marks = nemo_text(turns, opens=True)
    return lines_of(
        {"text": value(text), "answer": value(column(rows, "answer"))}, [*faults, *open_faults(turns), *marks]
    )


_PAIR, _ANSWERED = ("messages", "chosen", "rejected"), ("messages", "response")
_REWARDS = ("chosen_reward", "rejected_reward")
_CHAT = '{system, conversations: [{from, value, label}], mask: "User", type, dataset}'

FORMS = (
    Export(
        "nemo_aligner.dpo",
        "{prompt: [{role, content}], chosen_response, rejected_response: {role, content}, chosen_reward?, ...}",
        (_PAIR,), _dpo, "preferences", (*_REWARDS, "tools"),
    ),
    Export(
        "nemo_aligner.dpo_text", "{prompt, chosen_response, rejected_response: texts with marks, chosen_reward?, ...}",
        (_PAIR,), _dpo_text, "preferences", (*_REWARDS, "tools"), dialogue="extra_id",
    ),
    Export(
        "nemo_aligner.rm", "{text}: two lines a pair, the better text first", (_PAIR,), _comparisons, "comparisons",
        ("tools",),
    ),
    Export(
        "nemo_aligner.kto", "{prompt, response: texts with marks, preference: chosen | rejected}",
        ((*_ANSWERED, "desirable"),), _kto, "kto", ("tools",), dialogue="extra_id",
    ),
    Export(
        "nemo_aligner.regression", "{text, label: [numbers]}, -100 where an attribute is unknown",
        ((*_ANSWERED, "attributes"),), _regression, "attributes", ("tools",),
    ),
    Export(
        "nemo_aligner.chat_sft", _CHAT, (("messages", "chat_id"), _ANSWERED), _chat_sft, "chats",
        ("tools", "labels", "label_type", "turn_names", "source"),
    ),
    Export("nemo_aligner.sft", "{input, output}: texts", (_ANSWERED,), _sft, "completions", ("tools",)),
    Export(
        "nemo_aligner.prompts", "{text: a text with marks, answer?}", (("messages",),), _prompts, "prompts",
        ("answer", "tools"), dialogue="extra_id",
    ),
)  # fmt: skip
