"""Public sets under their own keys: Dolly, HelpSteer and its preferences, UltraFeedback."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import blank, flat, grammar, of_turns, question
from datakit.formats.dialogues import extra_id
from datakit.formats.forms.completions import REWARDED, answered
from datakit.formats.forms.form import Built, Form
from datakit.formats.forms.preferences import compared
from datakit.formats.keys import ANSWER, NUMBER, QUESTION, TEXT, Key
from datakit.formats.turns import InvalidValue
from schemas import ATTRIBUTED, COMPLETIONS, MESSAGES, PREFERENCES
from schemas.rows.attributed import HELPSTEER_ATTRIBUTES
from schemas.rows.chats import TURN_MARK

_STRONGEST = 3
_TURN = f"{TURN_MARK}User\n"
Record = dict[str, Any]


def _dolly(raw: pa.Table, dialogue: str) -> Built:
    """Instruction and context as one question, two line breaks between them, whichever is `first`."""
    instruction, context = flat(raw["instruction"]), pc.fill_null(flat(raw["context"]), "")
    alone = pa.array(blank(context))
    sides = [pc.utf8_trim_whitespace(texts) for texts in (instruction, context)]
    orders = [pc.binary_join_element_wise(*pair, "\n\n") for pair in (sides, sides[::-1])]
    texts = pc.if_else(alone, instruction, pc.if_else(raw["first"].combine_chunks(), orders[1], orders[0]))
    turns, response = question(texts), flat(raw["response"])
    faults = [(np.asarray(blank(instruction)), "blank-prompt"), (blank(response), "blank-response")]
    return Built({"messages": turns, "response": response}, faults)


def _context_first(raw: pa.Table, draw: np.random.RandomState) -> pa.Table:
    """Whether the context comes first: drawn for each row that has one, in the order of the file, as NeMo's script for
    Dolly does it behind `numpy.random.seed`.
    """
    some = ~blank(pc.fill_null(flat(raw["context"]), ""))
    first = np.zeros(len(raw), bool)
    first[some] = draw.randint(0, 2, size=int(some.sum())) == 0
    return raw.append_column("first", pa.array(first))


def _asked(raw: pa.Table) -> Built:
    """The conversation before an answer; a text that holds NeMo-Aligner's marks is several turns."""
    turns, faults = of_turns(flat(raw["prompt"]))
    single = np.asarray(pc.equal(pc.list_value_length(turns), 1))
    texts = turns.flatten().field("content")
    marked = np.zeros(len(turns), bool)
    if single.all():
        marked = np.asarray(pc.match_substring(texts, f"\n{TURN_MARK}"))
    if marked.any():
        rows = turns.to_pylist()
        for row in np.flatnonzero(marked).tolist():
            apart = extra_id(_TURN + rows[row][0]["content"]) or []
            rows[row] = [{"role": role, "content": content} for role, content in apart]
        turns = pa.array(rows, MESSAGES)
    return Built({"messages": turns}, [*faults, *grammar(turns, ends_with_user=True)])


def _attributed(raw: pa.Table, dialogue: str) -> Built:
    built, response = _asked(raw), flat(raw["response"])
    values = np.stack([flat(raw[name]).to_numpy(zero_copy_only=False) for name in HELPSTEER_ATTRIBUTES], axis=1)
    known = pa.array(values.reshape(-1), pa.float64(), from_pandas=True)
    offsets = np.arange(len(raw) + 1, dtype=np.int32) * len(HELPSTEER_ATTRIBUTES)
    attributes = pa.ListArray.from_arrays(pa.array(offsets), known)
    faults = [(blank(response), "blank-response"), (np.isnan(values).all(axis=1), "no-attribute")]
    return Built({**built.columns, "response": response, "attributes": attributes}, [*built.faults, *faults])


def _stronger(raw: pa.Table, dialogue: str) -> Built:
    """The answer that the sign of the strength points at; its size is the difference of the rewards."""
    built, strength = _asked(raw), flat(raw["strength"])
    second = pc.greater(strength, 0)
    answers = [flat(raw[f"response_{number}"]) for number in (1, 2)]
    sides = [pc.if_else(second, *answers[::-1]), pc.if_else(second, *answers)]
    size = pc.abs(strength)
    rewards = {"chosen_reward": size, "rejected_reward": pa.array(np.zeros(len(raw)))}
    faults = [
        (np.asarray(pc.equal(strength, 0)), "no-preference"),
        (np.asarray(pc.greater(size, _STRONGEST)), "strength-out-of-range"),
    ]
    return compared({**built.columns, **rewards}, None, sides, [*built.faults, *faults])


def _judged(record: Any) -> Iterator[Record]:
    """Every answer of a record of UltraFeedback with its overall score."""
    completions = record.get("completions")
    if not isinstance(completions, list) or not completions or "instruction" not in record:
        raise InvalidValue("missing-key", f"instruction and completions (there: {', '.join(map(str, record))})")
    rest = {name: value for name, value in record.items() if name not in ("instruction", "completions")}
    for completion in completions:
        if not isinstance(completion, Mapping):
            raise InvalidValue("wrong-type", "completions, a list of objects")
        score = completion.get("overall_score")
        yield {**rest, "prompt": record["instruction"], "response": completion.get("response"), "reward": score}


def _scored(raw: pa.Table, dialogue: str) -> Built:
    built = answered(raw, dialogue)
    return Built({**built.columns, "reward": flat(raw["reward"])}, built.faults)


_PROMPT = Key("prompt", QUESTION)

FORMS = (
    Form(
        "dolly",
        "{instruction, context?, response, category?}; context before or behind the instruction, drawn by seed",
        (Key("instruction", TEXT), Key("context", TEXT, required=False), Key("response", TEXT)),
        COMPLETIONS,
        _dolly,
        draws=_context_first,
    ),
    Form(
        "helpsteer",
        f"{{prompt, response, {', '.join(name + '?' for name in HELPSTEER_ATTRIBUTES)}}}: HelpSteer 1 and 2",
        (_PROMPT, Key("response", TEXT), *(Key(name, NUMBER, required=False) for name in HELPSTEER_ATTRIBUTES)),
        ATTRIBUTED,
        _attributed,
    ),
    Form(
        "helpsteer_preferences",
        "{prompt, response_1, response_2, preference_strength: -3 .. 3}, below 0 where the first is better; 0 is none",
        (
            Key("prompt", QUESTION, aliases=("context",)),
            Key("response_1", TEXT, aliases=("response1",)),
            Key("response_2", TEXT, aliases=("response2",)),
            Key("strength", NUMBER, aliases=("preference_strength", "overall_preference")),
        ),
        PREFERENCES,
        _stronger,
    ),
    Form(
        "ultrafeedback",
        "{instruction, completions: [{response, overall_score, ...}]}: every answer, rewarded with its overall score",
        (_PROMPT, Key("response", ANSWER), Key("reward", NUMBER)),
        REWARDED,
        _scored,
        records=_judged,
        roots=("instruction", "completions"),
    ),
)
