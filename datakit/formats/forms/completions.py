"""Question and answer in one record: prompt-response, Alpaca, and answers with a reward."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import (
    Faults,
    blank,
    concatenated,
    flat,
    grammar,
    head,
    of_turns,
    question,
    starts,
    with_system,
)
from datakit.formats.forms.form import SYSTEM, TOOLS, Built, Form
from datakit.formats.forms.prompts import conversation
from datakit.formats.keys import ANSWER, HISTORY, INDEX, NUMBER, QUESTION, TEXT, Key
from schemas import COMPLETIONS, REWARD, SAMPLES
from schemas.rows.chats import TURN_MARK

_NEXT_TURN = f"\n{TURN_MARK}"
PROMPT = Key("prompt", QUESTION, aliases=("input",))
RESPONSE = Key("response", ANSWER, aliases=("output", "completion"))
INSTRUCTION = (
    Key("instruction", TEXT),
    Key("input", TEXT, required=False),
    SYSTEM,
    Key("history", HISTORY, required=False),
    TOOLS,
)
SCORE = (
    Key("reward", NUMBER, aliases=("score",)),
    Key("sample_index", INDEX, required=False),
)
REWARDED = COMPLETIONS.adding(SAMPLES["sample_index"], REWARD).renamed(
    "rewarded", version=COMPLETIONS.version, key=("sample_id",)
)
"""Answers with a reward each, numbered among the answers to their question."""


def answer(before: pa.Array, last: pa.Array) -> Built:
    """The conversation before a turn, and that turn as `response`, which must be an answer in text alone."""
    text = pc.fill_null(last.field("content"), "")
    no_answer = np.asarray(pc.fill_null(pc.not_equal(last.field("role"), "assistant"), True))
    faults: Faults = [
        (no_answer, "last-turn-not-assistant"),
        (np.asarray(last.field("tool_calls").is_valid()), "answer-with-tool-calls"),
        (np.asarray(last.field("reasoning").is_valid()), "answer-with-reasoning"),
        (np.asarray(pc.fill_null(pc.equal(last.field("weight"), 0), False)), "answer-of-weight-0"),
    ]
    return Built({"messages": before, "response": text}, faults)


def answered(raw: pa.Table, dialogue: str) -> Built:
    """`messages` and `response` of the columns `prompt` and `response`."""
    built = conversation(raw, "prompt", dialogue)
    given, faults = of_turns(flat(raw["response"]))
    before, last = built.columns["messages"], given.flatten()
    if (np.diff(starts(given)) != 1).any():
        before, last = head(concatenated(before, given))
    return completed(Built(built.columns, built.faults + faults), before, last, dialogue)


def bare(answers: pa.Array, dialogue: str) -> pa.Array:
    """Answers without the mark of the next turn, with which NeMo-Aligner's texts close them."""
    if dialogue != "extra_id":
        return answers
    return pc.utf8_trim_whitespace(pc.list_element(pc.split_pattern(answers, _NEXT_TURN, max_splits=1), 0))


def completed(built: Built, before: pa.Array, last: pa.Array, dialogue: str = "plain") -> Built:
    """`built` with the turn `last` of each row as the answer to those before it."""
    own = answer(before, last)
    columns = {**built.columns, **own.columns, "response": bare(own.columns["response"], dialogue)}
    grammatical = grammar(columns["messages"], ends_with_user=True)
    return Built(columns, [*built.faults, *grammatical, *own.faults, (blank(columns["response"]), "blank-response")])


def instructed(raw: pa.Table) -> Built:
    """Instruction and input as one question (two line breaks between them, none where the input is blank), behind
    the system text and the turns before it.
    """
    instruction, given = flat(raw["instruction"]), pc.fill_null(flat(raw["input"]), "")
    both = pc.binary_join_element_wise(instruction, given, "\n\n")
    texts = pc.if_else(pa.array(blank(given)), instruction, both)
    turns = question(texts)
    if raw["history"].null_count < len(raw):
        turns = concatenated(flat(raw["history"]), turns)
    columns = {"messages": with_system(flat(raw["system"]), turns), "tools": flat(raw["tools"])}
    return Built(columns, [(np.asarray(blank(texts)), "blank-prompt")])


def _rewarded(raw: pa.Table, dialogue: str) -> Built:
    built = answered(raw, dialogue)
    columns = {**built.columns, "reward": flat(raw["reward"])}
    if raw["sample_index"].null_count < len(raw):
        columns["sample_index"] = flat(raw["sample_index"])
    return Built(columns, built.faults)


def _alpaca(raw: pa.Table, dialogue: str) -> Built:
    built, text = instructed(raw), flat(raw["output"])
    return Built({**built.columns, "response": text}, [*built.faults, (blank(text), "blank-response")])


DIALOGUES = ("plain", "extra_id", "hh")

FORMS = (
    Form(
        "completions",
        "{prompt | input, response | output | completion, system?, tools?}; each side a text or a list of messages",
        (PROMPT, RESPONSE, SYSTEM, TOOLS),
        COMPLETIONS,
        answered,
        dialogues=DIALOGUES,
    ),
    Form(
        "rewarded",
        "{input | prompt, output | response, reward | score, sample_index?, system?, tools?}",
        (PROMPT, RESPONSE, *SCORE, SYSTEM, TOOLS),
        REWARDED,
        _rewarded,
        dialogues=DIALOGUES,
    ),
    Form(
        "alpaca",
        "{instruction, input?, output | response, system?, history?: [[question, answer], ...], tools?}",
        (*INSTRUCTION, Key("output", TEXT, aliases=("response",))),
        COMPLETIONS,
        _alpaca,
    ),
)
