"""Pairs as the rows that an algorithm declares: planned only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import luigi
import pyarrow as pa
import pytest
from commands import luigi as luigi_command

from datakit.apply import apply
from datakit.blend import Mismatch, Split, Unpair
from datakit.filter import NotNull
from datakit.io import Jsonl
from datakit.label import Logprobs
from datakit.op import Op
from datakit.tokenize import Sequences
from pipelines.graph.node import Node
from pipelines.graph.nodes import Table
from pipelines.graph.plan import Plan
from pipelines.recipes import Preference, PreferenceOptimization
from pipelines.stages.ask import PLAIN
from pipelines.stages.preference_rows import learnt_rows
from schemas import Dataset
from schemas.errors import ConfigError, DataError
from schemas.rows.conversation import IDS
from schemas.rows.feedback import FEEDBACK, FEEDBACK_TOKENS
from schemas.rows.tokens import MASK
from schemas.schema import Column
from tests import pages
from trainers.algorithm import Algorithm, TokenColumn
from trainers.algorithms import DPO, IPO, KTO, ORPO, RPO, SIMPO
from trainers.registry import configured

WANTED = replace(
    DPO,
    name="wanted",
    rows=FEEDBACK_TOKENS.dropping("source").adding(Column("ref_logprob", pa.float64(), "of the answer")),
    sequences=(TokenColumn(ids="input_ids", mask="loss_mask", reference="ref_logprob"),),
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
    sequences=(
        *WANTED.sequences,
        TokenColumn(ids="prompt_id_ids", mask="prompt_id_mask", reference="ref_logprob_prompt"),
    ),
)
"""The same with a second text beside each answer."""
ALONE = replace(
    WANTED,
    name="alone",
    rows=WANTED.rows.dropping("ref_logprob"),
    sequences=(TokenColumn(ids="input_ids", mask="loss_mask"),),
)
"""Answers one by one, held against nothing."""
_TOOLS = replace(FEEDBACK["tools"], nullable=False)
WITH_TOOLS = replace(WANTED, name="with_tools", rows=WANTED.rows.adding(_TOOLS))
"""The same with a column that rows may lack."""


PAIR = {"prompt": "Say 1.", "chosen": "one", "rejected": "two"}


@pytest.fixture
def plan(tmp_path: Path):
    """A plan, with a file of pairs in the configuration: the second has known rewards."""
    place = tmp_path / "pairs.jsonl"
    rewarded = {"prompt": "Say 2.", "chosen": "2", "rejected": "1", "chosen_reward": 1.5, "rejected_reward": -1}
    place.write_text("".join(json.dumps(row) + "\n" for row in (PAIR, rewarded)))
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


@pytest.mark.parametrize("rewards", [{}, {"chosen_reward": 1.0}])
def test_pairs_without_what_the_algorithm_reads_are_refused_before_anything_runs(
    place: Path, rewards: dict[str, float]
) -> None:
    (place / "pairs.jsonl").write_text(
        "".join(json.dumps({**PAIR, **rewards, "prompt": f"{n}"}) + "\n" for n in range(9))
    )
    recipe = Preference(model="model", data="pairs.jsonl", algorithm="rpo")
    with pytest.raises(DataError, match="rpo reads chosen_reward and rejected_reward of every row, and no") as fault:
        recipe.results(Plan("data"))
    assert (fault.value.slug, fault.value.kept) == ("nothing-kept", "nothing was started")
    assert fault.value.where == "pairs.jsonl" and fault.value.next.startswith("--columns ")
    assert Preference(model="model", data="pairs.jsonl", algorithm="dpo").results(Plan("data")).targets
    assert not (place / "data").exists()


JUDGED: dict[str, list[dict[str, Any]]] = {
    "kto_labels": [{"prompt": f"{n}?", "completion": f"{n}.", "label": n % 2 == 0} for n in range(8)],
    "kto": [{"prompt": f"{n}?", "response": f"{n}.", "preference": ("chosen", "rejected")[n % 2]} for n in range(8)],
    "kto_messages": [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}."}], "label": n < 4}
        for n in range(8)
    ],
}


@pytest.mark.parametrize("form", JUDGED)
def test_answers_that_were_judged_one_by_one_are_read_as_they_are(place: Path, form: str) -> None:
    """Files of KTO's own shapes, by recognition: nothing is taken apart, and held-out answers are judged by rewards."""
    data = write(place, *JUDGED[form])
    results = Preference(model="model", data=data, algorithm="kto").results(Plan("data"))
    policy, evaluation = results.targets
    assert not [op for node in results.targets for op in ops(node) if isinstance(op, Unpair)]
    [read] = {op for op in ops(policy) if isinstance(op, Jsonl)}
    assert read.format == form
    assert isinstance(evaluation, Table) and evaluation.op.columns == ("wanted", "reward_wanted", "reward_unwanted")
    with pytest.raises(ConfigError, match=r"dpo learns from pairs, and .* has answers judged one by one") as fault:
        Preference(model="model", data=data).results(Plan("data"))
    assert (fault.value.slug, fault.value.next) == ("wrong-rows", "--algorithm kto")


def test_kto_holds_two_prompts_out_because_each_answer_stands_beside_another_questions(place: Path) -> None:
    data = write(place, *JUDGED["kto_labels"])
    results = Preference(model="model", data=data, algorithm="kto").results(Plan("data"))
    assert {op.least for op in ops(results.targets[-1]) if isinstance(op, Split)} == {2}
    few = write(place, *JUDGED["kto_labels"][:3])
    with pytest.raises(DataError, match="has 3 prompts: too few") as fault:
        Preference(model="model", data=few, algorithm="kto").results(Plan("data"))
    assert (fault.value.slug, fault.value.next) == ("too-few-prompts", "--eval-share 0")


@pytest.mark.slow
def test_kto_on_a_file_of_labels_rewards_wanted_answers(tmp_path: Path) -> None:
    """End to end; the figures are those of the rows, by hand."""
    pages.model(tmp_path / "my-model")
    rows = [{"prompt": f"{n}?", "completion": ("yes", "no")[n % 2], "label": n % 2 == 0} for n in range(24)]
    write(tmp_path, *rows)
    flags = ["--algorithm", "kto", "--lr", "3e-3", "--batch-size", "4", "--epochs", "3", "--eval-share", "0.3"]
    words = ["Preference", "--model", "my-model", "--data", "some.jsonl", *flags]
    done = luigi_command(tmp_path, *words, module="pipelines")
    assert done.returncode == 0, done.stderr
    [order] = (tmp_path / "quiver-data/preference/some").glob("held-out-order-*")
    [read] = (tmp_path / "quiver-data/preference/some").glob("held-out-read-*")
    judged = {row["sample_id"]: row for row in Dataset.open(str(order)).read().to_pylist()}
    asked_of = Dataset.open(str(read)).read().to_pylist()
    assert {row["sample_id"] for row in asked_of} == {*judged} and len(judged) >= 2
    sides: dict[bool, list[float]] = {True: [], False: []}
    for row in asked_of:
        reward = 0.2 * (row["policy_logprob"] - row["ref_logprob"])
        sides[row["desirable"]].append(reward)
        mine, other = ("reward_wanted", "reward_unwanted")[:: 1 if row["desirable"] else -1]
        assert judged[row["sample_id"]][mine] == pytest.approx(reward) and judged[row["sample_id"]][other] is None
    means = [sum(values) / len(values) for values in sides.values()]
    assert means[0] > means[1], "after learning the wanted answers have the greater rewards"
    figures = done.stdout.split("rewards/margins\n")[1].splitlines()[1].split()
    assert figures[2:5] == [f"{value:.4f}" for value in (*means, means[0] - means[1])]


def test_pairs_that_are_there_without_rewards_are_refused_too(place: Path) -> None:
    made = apply(
        Jsonl(files=(write(place, PAIR, {**PAIR, "prompt": "other"}),), format="preferences").pinned(),
        (),
        str(place / "made"),
    )
    with pytest.raises(DataError, match="rpo reads") as fault:
        Preference(model="model", data=made.url, algorithm="rpo").results(Plan("data"))
    assert fault.value.where.endswith("made")


def write(folder: Path, *rows: dict[str, Any]) -> str:
    (folder / "some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "some.jsonl")


def ops(node: Node) -> list[Op]:
    return [one.op for one in node.ancestors() if isinstance(one, Table)]


def asked(nodes: Sequence[Node], of: str) -> list[Op]:
    """Questions about log-probabilities of whole sequences, below labels that hold `of`."""
    every = {id(one): one for node in nodes for one in node.ancestors() if isinstance(one, Table) and of in one.label}
    return [one.op for one in every.values() if isinstance(one.op, Logprobs)]


LEARNT = [DPO, IPO, RPO, SIMPO, ORPO, WANTED, ALONE, WITH_TOOLS, BESIDE, KTO]


@pytest.mark.parametrize("algorithm", LEARNT, ids=lambda algorithm: algorithm.name)
def test_rows_hold_what_the_algorithm_reads_and_nothing_else_is_asked(learnt, algorithm: Algorithm) -> None:
    """A reference is asked once, about the columns that the algorithm declares, or never."""
    rows: Table = learnt(algorithm)
    rows.schema.requires(algorithm.rows, algorithm.name)
    declared = [name for name in algorithm.rows.names if name.startswith("ref_logprob")]
    assert [[name for _, _, name in op.columns] for op in asked([rows], "rows")] == ([declared] if declared else [])
    assert not {name for name in rows.schema.names if name.startswith("ref_logprob")} - {*declared}
    wanted = [op for op in ops(rows) if isinstance(op, Unpair) and op.desirable]
    assert len(wanted) == (algorithm not in (DPO, IPO, RPO, SIMPO, ORPO))
    known = {"rpo": [("chosen_reward", "rejected_reward")], "with_tools": [("tools",)]}
    assert [op.columns for op in ops(rows) if isinstance(op, NotNull)] == known.get(algorithm.name, [])


@pytest.mark.parametrize(
    ("algorithm", "training", "held_out"), [("dpo", 1, 2), ("rpo", 1, 2), ("simpo", 0, 2), ("orpo", 0, 2)]
)
def test_only_what_is_compared_is_asked_where_there_is_no_reference(
    plan: Plan, algorithm: str, training: int, held_out: int
) -> None:
    """The held-out pairs are read before and after, by every algorithm: the same that a training validates on."""
    targets = PreferenceOptimization(algorithm=algorithm).results(plan).targets
    assert len(asked(targets, "pairs-train")) == training
    assert len(asked(targets, "held-out")) == held_out


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


def test_an_algorithm_that_learns_no_preferences_is_refused(plan: Plan) -> None:
    with pytest.raises(ConfigError, match="sft learns no preferences") as fault:
        PreferenceOptimization(algorithm="sft").results(plan)
    assert fault.value.next == "--algorithm dpo"


def test_a_text_that_no_operation_adds_is_refused(learnt) -> None:
    other = TokenColumn(ids="absent_ids", mask="prompt_id_mask", reference="ref_logprob_prompt")
    rows = BESIDE.rows.dropping("prompt_id_ids").adding(Column("absent_ids", IDS, "of a text that there is not"))
    with pytest.raises(ConfigError, match="no operation adds absent to rows of feedback"):
        learnt(replace(BESIDE, rows=rows, sequences=(*WANTED.sequences, other)))
