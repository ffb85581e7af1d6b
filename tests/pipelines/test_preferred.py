"""Pairs as the rows that an algorithm declares: planned only."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import luigi
import pyarrow as pa
import pytest

from datakit.blend import Mismatch, Unpair
from datakit.filter import NotNull
from datakit.label import Logprobs
from datakit.tokenize import Sequences
from pipelines.graph.nodes import Table
from pipelines.graph.plan import Plan
from pipelines.recipes import PreferenceOptimization
from pipelines.stages.ask import PLAIN
from pipelines.stages.preferred import learnt_rows
from schemas.errors import ConfigError
from schemas.rows.conversation import IDS
from schemas.rows.feedback import FEEDBACK_TOKENS
from schemas.rows.tokens import MASK
from schemas.schema import Column
from trainers.algorithm import Algorithm, TokenColumn
from trainers.algorithms import DPO, KTO, RPO, SFT
from trainers.registry import configured

WANTED = replace(
    DPO,
    name="wanted",
    rows=FEEDBACK_TOKENS.dropping("source").adding(Column("ref_logprob", pa.float64(), "of the answer")),
    sequences=(TokenColumn(ids="input_ids", mask="loss_mask"),),
)
"""An algorithm over answers one by one."""
BESIDE = replace(
    WANTED,
    name="beside",
    rows=WANTED.rows.adding(
        Column("prompt_id_ids", IDS, "another text of the row, templated as its answer"),
        Column("prompt_id_mask", MASK, "as in loss_mask"),
        Column("ref_logprob_prompt", pa.float64(), "of that"),
    ),
    sequences=(*WANTED.sequences, TokenColumn(ids="prompt_id_ids", mask="prompt_id_mask")),
)
"""The same with a second text beside each answer."""


@pytest.fixture
def plan(tmp_path: Path):
    """A plan, with a file of pairs in the configuration."""
    place = tmp_path / "pairs.jsonl"
    place.write_text(json.dumps({"prompt": "Say 1.", "chosen": "one", "rejected": "two"}) + "\n")
    config = luigi.configuration.get_config()
    config.set("preferences", "files", json.dumps([str(place)]))
    yield Plan(str(tmp_path / "data"))
    config.remove_option("preferences", "files")


@pytest.fixture
def learnt(plan: Plan):
    """Rows of an algorithm, planned over a file of pairs with the policy that the setup trains."""
    setup = PreferenceOptimization().task_setup(plan)
    return lambda algorithm: learnt_rows(plan, "some/rows", algorithm, setup.pairs[0], setup.policy, PLAIN, 7)


@pytest.mark.parametrize(
    ("words", "beta"),
    [
        ({}, 0.1),
        ({"algorithm": "dpo", "options": {"label_smoothing": 0.2}}, 0.1),
        ({"algorithm": "cdpo"}, 0.1),
        ({"algorithm": "spin"}, 0.1),
        ({"algorithm": "dpo_norm"}, 5.0),
        ({"algorithm": "dpo_norm", "options": {"beta": 3.0}}, 3.0),
        ({"algorithm": "simpo"}, 2.0),
        ({"algorithm": "ipo"}, 0.2),
        ({"algorithm": "kto"}, 0.2),
        ({"algorithm": "orpo", "set": ("settings.beta=0.4",)}, 0.4),
    ],
    ids=str,
)
def test_beta_is_that_of_the_algorithm_or_of_its_preset(plan: Plan, words: dict[str, Any], beta: float) -> None:
    policy = PreferenceOptimization(**words).results(plan).checkpoints["policy"]
    learning = policy.training.learning
    assert configured(learning.algorithm, learning.settings)[1].beta == beta


@pytest.mark.parametrize("algorithm", [DPO, RPO, WANTED, BESIDE, KTO], ids=lambda algorithm: algorithm.name)
def test_rows_hold_what_the_algorithm_reads(learnt, algorithm: Algorithm) -> None:
    rows: Table = learnt(algorithm)
    rows.schema.requires(algorithm.rows, algorithm.name)
    assert isinstance(rows.op, Logprobs) and rows.op.per == "row"
    unpaired = [node for node in rows.ancestors() if isinstance(node, Table) and isinstance(node.op, Unpair)]
    wanted = [node for node in unpaired if node.op.desirable]
    assert len(wanted) == (algorithm not in (DPO, RPO))
    known = [node.op for node in rows.ancestors() if isinstance(node, Table) and isinstance(node.op, NotNull)]
    assert known == [NotNull(columns=("chosen_reward", "rejected_reward"))] * (algorithm is RPO)


def test_a_text_beside_the_answer_becomes_tokens_of_its_own(learnt) -> None:
    rows: Table = learnt(BESIDE)
    assert rows.op.columns == (
        ("input_ids", "loss_mask", "ref_logprob"),
        ("prompt_id_ids", "prompt_id_mask", "ref_logprob_prompt"),
    )
    [other] = [node for node in rows.ancestors() if isinstance(node, Table) and isinstance(node.op, Sequences)]
    assert other.label == "some/rows.prompt_id.tokens" and other.op.names == ("prompt_id",)


def test_answers_to_other_questions_are_put_beside_those_of_kto(learnt) -> None:
    rows: Table = learnt(KTO)
    assert [columns[2] for columns in rows.op.columns] == ["ref_logprob", "ref_logprob_mismatched"]
    [beside] = [node for node in rows.ancestors() if isinstance(node, Table) and isinstance(node.op, Mismatch)]
    assert beside.seed == 7 and isinstance(beside.inputs[0].op, Unpair)


def test_an_algorithm_that_learns_no_preferences_is_refused(learnt) -> None:
    with pytest.raises(ConfigError, match="sft learns no preferences") as fault:
        learnt(SFT)
    assert fault.value.next == "--algorithm dpo"


def test_a_text_that_no_operation_adds_is_refused(learnt) -> None:
    other = TokenColumn(ids="absent_ids", mask="prompt_id_mask")
    rows = BESIDE.rows.dropping("prompt_id_ids").adding(Column("absent_ids", IDS, "of a text that there is not"))
    with pytest.raises(ConfigError, match="no operation adds absent to rows of feedback"):
        learnt(replace(BESIDE, rows=rows, sequences=(*WANTED.sequences, other)))
