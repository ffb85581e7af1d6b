"""Pairs of drawn answers: of one that was cut no end is learnt, whatever reads the pair. Masks by hand."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.blend import Mismatch, Mix, Pair, Unpair
from datakit.columns.learnt_ends import CUT_ANSWERS
from datakit.run.resource import Resource
from datakit.template import Rendering
from pipelines.graph.backend import Step
from pipelines.graph.plan import Plan
from pipelines.graph.steps import answer_steps, beside_steps, pair_steps, scored_steps
from pipelines.stages.fine_tuning import BLENDED
from pipelines.stages.iteration import partial_columns
from schemas import MESSAGES, Column, Schema
from schemas.dataset import Dataset
from tests.datakit.fakes import letters

TEMPLATE = (
    "{% for m in messages %}{{ '<user>' if m.role == 'user' else '<bot>' }}{{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<bot>{% endif %}"
)
LENGTH, STOP, NOBODY_KNOWS = "length", "stop", None
ENDS = {"p": (LENGTH, STOP), "q": (STOP, LENGTH), "r": (STOP, STOP), "s": (NOBODY_KNOWS, NOBODY_KNOWS)}
"""Of each question why its better answer and its worse one ended."""
ANSWERS = {f"{question}{side}": reason for question, both in ENDS.items() for side, reason in enumerate(both)}
LEARNT = {name: name if reason == LENGTH else f"{name}<end>" for name, reason in ANSWERS.items()}
TOKENIZER = {"tokenizer": Resource("letters", functools.partial(letters, TEMPLATE))}
READING = Rendering()


@pytest.fixture
def pairs(tmp_path: Path) -> Dataset:
    """`blend.pair`'s, of samples: the better answer to p is p0, the worse one p1, which are their texts."""
    columns = {
        "prompt_id": pa.array([name[0] for name in ANSWERS]),
        "messages": pa.array([[{"role": "user", "content": name[0]}] for name in ANSWERS], MESSAGES),
        "sample_id": pa.array([f"sample {name}" for name in ANSWERS]),
        "sample_index": pa.array([int(name[1]) for name in ANSWERS], pa.int32()),
        "response": pa.array([*ANSWERS]),
        "reward": pa.array([1.0 - int(name[1]) for name in ANSWERS]),
        "finish_reason": pa.array([*ANSWERS.values()], pa.string()),
    }
    rows = pa.table(columns)
    schema = Schema("samples", 1, tuple(Column(f.name, f.type, "", f.name == "finish_reason") for f in rows.schema))
    samples = Dataset.from_arrow(rows, schema, str(tmp_path / "samples"))
    made = apply(Pair(), samples, str(tmp_path / "pairs"))
    assert made.num_rows == 4
    return made


def after(steps: Sequence[Step], rows: Dataset, folder: Path) -> tuple[Dataset, list[str]]:
    """The rows after these stages, and what they say of them."""
    lines: list[str] = []
    for number, step in enumerate(steps):
        needed: Any = TOKENIZER if "tokenizer" in step.op.needs else {}
        rows = apply(step.op, rows, f"{folder}-{number}", resources=needed)
        lines += step.op.notes(rows.manifest)
    return rows, lines


def text_of(ids: Sequence[int], mask: Sequence[int] | None = None) -> str:
    """The text of those tokens that are counted, or of all."""
    counted = [one for one, mark in zip(ids, [1] * len(ids) if mask is None else mask, strict=True) if mark]
    texts: list[str] = letters(TEMPLATE).decode([counted], control=True)  # type: ignore[attr-defined]
    return texts[0]


def test_pairs_that_a_policy_learns_from_teach_the_ends_that_were_drawn(pairs: Dataset, tmp_path: Path) -> None:
    tokens, lines = after(pair_steps(READING, None, masks=True), pairs, tmp_path / "dpo")
    rows = tokens.read().to_pylist()
    for side in ("chosen", "rejected"):
        learnt = {row[side]: text_of(row[f"{side}_ids"], row[f"{side}_mask"]) for row in rows}
        assert learnt == {name: text for name, text in LEARNT.items() if name in learnt} and len(learnt) == 4
    [line] = lines
    assert line.startswith("2 of 8 answers (25%) were cut at max_new_tokens: their end is not learnt")
    assert Dataset.open(f"{tmp_path}/dpo-0").stats["counts"] == {CUT_ANSWERS: 2}


def test_answers_of_pairs_one_by_one_teach_the_ends_that_were_drawn(pairs: Dataset, tmp_path: Path) -> None:
    feedback = apply(Unpair(desirable=True), pairs, str(tmp_path / "feedback"))
    known = {row["response"]: (row["drawn_sample_id"], row["finish_reason"]) for row in feedback.read().to_pylist()}
    assert known == {name: (f"sample {name}", reason) for name, reason in ANSWERS.items()}
    beside = apply(Mismatch(), feedback, str(tmp_path / "beside"), seed=5)
    kto = (*answer_steps(READING, None, beside.schema), *beside_steps(READING, None, "mismatched"))
    tokens, lines = after(kto, beside, tmp_path / "kto")
    for row in tokens.read().to_pylist():
        assert text_of(row["input_ids"], row["loss_mask"]) == LEARNT[row["response"]]
        assert row["mismatched"][0] != row["prompt_id"]
        assert row["mismatched_finish_reason"] == ANSWERS[row["mismatched"]]
        assert text_of(row["mismatched_ids"], row["mismatched_mask"]) == LEARNT[row["mismatched"]]
    assert lines[0].startswith("2 of 8 answers (25%) were cut at max_new_tokens")


def test_a_reward_model_learns_from_what_it_will_score(pairs: Dataset, tmp_path: Path) -> None:
    """Its reward is read at the last token: texts are closed, in training as in scoring. No end of a cut answer is
    marked as something to learn.
    """
    learnt, lines = after(pair_steps(READING, None, masks=False), pairs, tmp_path / "rm")
    apart = apply(Unpair(), pairs, str(tmp_path / "apart"))
    scored, silent = after(scored_steps(READING, None), apart, tmp_path / "scored")
    ids = {row["response"]: row["input_ids"] for row in scored.read().to_pylist()}
    for row in learnt.read().to_pylist():
        for side in ("chosen", "rejected"):
            assert row[f"{side}_ids"] == ids[row[side]]
            assert text_of(row[f"{side}_ids"]) == f"<user>{row['prompt_id']}<end><bot>{row[side]}<end>"
            marked = "".join(piece["text"] for piece in row[f"{side}_pieces"] if piece["trained"])
            assert marked == LEARNT[row[side]]
    assert lines[0].startswith("2 of 8 answers (25%) were cut") and not silent


def test_a_mixture_of_named_columns_keeps_the_ends_that_all_its_answers_have(pairs: Dataset, tmp_path: Path) -> None:
    """The blend of an Improve step names its columns, and answers of pairs have a `finish_reason` as samples do."""
    apart = apply(Unpair(sides="chosen"), pairs, str(tmp_path / "apart"))
    node = Plan(str(tmp_path / "data")).existing(apart.url, "dataset")
    assert partial_columns([node, node]) == (), "nothing is lost there, and older keys stay"
    mix = Mix(
        sources=("kept", "original"), epochs=(1.0, 1.0), columns=BLENDED, partial=partial_columns([node] * 2, BLENDED)
    )
    rows = apply(mix, [apart, apart], str(tmp_path / "mix")).read().to_pylist()
    known = [(row["drawn_sample_id"], row["finish_reason"]) for row in rows]
    assert sorted(known, key=str) == sorted(((f"sample {q}0", ENDS[q][0]) for q in "ppqqrrss"), key=str)


def test_pairs_from_outside_teach_the_ends_that_they_always_did(pairs: Dataset, tmp_path: Path) -> None:
    nobody = pa.nulls(pairs.num_rows, pa.string())
    rows = pairs.read()
    for side in ("chosen", "rejected"):
        name = f"{side}_finish_reason"
        rows = rows.set_column(rows.schema.get_field_index(name), pairs.schema[name].field, nobody)
    outside = Dataset.from_arrow(rows, pairs.schema, str(tmp_path / "outside"))
    tokens, lines = after(pair_steps(READING, None, masks=True), outside, tmp_path / "dpo")
    for row in tokens.read().to_pylist():
        assert text_of(row["chosen_ids"], row["chosen_mask"]) == f"{row['chosen']}<end>"
    assert not lines
