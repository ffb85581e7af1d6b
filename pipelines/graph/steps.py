"""The stages between conversations and the tokens that a network reads: the same for backends, stages and recipes.

rows -> text -> (what is written into the text besides) -> tokens
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from datakit.template import Chat, Rendering, RewardPrompt
from datakit.tokenize import Encode, Mask, Sequences
from pipelines.graph.backend import Step
from pipelines.graph.node import GraphBuilder, Node
from schemas import Schema

_PAIR_COLUMNS = (("chosen_pieces", "chosen_ids"), ("rejected_pieces", "rejected_ids"))


def after_steps(plan: GraphBuilder, label: str, steps: Iterable[Step], rows: Node, tokenizer: Node) -> Node:
    """`rows` after `steps`, under labels that begin with `label`."""
    for step in steps:
        needed: dict[str, Any] = {"tokenizer": tokenizer} if "tokenizer" in step.op.needs else {}
        rows = plan.table(f"{label}.{step.name}", step.op, rows, **needed)
    return rows


def prompt_steps(rendering: Rendering, max_length: int | None, between: Sequence[Step] = ()) -> tuple[Step, ...]:
    """Conversations with an open answer, as `prompt_ids`."""
    encode = Encode(columns=(("pieces", "prompt_ids"),), max_length=max_length)
    return Step(name="texts", op=Chat(**rendering.settings, generation=True)), *between, Step(name="tokens", op=encode)


def answer_steps(
    rendering: Rendering, max_length: int | None, rows: Schema, between: Sequence[Step] = ()
) -> tuple[Step, ...]:
    """Conversations with the answer that `rows` have, which is learnt, or whole ones, as `input_ids` and
    `loss_mask`.
    """
    learnt: dict[str, Any] = {"response": "response", "learn": "last"} if "response" in rows else {}
    named = "chat_id" if "chat_id" in rows and "sample_id" not in rows else "sample_id"
    chat, mask = Chat(**rendering.settings, **learnt), Mask(max_length=max_length, id_column=named)
    return Step(name="texts", op=chat), *between, Step(name="tokens", op=mask)


def beside_steps(rendering: Rendering, max_length: int | None, text: str) -> tuple[Step, ...]:
    """Conversations with the column `text` for an answer, as `<text>_ids` and `<text>_mask`."""
    chat = Chat(**rendering.settings, response=text, learn="last", into=f"{text}_pieces")
    tokens = Sequences(names=(text,), max_length=max_length)
    return Step(name=f"{text}.texts", op=chat), Step(name=f"{text}.tokens", op=tokens)


def pair_steps(rendering: Rendering, max_length: int | None, *, masks: bool) -> tuple[Step, ...]:
    """Both answers of pairs behind their question, as `chosen_ids` and `rejected_ids`; with `masks` of what is learnt
    of them.
    """
    columns = Sequences(max_length=max_length) if masks else Encode(columns=_PAIR_COLUMNS, max_length=max_length)
    texts = RewardPrompt(**rendering.settings, rows="preferences")
    return Step(name="texts", op=texts), Step(name="tokens", op=columns)


def scored_steps(rendering: Rendering, max_length: int | None) -> tuple[Step, ...]:
    """Whole conversations with the answer that rows have, as `input_ids` of a reward model."""
    encode = Encode(columns=(("reward_pieces", "input_ids"),), max_length=max_length)
    return Step(name="texts", op=RewardPrompt(**rendering.settings)), Step(name="tokens", op=encode)
