"""template.condition: NeMo-Aligner's conditioned texts to the letter, and what of them is learnt, with any template."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from datakit.columns.conversations import of_rows
from datakit.op import Context
from datakit.template import Chat, Condition, LabelledChat
from datakit.templating.labelled import ChatMarks
from datakit.templating.named import TEMPLATES, extra_id
from schemas import MESSAGES, PIECES
from tests.datakit.fakes import BOS, CALL, USER, Example, letters

ASKED = "quality:4,toxicity:0,humor:0,creativity:0,helpfulness:4"
CONTEXT = Context(resources={"tokenizer": letters()})
TURNS = [
    [("user", "a?")],
    [("system", "be kind"), ("user", "b?"), ("assistant", "c"), ("user", "d?")],
    [("user", "e?")],
]
CONDITIONS = [ASKED, "quality:1", None]


RESPONSES = ["yes", "", "no\nno"]


def templated(generation: bool = False, template: str = "extra_id", marks: ChatMarks | None = None) -> pa.Table:
    """Rows of `template.chat` with a column of conditions."""
    rows = {"messages": of_rows(TURNS), "response": pa.array(RESPONSES)}
    settings: Any = {"generation": True} if generation else {"response": "response", "learn": "last"}
    made = Chat(template=template, **settings).label(pa.table(rows), CONTEXT)
    table = pa.table({**rows, **made, "attribute_text": pa.array(CONDITIONS, pa.string())})
    return Condition().takes.adding(*Condition(generation=generation).adds).conform(table)


EXAMPLES = [
    Example(Condition(), (templated(),)),
    Example(Condition(generation=True, start="[", end="]"), (templated(generation=True),)),
]


def test_the_text_that_is_learnt() -> None:
    made = Condition().label(templated(), CONTEXT)
    assert made["text"].to_pylist() == [
        f"<extra_id_0>System\n\n<extra_id_1>User\na?\n<extra_id_1>Assistant\n<extra_id_2>{ASKED}\nyes\n<extra_id_1>",
        (
            "<extra_id_0>System\nbe kind\n<extra_id_1>User\nb?\n<extra_id_1>Assistant\nc\n<extra_id_1>User\nd?\n"
            "<extra_id_1>Assistant\n<extra_id_2>quality:1\n\n<extra_id_1>"
        ),
        "<extra_id_0>System\n\n<extra_id_1>User\ne?\n<extra_id_1>Assistant\nno\nno\n<extra_id_1>",
    ]
    learnt = ["".join(piece["text"] for piece in row if piece["trained"]) for row in made["pieces"].to_pylist()]
    assert learnt == ["yes\n<extra_id_1>", "\n<extra_id_1>", "no\nno\n<extra_id_1>"]


def test_the_text_of_a_prompt() -> None:
    made = Condition(generation=True).label(templated(generation=True), CONTEXT)
    head = "<extra_id_0>System\n\n<extra_id_1>User\na?\n<extra_id_1>Assistant\n"
    assert made["prompt"].to_pylist()[0] == f"{head}<extra_id_2>{ASKED}\n"
    assert made["prompt"].to_pylist()[1].endswith("d?\n<extra_id_1>Assistant\n<extra_id_2>quality:1\n")
    assert made["prompt"].to_pylist()[2].endswith("e?\n<extra_id_1>Assistant\n")


def test_it_is_what_nemo_aligners_chats_give() -> None:
    """The same conversation as a chat with a label at its last turn, token by token and mask by mask."""
    marks = ChatMarks(system_turn_start=BOS, turn_start=USER, label_start=CALL)
    template = extra_id(system_turn_start=BOS, turn_start=USER)
    mine = Condition(start=CALL).label(templated(template=template), CONTEXT)["pieces"]
    rows = zip(TURNS, RESPONSES, strict=True)
    chats = pa.array(
        [[{"role": r, "content": c} for r, c in [*turns, ("assistant", a)]] for turns, a in rows], MESSAGES
    )
    labels = [[*[None] * len(turns), text] for turns, text in zip(TURNS, CONDITIONS, strict=True)]
    columns = {"messages": chats, "labels": pa.array(labels, pa.list_(pa.string()))}
    table = pa.table({**columns, "label_type": pa.array(["VALUE_TO_TEXT"] * 3)})
    theirs = LabelledChat(marks=marks, learn="last").label(table, CONTEXT)["pieces"]  # type: ignore[index,call-overload]
    tokenizer: Any = letters()
    a, b = tokenizer.encode_pieces(mine), tokenizer.encode_pieces(theirs)
    assert a.ids.tolist() == b.ids.tolist() and a.trained.tolist() == b.trained.tolist()


@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_what_is_read_before_the_answer_is_the_prompt(template: str) -> None:
    """With every template the learnt text begins with the prompt that asks for the same."""
    learnt = Condition().label(templated(template=template), CONTEXT)["text"].to_pylist()
    asked = Condition(generation=True).label(templated(True, template), CONTEXT)["prompt"].to_pylist()
    assert all(text.startswith(prompt) for text, prompt in zip(learnt, asked, strict=True))


def test_only_the_marks_may_be_control_tokens() -> None:
    pieces = pa.array([[{"text": "q", "special": True, "trained": False}]], PIECES)
    rows = pa.table({"pieces": pieces, "attribute_text": pa.array(["<extra_id_1>"])})
    [row] = Condition(generation=True).label(rows, CONTEXT)["pieces"].to_pylist()
    assert [(piece["text"], piece["special"]) for piece in row] == [
        ("q", True),
        ("<extra_id_2>", True),
        ("<extra_id_1>", False),
        ("\n", True),
    ]
