"""Rows filled into a template: NeMo-Aligner's layout and its cuts, followed step by step on tokens of one letter."""

from __future__ import annotations

import itertools
import random
import re
from typing import Any

import pyarrow as pa
import pytest

from datakit.op import Context
from datakit.run.resource import Resource
from datakit.tokenize import PromptTemplate
from schemas import COMPLETIONS, MESSAGES
from schemas.errors import ConfigError
from tests.datakit.fakes import BOS, END, EOS, Example, letters

EXAMPLES = [
    Example(PromptTemplate(), (COMPLETIONS.example(12),), {"tokenizer": Resource("letters", letters)}),
    Example(
        PromptTemplate(
            template="Q: {question} A: {answer}", columns={"question": "prompt_id", "answer": "response"},
            max_length=20, truncation_fields=("question", "answer"), answer_only_loss=False,
        ),
        (COMPLETIONS.example(12),), {"tokenizer": Resource("letters", letters)},
    ),
]  # fmt: skip


def nemo_row(
    template: str, row: dict[str, str], limit: int, fields: tuple[str, ...], side: str
) -> tuple[str, str, int]:
    """Context, answer and cut tokens of a row, as NeMo's data set makes them where a letter is a token."""
    parts = [part for part in re.split(r"( *?\{.+?\})", template) if part]
    keys = [part.strip(" {}") if "{" in part else "" for part in parts]
    texts = [
        part.split("{")[0] * (at > 0) + row[key].strip(" ") if key else part
        for at, (part, key) in enumerate(zip(parts, keys, strict=True))
    ]
    cut = 0
    excess = sum(map(len, texts)) + 1 - limit
    if excess > 0:
        count = sum(key in fields for key in keys)
        shares = [excess // count + (1 if at < excess % count else 0) for at in range(count)][::-1]
        for at, key in enumerate(keys):
            if key in fields:
                share = min(shares.pop(), len(texts[at]))
                cut += share
                texts[at] = texts[at][share:] if side == "left" else texts[at][: len(texts[at]) - share]
    return "".join(texts[:-1]), texts[-1], cut


def filled(rows: list[dict[str, str]], **settings: Any) -> tuple[list[tuple[str, str, int] | str], list[list[int]]]:
    """Context, answer (what is learnt, less the end) and cut tokens of each row, or why it goes; the masks too."""
    tokenizer: Any = letters()
    table = pa.table(
        {"sample_id": [str(at) for at in range(len(rows))], **{k: [row[k] for row in rows] for k in rows[0]}}
    )
    op = PromptTemplate(columns={}, **settings)
    made = op.label(table, Context(resources={"tokenizer": tokenizer}))
    out: list[tuple[str, str, int] | str] = []
    masks = made.columns["loss_mask"].to_pylist()
    for at, (ids, mask) in enumerate(zip(made.columns["input_ids"].to_pylist(), masks, strict=True)):
        reason = made.kept.reason[at].as_py()
        assert made.kept.keep[at].as_py() == (reason == "")
        if reason:
            out.append(reason)
            continue
        assert ids[-1] == tokenizer.id_of(EOS) and mask[-1] == 1
        first = mask.index(1)
        assert all(mask[first:])
        text = tokenizer.decode([ids[:first], ids[first:-1]])
        out.append((text[0], text[1], made.columns["truncated"][at].as_py()))
    return out, masks


TEMPLATES = {
    "{input} {output}": ("input",), "Context: {c}  Question: {input} Answer: {output}": ("c", "input"),
    "{input}\n{c}\n\n{output}": ("input", "c"), "[{c}] {input} {output}": ("c", "input", "output"),
}  # fmt: skip


@pytest.mark.parametrize(("template", "side"), list(itertools.product(TEMPLATES, ("right", "left"))))
def test_layout_and_cuts_are_nemo_aligners(template: str, side: str) -> None:
    draw = random.Random(5)
    fields, limit = TEMPLATES[template], 40

    def text(most: int) -> str:
        return "".join(draw.choice("abc ") for _ in range(draw.randrange(most))).replace("\n", "")

    rows = [{"input": text(40), "c": text(20), "output": "x" + text(15)} for _ in range(120)]
    made, _ = filled(rows, template=template, max_length=limit, truncation_fields=fields, truncation_side=side)
    seen = set()
    for row, one in zip(rows, made, strict=True):
        context, answer, cut = nemo_row(template, row, limit, fields, side)
        fits = len(context) + len(answer) + 1 <= limit
        expected = (context, answer, cut) if fits else "too-long"
        if fits and not context:
            assert "".join(map(str, one)) == f"{answer}{cut}", "the first token is never predicted"
            continue
        assert one == expected
        seen.add("cut" if fits and cut else "whole" if fits else "too-long")
    assert {"cut", "whole"} <= seen


def test_shares_by_hand() -> None:
    """Five tokens too many over two fields in template order: three out of the first, two out of the second."""
    row = {"b": "B" * 9, "a": "A" * 9, "output": "xyz"}
    (one,), _ = filled([row], template="{b}{a} {output}", max_length=18, truncation_fields=("a", "b"))
    assert one == ("BBBBBB" + "AAAAAAA", " xyz", 5)
    short = {"b": "B", "a": "A" * 20, "output": "xyz"}
    (one,), _ = filled([short], template="{b}{a} {output}", max_length=18, truncation_fields=("a", "b"))
    assert one == "too-long", "a field shorter than its share is emptied, the others give no more than theirs"


def test_what_is_learnt_and_what_stands_around() -> None:
    row = {"input": " q ", "output": "a"}
    _, (mask,) = filled([row])
    assert mask == [0, 1, 1, 1], "q, blank and a, end: the blank belongs to the answer"
    tokenizer: Any = letters()
    op = PromptTemplate(columns={}, answer_only_loss=False, add_bos=True, separator=END, add_eos=False)
    made = op.label(
        pa.table({"sample_id": ["s"], "input": ["q"], "output": ["a"]}), Context(resources={"tokenizer": tokenizer})
    )
    ids = made.columns["input_ids"][0].as_py()
    assert ids == [
        tokenizer.id_of(BOS),
        *tokenizer.encode(["q"])[0],
        tokenizer.id_of(END),
        *tokenizer.encode([" a"])[0],
    ]
    assert made.columns["loss_mask"][0].as_py() == [0, 1, 1, 1, 1]


def test_completions_are_one_question_and_their_answer() -> None:
    turns = [[{"role": "user", "content": "q"}], [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]]
    table = pa.table({"sample_id": ["a", "b"], "messages": pa.array(turns, MESSAGES), "response": ["yes", "no"]})
    made = PromptTemplate().label(table, Context(resources={"tokenizer": letters()}))
    assert made.kept.reason.to_pylist() == ["", "several-turns"]
    assert letters().decode(made.columns["input_ids"].to_pylist())[0] == "q yes"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "settings",
    [{"template": "{output} more"}, {"template": "text"}, {"truncation_fields": ("context",)}, {"max_length": 0}],
)
def test_wrong_settings_are_named(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PromptTemplate(**settings)
