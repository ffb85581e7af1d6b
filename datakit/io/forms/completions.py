"""Question and answer in one record: prompt-response, Alpaca, and answers with a reward."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.io.conversations import blank, flat, question
from datakit.io.forms.form import Built, Form
from datakit.io.forms.prompts import asked
from datakit.io.parse import Key
from schemas import COMPLETIONS, REWARD

PROMPT = Key("prompt", pa.string(), aliases=("input",))
RESPONSE = Key("response", pa.string(), aliases=("output", "completion"))
INSTRUCTION = (Key("instruction", pa.string()), Key("input", pa.string(), required=False))


def instructed(raw: pa.Table) -> pa.Array:
    """Instruction and input as one text: two line breaks between them, none where the input is blank."""
    instruction, given = flat(raw["instruction"]), pc.fill_null(flat(raw["input"]), "")
    both = pc.binary_join_element_wise(instruction, given, "\n\n")
    return pc.if_else(pa.array(blank(given)), instruction, both)


def _answered(built: Built, response: pa.Array) -> Built:
    return Built({**built.columns, "response": response}, [*built.faults, (blank(response), "blank-response")])


def _pairs(raw: pa.Table, dialogue: str) -> Built:
    return _answered(asked(flat(raw["prompt"]), dialogue), flat(raw["response"]))


def _rewarded(raw: pa.Table, dialogue: str) -> Built:
    built = _pairs(raw, dialogue)
    return Built({**built.columns, "reward": flat(raw["reward"])}, built.faults)


def _alpaca(raw: pa.Table, dialogue: str) -> Built:
    texts = instructed(raw)
    faults = [(np.asarray(blank(texts)), "blank-prompt")]
    return _answered(Built({"messages": question(texts)}, faults), flat(raw["output"]))


FORMS = (
    Form(
        "completions",
        "{prompt | input, response | output | completion}",
        (PROMPT, RESPONSE),
        COMPLETIONS,
        _pairs,
        dialogues=("plain", "extra_id", "hh"),
    ),
    Form(
        "rewarded",
        "{input | prompt, output | response, reward}",
        (PROMPT, RESPONSE, Key("reward", pa.float64())),
        COMPLETIONS.adding(REWARD).renamed("rewarded", key=("sample_id",)),
        _rewarded,
        dialogues=("plain", "extra_id", "hh"),
    ),
    Form(
        "alpaca",
        "{instruction, input?, output}",
        (*INSTRUCTION, Key("output", pa.string(), aliases=("response",))),
        COMPLETIONS,
        _alpaca,
    ),
)
