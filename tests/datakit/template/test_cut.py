"""Answers that were cut have no end: none is learnt, none is appended, and a note counts them. Masks by hand."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.columns.learnt_ends import CUT_ANSWERS, WITHOUT_END
from datakit.run.resource import Resource
from datakit.template import Chat
from datakit.tokenize import Mask
from schemas import MESSAGES, Column, Schema
from schemas.dataset import Attempt
from tests.datakit.fakes import EOS, letters
from tests.datakit.template.test_chat import MARKED, QWEN3_LIKE, chat, trained
from tests.datakit.template.test_ending import ENDINGS, NO_END, context

REASONS = ("length", "stop", None)


def answered(response: str, *turns: str) -> pa.Table:
    """The answer three times: cut, ended, and nobody knows."""
    columns = {
        "sample_id": pa.array(["cut", "ended", "unknown"]),
        "messages": pa.array([chat(*turns)] * 3, MESSAGES),
        "response": pa.array([response] * 3),
        "finish_reason": pa.array(REASONS, pa.string()),
    }
    return pa.table(columns)


def learnt(op: Chat, rows: pa.Table) -> list[str]:
    columns: Any = op.label(rows, context())
    return [trained(row) for row in columns["pieces"].to_pylist()]


@pytest.mark.parametrize(
    ("template", "cut", "ended"),
    [
        (ENDINGS["thinks"][0], "<bot>⟦[think][/think]b⟧<end>\n", "<bot>⟦[think][/think]b<end>⟧\n"),
        (ENDINGS["ends twice"][0], "<bot>⟦b⟧<end>\n<eos>", "<bot>⟦b<end>⟧\n<eos>"),
        (ENDINGS["closed by text"][0], "Bot: ⟦b⟧\n## done\n", "Bot: ⟦b\n## done\n⟧"),
        (ENDINGS["quoted"][0], "Bot: ⟦'b⟧'", "Bot: ⟦'b'⟧"),
        (MARKED, "<assistant>⟦b⟧<end>", "<assistant>⟦b<end>⟧"),
        (NO_END, "<bot>⟦b⟧", "<bot>⟦b⟧"),
    ],
    ids=["control token", "second token", "text", "quoted", "generation marks", "no end"],
)
def test_of_a_cut_answer_its_content_alone_is_learnt(template: str, cut: str, ended: str) -> None:
    rows = answered("b", "q", "a", "r")
    first, *others = learnt(Chat(template=template, response="response", learn="last"), rows)
    assert first.endswith(cut) and all(other.endswith(ended) for other in others)
    every = learnt(Chat(template=template, response="response"), rows)
    assert every[0].removesuffix(cut) == every[1].removesuffix(ended), "earlier turns are learnt with their ends"
    assert every[0].count("⟦") == 2


def test_a_cut_answer_that_is_rendered_for_itself_is_learnt_without_its_end() -> None:
    """The template takes what stands before </think> away, so that every row is aligned with its own text."""
    first, *others = learnt(
        Chat(template=QWEN3_LIKE, response="response", learn="last"), answered("why</think>\nbecause the", "q")
    )
    assert first.endswith("assistant\n⟦because the⟧<|im_end|>\n")
    assert all(other.endswith("assistant\n⟦because the<|im_end|>\n⟧") for other in others)


def test_a_cut_answer_without_text_teaches_nothing() -> None:
    template = ENDINGS["thinks"][0].replace("[think][/think]", "")
    first, second, _ = learnt(Chat(template=template, response="response"), answered("", "q", "a", "r"))
    before = "<user>q<end>\n<bot>⟦a<end>⟧\n<user>r<end>\n<bot>"
    assert (first, second) == (f"{before}<end>\n", f"{before}⟦<end>⟧\n")


def test_other_answers_and_other_columns_are_learnt_as_before() -> None:
    rows = answered("b", "q").append_column("mismatched", pa.array(["c"] * 3))
    template = ENDINGS["thinks"][0]
    assert len(set(learnt(Chat(template=template, response="mismatched", learn="last"), rows))) == 1
    numbers = rows.set_column(rows.schema.get_field_index("finish_reason"), "finish_reason", pa.array([1, 2, 3]))
    for given in (rows.drop_columns("finish_reason"), numbers):
        assert len(set(learnt(Chat(template=template, response="response"), given))) == 1


@pytest.mark.parametrize("name", ["thinks", "no end"])
def test_cut_answers_are_counted_apart_and_get_no_end_token(name: str, tmp_path: Path) -> None:
    kinds = {"sample_id": pa.string(), "messages": MESSAGES, "response": pa.string(), "finish_reason": pa.string()}
    columns = tuple(Column(one, kind, one, nullable=one == "finish_reason") for one, kind in kinds.items())
    rows, schema = answered("b", "q"), Schema("rows", 1, columns, key=("sample_id",))
    with Attempt.begin(str(tmp_path / "rows"), schema) as attempt:
        writer = attempt.shard(0)
        writer.write(schema.conform(rows))
        given = attempt.commit([writer.finish()])
    resources = {"tokenizer": Resource("letters", functools.partial(letters, ENDINGS[name][0]))}
    op, mask = Chat(response="response", learn="last"), Mask(append_eos=True)
    texts = apply(op, given, str(tmp_path / "texts"), resources=resources)
    tokens = apply(mask, texts, str(tmp_path / "tokens"), resources=resources)
    without = 2 if name == "no end" else 0
    assert texts.stats["counts"] == {WITHOUT_END: without, CUT_ANSWERS: 1}
    lines = op.notes(texts.manifest)
    [line] = [line for line in lines if "cut" in line]
    assert line.startswith("1 of 3 answers (33%) were cut at max_new_tokens: their end is not learnt")
    assert [line for line in lines if "append_eos" in line] == [
        line for line in lines if line.startswith("no trained part ends in an end token in 2 of 3 rows (67%)")
    ]
    assert any("append_eos" in line for line in lines) == bool(without)
    assert not mask.notes(tokens.manifest)
    end = letters(ENDINGS[name][0]).id_of(EOS)
    ended = [row[-1] == end for row in tokens.read().sort_by("sample_id")["input_ids"].to_pylist()]
    assert ended == ([False, True, True] if name == "no end" else [False] * 3)
