"""The template that rows will have been written with, as planned, is what their manifest says once they are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datakit.apply import apply
from datakit.op import Read
from datakit.template import Chat, Fit, LabelledChat, RewardPrompt
from pipelines.graph.nodes import Existing, Table
from schemas import Schema, chat_template, end_tokens
from schemas.chat_template import ChatTemplate
from schemas.dataset import Dataset
from tests.datakit.fakes import Example
from tests.datakit.test_every_op import CASES
from tests.tail import late

EARLIER = {
    chat_template.FACT: {"name": "llama3", "source": "{{ messages }}", "options": {"a": 1}},
    end_tokens.FACT: {"tokens": ["<|eot_id|>"], "texts": []},
}
"""What the manifest of rows says that were written in another template before."""
WORK = [
    case if case.id.startswith("template.") or case.id.endswith("-0") else late(*case.values, id=case.id)
    for case in CASES
    if not isinstance(case.values[0].op, Read)
]


def template_in(facts: Mapping[str, Any]) -> tuple[Any, bool]:
    """The template, and whether there is an end of turns: which one, only the tokenizer tells."""
    return facts.get(chat_template.FACT), bool(facts.get(end_tokens.FACT))


@pytest.mark.parametrize("example", WORK)
def test_the_template_is_known_before_rows_are_made(example: Example, tmp_path: Path) -> None:
    given, inputs = [], []
    for number, rows in enumerate(example.inputs()):
        one = Dataset.from_arrow(rows, Schema.of_arrow(rows.schema), str(tmp_path / f"rows-{number}"))
        given.append(replace(one, manifest=replace(one.manifest, facts=EARLIER)))
        inputs.append(Existing(label="rows", root="", place=one.url, existing_manifest=given[-1].manifest))
    planned = Table(label="made", root="data", op=example.op, inputs=tuple(inputs))
    made = apply(example.op, given, str(tmp_path / "made"), resources=example.resources).manifest
    assert template_in(planned.written_facts) == template_in(made.facts)
    assert planned.trained_template == ChatTemplate.of(made.facts)


def test_operations_that_write_text_are_tried_and_one_that_only_measures_it() -> None:
    tried = {type(case.values[0].op) for case in WORK if case.values[0].op.rendering}  # type: ignore[attr-defined]
    assert tried >= {Chat, Fit, LabelledChat, RewardPrompt}
