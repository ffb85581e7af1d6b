"""Stages that use a machine's GPUs run one after the other, however many workers Luigi has; elsewhere nothing waits."""

from __future__ import annotations

from pathlib import Path

import pytest
from luigi.scheduler import DONE, Scheduler

from datakit.io import Reversal
from datakit.label import Logprobs
from datakit.tokenize import Train
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.runtime import workers
from pipelines.runtime.tasks import task_of
from pipelines.stages.ask import ask
from pipelines.stages.iteration import tokenized
from trainers.config import training_of

SHAPE = {"num_layers": 1, "hidden_size": 8, "ffn_hidden_size": 8, "num_attention_heads": 1, "num_query_groups": 1}


@pytest.fixture
def nodes(tmp_path: Path) -> list[Node]:
    """A training run, another, a stage that asks a checkpoint, and one that asks no model."""
    plan = Plan(str(tmp_path))
    rows = plan.table("rows", Reversal(rows=8, output="demonstrations"))
    tokenizer = plan.table("tokenizer", Train(vocab_size=288), rows)
    data = tokenized(plan, "rows", tokenizer, rows, 32)
    trainings = [
        training_of(
            "sft",
            {"epochs": epochs, "global_batch_size": 2, "optim": {"lr": 1e-3}},
            seed=0,
            model={**SHAPE, "max_sequence_length": 32},
        )
        for epochs in (1, 2)
    ]
    one, two = (
        plan.model(f"policy{at}", training, data=data, tokenizer=tokenizer) for at, training in enumerate(trainings)
    )
    return [one, two, ask(plan, "asked", Logprobs(), rows, one), rows]


def at_once(nodes: list[Node]) -> list[str]:
    """What Luigi's scheduler hands to four workers while nothing is done."""
    scheduler = Scheduler()
    tasks = {task.task_id: task for task in map(task_of, nodes)}
    for name, task in tasks.items():
        scheduler.add_task(worker="w0", task_id=name, resources=task.process_resources(), family="x", params={})
    given: list[str] = []
    for number in range(4):
        worker = f"w{number}"
        for name, task in tasks.items():
            if name not in given:
                scheduler.add_task(
                    worker=worker, task_id=name, resources=task.process_resources(), family="x", params={}
                )
        if name := scheduler.get_work(worker=worker)["task_id"]:
            given.append(name)
    scheduler.add_task(worker="w0", task_id=given[0], status=DONE)
    return [tasks[name].label for name in given]


def test_stages_on_gpus_wait_for_each_other_and_others_for_none(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_torch_has_cuda", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    [name] = {name for node in nodes for name in task_of(node).process_resources()}
    assert name.startswith("gpus-")
    assert [task_of(node).process_resources() for node in nodes] == [{name: 1}] * 3 + [{}]
    labels = at_once(nodes)
    assert len(labels) == 2 and "rows" in labels


def test_without_a_gpu_all_run_at_once(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [task_of(node).process_resources() for node in nodes] == [{}] * 4
    assert len(at_once(nodes)) == 4
