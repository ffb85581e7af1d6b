"""TRL's dataset types (page "Dataset formats and types" of its documentation): conversational and, where a prompt is
one user turn, standard.
"""

from __future__ import annotations

import pyarrow as pa

from datakit.columns.conversations import single_question, with_response
from datakit.formats.exports.conversations import lines_of, one_turn, open_faults, turn_list
from datakit.formats.exports.export import Export, Lines, column
from datakit.formats.exports.json_columns import value

_REWARDS = ("chosen_reward", "rejected_reward")


def _beside(rows: pa.Table) -> dict[str, pa.Array]:
    """What stands beside the conversation: tools as JSON, rewards under the names of UltraFeedback's files."""
    fields = {"tools": column(rows, "tools")}
    fields |= {f"score_{name.removesuffix('_reward')}": value(column(rows, name)) for name in _REWARDS}
    return fields


def _whole(rows: pa.Table) -> pa.Array:
    turns = column(rows, "messages")
    return with_response(turns, column(rows, "response")) if "response" in rows.column_names else turns


def _language_modeling(rows: pa.Table) -> Lines:
    return lines_of({"messages": turn_list(_whole(rows)), "tools": column(rows, "tools")}, [])


def _prompt_only(rows: pa.Table) -> Lines:
    turns = column(rows, "messages")
    fields = {"prompt": turn_list(turns), "answer": value(column(rows, "answer")), "tools": column(rows, "tools")}
    return lines_of(fields, open_faults(turns))


def _prompt_completion(rows: pa.Table) -> Lines:
    fields = {"prompt": turn_list(column(rows, "messages"))}
    fields["completion"] = one_turn("assistant", column(rows, "response"))
    return lines_of({**fields, "tools": column(rows, "tools")}, [])


def _preference(rows: pa.Table) -> Lines:
    fields = {"prompt": turn_list(column(rows, "messages"))}
    fields |= {side: one_turn("assistant", column(rows, side)) for side in ("chosen", "rejected")}
    return lines_of({**fields, **_beside(rows)}, [])


def _preference_implicit(rows: pa.Table) -> Lines:
    turns = column(rows, "messages")
    fields = {side: turn_list(with_response(turns, column(rows, side))) for side in ("chosen", "rejected")}
    return lines_of({**fields, **_beside(rows)}, [])


def _unpaired_preference(rows: pa.Table) -> Lines:
    fields = {"prompt": turn_list(column(rows, "messages"))}
    fields["completion"] = one_turn("assistant", column(rows, "response"))
    return lines_of({**fields, "label": value(column(rows, "desirable")), "tools": column(rows, "tools")}, [])


def _standard(rows: pa.Table) -> Lines:
    """The same keys with texts for conversations."""
    question, several = single_question(column(rows, "messages"))
    fields: dict[str, pa.Array | str] = {"prompt": value(question)}
    names = {"response": "completion", "chosen": "chosen", "rejected": "rejected", "desirable": "label"}
    fields |= {key: value(rows[name]) for name, key in names.items() if name in rows.column_names}
    return lines_of({**fields, "answer": value(column(rows, "answer")), **_beside(rows)}, [(several, "several-turns")])


_TURNS = "[{role, content, ...}]"
_SCORES = "score_chosen?, score_rejected?, tools?"
_ASKED, _ANSWERED = ("messages", "response"), ("messages", "chosen", "rejected")
_JUDGED = ("messages", "response", "desirable")

FORMS = (
    Export(
        "trl.preference", f"{{prompt, chosen, rejected: each {_TURNS}, {_SCORES}}}", (_ANSWERED,), _preference,
        "preferences", (*_REWARDS, "tools"),
    ),
    Export(
        "trl.preference_implicit", f"{{chosen, rejected: whole conversations {_TURNS}, {_SCORES}}}", (_ANSWERED,),
        _preference_implicit, "preference_chats", (*_REWARDS, "tools"),
    ),
    Export(
        "trl.preference_text", f"{{prompt, chosen, rejected: texts, {_SCORES}}}", (_ANSWERED,), _standard,
        "preferences", (*_REWARDS, "tools"),
    ),
    Export(
        "trl.unpaired_preference", f"{{prompt, completion: each {_TURNS}, label: true | false, tools?}}", (_JUDGED,),
        _unpaired_preference, "kto_labels", ("tools",),
    ),
    Export(
        "trl.unpaired_preference_text", "{prompt, completion: texts, label: true | false, tools?}", (_JUDGED,),
        _standard, "kto_labels", ("tools",),
    ),
    Export(
        "trl.prompt_completion", f"{{prompt, completion: each {_TURNS}, tools?}}", (_ASKED,), _prompt_completion,
        "completions", ("tools",),
    ),
    Export(
        "trl.prompt_completion_text", "{prompt, completion: texts, tools?}", (_ASKED,), _standard, "completions",
        ("tools",),
    ),
    Export(
        "trl.language_modeling", f"{{messages: {_TURNS}, tools?}}", (("messages", "chat_id"), _ASKED),
        _language_modeling, "messages", ("tools",),
    ),
    Export(
        "trl.prompt_only", f"{{prompt: {_TURNS}, answer?, tools?}}", (("messages",),), _prompt_only, "prompts",
        ("answer", "tools"),
    ),
    Export(
        "trl.prompt_only_text", "{prompt: text, answer?, tools?}", (("messages",),), _standard, "prompts",
        ("answer", "tools"),
    ),
)  # fmt: skip
