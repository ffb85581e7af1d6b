"""Questions: a text (RLHF prompts, offline samplers) or a list of messages, with a gold answer where there is
one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from datakit.columns.conversations import flat, grammar, of_rows, of_turns, starts, with_system
from datakit.formats.dialogues import turns_of
from datakit.formats.forms.form import ASKED, SYSTEM, TOOLS, Built, Form
from datakit.formats.keys import LITERAL, QUESTION, TURNS, Key, compact
from datakit.formats.turns import InvalidValue
from schemas import PROMPTS

ANSWER = Key("answer", LITERAL, required=False)


def conversation(raw: pa.Table, name: str, dialogue: str = "plain") -> Built:
    """`messages` and `tools` of the turns in column `name`, the system text in front; not yet held to a grammar.

    With another `dialogue` than plain a row's only turn is a text that holds several; a trailing empty assistant header
    is left out.
    """
    turns, faults = of_turns(flat(raw[name]))
    if dialogue != "plain":
        turns = _taken_apart(turns, dialogue)
    turns = with_system(flat(raw["system"]), turns) if "system" in raw.column_names else turns
    columns = {"messages": turns}
    if "tools" in raw.column_names:
        columns["tools"] = flat(raw["tools"])
    return Built(columns, faults)


def _taken_apart(turns: pa.Array, dialogue: str) -> pa.Array:
    offsets = starts(turns)
    single = np.diff(offsets) == 1
    texts = turns.flatten().field("content").take(pa.array(offsets[:-1][single]))
    rows = [row or [] for row in turns_of(texts, dialogue)]
    apart = of_rows(row[:-1] if row and row[-1] == ("assistant", "") else row for row in rows)
    order = np.arange(len(turns))
    order[single] = len(turns) + np.arange(len(apart))
    return pa.concat_arrays([turns, apart]).take(pa.array(order))


def asked(raw: pa.Table, name: str, dialogue: str = "plain") -> Built:
    """The conversation before an answer."""
    built = conversation(raw, name, dialogue)
    return Built(built.columns, built.faults + grammar(built.columns["messages"], ends_with_user=True))


def _prompts(raw: pa.Table, dialogue: str) -> Built:
    built = asked(raw, "prompt", dialogue)
    return Built({**built.columns, "answer": flat(raw["answer"])}, built.faults)


def _messages(raw: pa.Table, dialogue: str) -> Built:
    built = asked(raw, "messages")
    return Built({**built.columns, "answer": flat(raw["answer"])}, built.faults)


def _benchmark(record: Any) -> Iterator[dict[str, Any]]:
    """A question of several turns cannot be asked at once: the second waits for an answer to the first."""
    turns = record.get("turns")
    if not isinstance(turns, list) or not turns:
        raise InvalidValue("missing-key", f"turns (there: {', '.join(map(str, record))})")
    if len(turns) > 1:
        raise InvalidValue("several-turns", "turns: one; the next one waits for the model's own answer")
    yield {**{name: value for name, value in record.items() if name != "turns"}, "prompt": turns[0]}


def _instructed(record: Any) -> Iterator[dict[str, Any]]:
    """The instructions become the gold answer that `label.verify` of kind `instructions` reads."""
    names, settings = record.get("instruction_id_list"), record.get("kwargs")
    whole = isinstance(names, list) and isinstance(settings, list) and len(names) == len(settings) > 0
    if not whole:
        raise InvalidValue("missing-key", "instruction_id_list and kwargs: two lists of one length")
    asked = {"instruction_id_list": names, "kwargs": [_without_nulls(one) for one in settings]}
    rest = {name: value for name, value in record.items() if name not in ("instruction_id_list", "kwargs", "answer")}
    yield {**rest, "answer": compact(asked)}


def _programmed(record: Any) -> Iterator[dict[str, Any]]:
    """HumanEval's rows, or MBPP's with their list of tests: what is run with a program becomes the gold answer that
    `label.verify` of kind `code` reads.
    """
    tests, before = record.get("test_list"), record.get("test_setup_code") or record.get("test_imports") or ""
    question, task = record.get("prompt", record.get("text")), {}
    if isinstance(tests, list) and all(isinstance(test, str) for test in tests):
        listed, before = "\n".join(tests), "\n".join(before) if isinstance(before, list) else str(before)
        question, task = f"{question}\nYour code should pass these tests:\n\n{listed}", {"test": f"{before}\n{listed}"}
    else:
        task = {"prompt": question, "entry_point": record.get("entry_point"), "test": record.get("test")}
    if not all(isinstance(text, str) and text.strip() for text in (question, *task.values())):
        raise InvalidValue("missing-key", "prompt, test and entry_point, or text and test_list, which are texts")
    yield {**{name: value for name, value in record.items() if name not in _PROGRAMMED}, "prompt": question,
           "answer": compact(task)}  # fmt: skip


def _without_nulls(settings: Any) -> Any:
    """The settings of an instruction, without those of others that the published files pad with null."""
    given = settings if isinstance(settings, dict) else {}
    return {name: value for name, value in given.items() if value is not None}


_PROGRAMMED = ("prompt", "text", "test", "entry_point", "test_list", "test_setup_code", "test_imports", "answer")

FORMS = (
    Form(
        "prompts",
        "{prompt | text | input, answer?, system?, tools?}; the prompt a text or a list of messages; or a bare string",
        (Key("prompt", QUESTION, aliases=("text", "input")), ANSWER, SYSTEM, TOOLS),
        PROMPTS,
        _prompts,
        dialogues=("plain", "extra_id", "hh"),
        refused=ASKED,
        bare="prompt",
    ),
    Form(
        "prompt_messages",
        "{messages | prompt: [{role, content}, ...] that ends with a user turn, answer?, system?, tools?}",
        (Key("messages", TURNS, aliases=("prompt",)), ANSWER, SYSTEM, TOOLS),
        PROMPTS,
        _messages,
        refused=ASKED,
    ),
    Form(
        "vicuna",
        "{turns: [text]}: questions of a benchmark, of one turn each",
        (Key("prompt", QUESTION), ANSWER, SYSTEM, TOOLS),
        PROMPTS,
        _prompts,
        refused=ASKED,
        records=_benchmark,
        roots=("turns",),
    ),
    Form(
        "ifeval",
        "{prompt, instruction_id_list: [text], kwargs: [{...}]}: instructions that a rule checks, as the gold answer",
        (Key("prompt", QUESTION), ANSWER, SYSTEM, TOOLS),
        PROMPTS,
        _prompts,
        refused=ASKED,
        records=_instructed,
        roots=("instruction_id_list", "kwargs"),
    ),
    Form(
        "code",
        "{prompt, test, entry_point}, or {text | prompt, test_list, test_setup_code?}: programs with their tests",
        (Key("prompt", QUESTION), ANSWER, SYSTEM, TOOLS),
        PROMPTS,
        _prompts,
        refused=ASKED,
        records=_programmed,
        roots=("prompt", "text", "test", "entry_point", "test_list", "test_setup_code", "test_imports"),
    ),
)
