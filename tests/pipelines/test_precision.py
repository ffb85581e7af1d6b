"""What a training is held against is computed in its precision; what is measured, in fp32."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datakit.io import Jsonl
from datakit.label import Divergence, Logprobs, TopK, Values
from datakit.template import Rendering
from pipelines.cli.console import Stage
from pipelines.graph.node import Node
from pipelines.graph.nodes import Table, TrainedCheckpoint
from pipelines.graph.plan import Plan
from pipelines.recipes import Preference, SpinIteration, SteerLm2Iteration
from pipelines.runtime.tasks import task_of
from pipelines.stages.ask import Reading
from pipelines.stages.preference_training import trained_on_pairs
from schemas.manifest import task_key_of
from tests.trainers import toys
from tests.trainers.networks import louder, network, vocabulary
from trainers import run as runs
from trainers.config import training_of
from trainers.engine.checkpoint import checkpoint


def asked(nodes: Sequence[Node]) -> dict[str, set[str]]:
    """The precisions in which models are asked for log-probabilities, by what comes of them."""
    every = {id(one): one for node in nodes for one in node.ancestors() if isinstance(one, Table)}
    known: dict[str, set[str]] = {}
    for one in every.values():
        if isinstance(one.op, Logprobs):
            known.setdefault(one.op.columns[0][2], set()).add(one.op.precision)
    return known


@pytest.fixture
def folder(place: Path) -> Path:
    """That of a small model, with pairs, and with answers that were judged one by one."""
    sides = [{"prompt": f"q {n}", "chosen": "a", "rejected": "q"} for n in range(40)]
    single = [{"prompt": f"q {n}", "completion": "a", "label": n % 2 == 0} for n in range(40)]
    for name, rows in (("pairs", sides), ("single", single)):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


@pytest.mark.parametrize(
    ("algorithm", "data", "read", "before", "after"),
    [
        ("dpo", "pairs", {"fp32", "bf16"}, "ref_logprob_chosen", "policy_logprob_chosen"),
        ("ipo", "pairs", {"fp32", "bf16"}, "ref_logprob_chosen", "policy_logprob_chosen"),
        ("kto", "single", {"fp32", "bf16"}, "ref_logprob", "policy_logprob"),
        ("simpo", "pairs", {"fp32"}, "ref_logprob_chosen", "policy_logprob_chosen"),
    ],
)
def test_references_are_in_the_precision_of_the_training_and_figures_in_fp32(
    folder: Path, algorithm: str, data: str, read: set[str], before: str, after: str
) -> None:
    command: dict[str, Any] = {"model": "model", "data": f"{data}.jsonl", "algorithm": algorithm, "template": "text"}
    plan, half = Plan(str(folder / "data")), {**command, "set": ("precision=bf16",)}
    plain = Preference(**command).results(plan)
    results = Preference(**half).results(plan)
    assert asked(plain.targets)[before] == asked(plain.targets)[after] == {"fp32"}
    assert asked(results.targets)[before] == read and asked(results.targets)[after] == {"fp32"}
    trained = results.checkpoints["policy"]
    assert isinstance(trained, TrainedCheckpoint)
    for rows in (trained.data, trained.validation):
        assert rows is not None and asked([rows]) == ({} if algorithm == "simpo" else {before: {"bf16"}})
    ours, others = results.datasets["held_out"], plain.datasets["held_out"]
    assert ours is others, "the same model is asked the same, whatever the training is"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rounds_are_held_against_the_policy_before_in_their_precision(folder: Path, precision: str) -> None:
    spin = SpinIteration(setup="digits", set=(f"precision={precision}",)).results(Plan(str(folder / "data")))
    [policy] = [one for one in spin.targets[-1].ancestors() if one.label.endswith("step=1/policy")]
    assert isinstance(policy, TrainedCheckpoint) and asked([policy.data])["ref_logprob_chosen"] == {precision}
    words: dict[str, Any] = {"model": "model", "data": "rows.jsonl", "reward": "judges:letters"}
    words["set"] = (f"rounds.precision={precision}",)
    steered = SteerLm2Iteration(**words).results(Plan(str(folder / "data")))
    assert asked([steered.datasets["learnt"]]) == {"prior_logprob": {precision}, "ref_logprob": {precision}}


def test_the_precision_is_in_the_key_and_fp32_leaves_it_as_it_was() -> None:
    """The keys are those of the commit before there was a precision."""
    columns = (("chosen_ids", "chosen_mask", "ref_logprob_chosen"),)
    earlier = {
        Logprobs(per="row", columns=columns): "7fa4dd8d2bd26c829d1592cc94565f23db94533fe899ea67fa8471693d67c71f",
        TopK(): "49a9dd7748baec79baab5e5c8c220634d643640346218cdc9c3a1e799bcdc9e6",
        Values(): "f518dd07e626d8d0a23558a96e1dfa7c1937516c27c4bf11de0d0a0fb9ad8539",
        Divergence(): "42e884086dd5189c623715a09aeb24c19c1f9e495f9581337850426470bbde94",
    }
    for op, key in earlier.items():
        assert task_key_of(op.to_json(), ["rows"], {"model": "policy"}, 0) == key
        half = replace(op, precision="bf16")  # type: ignore[call-arg]
        assert task_key_of(half.to_json(), ["rows"], {"model": "policy"}, 0) != key


ROWS = 24


def test_in_bf16_too_the_first_step_begins_at_its_reference(tmp_path: Path) -> None:
    """The loss of DPO is log 2 where the policy is its own reference; bf16 against fp32 it was far from that."""
    net = louder(network(**toys.MODEL), 16.0)
    checkpoint.save(str(tmp_path / "init"), model=net, tokenizer_files=vocabulary(toys.VOCABULARY))
    random = np.random.default_rng(0)
    texts = [[" ".join(f"w{n}" for n in random.integers(2, 40, 12)) for _ in range(3)] for _ in range(ROWS)]
    rows = [dict(zip(("prompt", "chosen", "rejected"), one, strict=True)) for one in texts]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = Plan(str(tmp_path / "data"))
    reader = Jsonl(files=(str(tmp_path / "pairs.jsonl"),), format="preferences").pinned()
    pairs, policy = plan.table("pairs", reader), plan.existing(str(tmp_path / "init"), "checkpoint")
    settings = {"settings": {"beta": 1.0}, "precision": "bf16", "max_steps": 1, "global_batch_size": ROWS}
    training = training_of("dpo", {**settings, "optim": {"lr": 1e-6}}, seed=0)
    reading = Reading(rendering=Rendering(template="text"))
    [trained] = trained_on_pairs(plan, "some", training, (pairs, None), policy, policy, reading, 0).targets
    for node in trained.ancestors():
        if isinstance(node, Table):
            with Stage(node.label, node.op.name) as stage:
                task_of(node).make(node, stage)
    assert isinstance(trained, TrainedCheckpoint)
    run = trained.placed()
    runs.execute(run)
    [step] = toys.curve(run.paths.folder)
    assert step["loss"] == pytest.approx(math.log(2), abs=5e-3)
