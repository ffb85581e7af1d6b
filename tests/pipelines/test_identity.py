"""What a task is known by: the trap that instances as parameters fall into, and keys that hold what changes rows."""

from __future__ import annotations

from pathlib import Path

import luigi
import pytest
from commands import REST, damaged, digests
from commands import luigi as command
from toy import Above, Count, Draw

from pipelines.graph.nodes import Table
from pipelines.graph.plan import Plan
from pipelines.runtime.tasks import task_of
from schemas.errors import DataError


def chain(plan: Plan, rows: int, minimum: float = 0.5, **placing: int) -> Table:
    start = plan.table("trap/start", Count(rows=rows), **placing)
    drawn = plan.table("trap/drawn", Draw(), start, seed=1)
    return plan.table("trap/end", Above(minimum=minimum), drawn)


def test_two_chains_that_differ_only_upstream_both_run(tmp_path: Path) -> None:
    done = command(tmp_path, "Pair")
    assert done.returncode == 0, done.stderr
    made = digests(tmp_path)
    assert len([name for name in made if name.startswith("pair/end-")]) == 2
    assert len(made) == 6


def test_luigis_own_way_falls_into_the_trap() -> None:
    class Upstream(luigi.Task):
        rows = luigi.IntParameter()

    class Downstream(luigi.Task):
        upstream = luigi.TaskParameter()

    ids = {Downstream(upstream=Upstream(rows=rows)).task_id for rows in (1, 2)}
    assert len(ids) == 1, "Luigi can tell instances apart now: keys could become tasks"


def test_tasks_of_different_nodes_have_different_ids(tmp_path: Path) -> None:
    plan = Plan(str(tmp_path))
    assert task_of(chain(plan, 10)).task_id != task_of(chain(plan, 20)).task_id
    assert task_of(chain(plan, 10)) is task_of(chain(plan, 10))


def test_a_key_is_stable_and_holds_everything_upstream(tmp_path: Path) -> None:
    key = chain(Plan(str(tmp_path)), 10).task_key
    assert key == chain(Plan(str(tmp_path / "elsewhere")), 10).task_key
    assert key == chain(Plan(str(tmp_path)), 10, rows_per_shard=3).task_key
    assert len({key, chain(Plan(str(tmp_path)), 11).task_key, chain(Plan(str(tmp_path)), 10, 0.6).task_key}) == 3
    assert key == "a3b804a1e4fb480bb45d83b95915c22de59d44f98297d87388ad438527bba5f2"


def test_the_same_node_is_made_once(tmp_path: Path) -> None:
    plan = Plan(str(tmp_path))
    assert chain(plan, 10) is chain(plan, 10)
    assert len(plan.nodes) == 3


def test_an_edge_that_cannot_work_is_refused_before_anything_runs(tmp_path: Path) -> None:
    plan = Plan(str(tmp_path))
    start = plan.table("start", Count(rows=3))
    with pytest.raises(DataError, match="reward"):
        plan.table("end", Above(minimum=0.0), start)
    assert not list(tmp_path.iterdir())


def test_rows_of_another_tokenizer_are_refused_before_anything_runs(tmp_path: Path) -> None:
    from datakit.io import Reversal
    from datakit.tokenize import Train
    from pipelines.stages.iteration import tokenized
    from trainers.config import training_of

    plan = Plan(str(tmp_path))
    rows = plan.table("rows", Reversal(rows=8, output="demonstrations"))
    small, large = (plan.table("tokenizer", Train(vocab_size=size), rows) for size in (288, 300))
    learning = {"epochs": 1, "global_batch_size": 2, "optim": {"lr": 1e-3}}
    shape = {"num_layers": 1, "hidden_size": 8, "ffn_hidden_size": 8, "num_attention_heads": 1, "num_query_groups": 1}
    training = training_of("sft", learning, seed=0, model={**shape, "max_sequence_length": 32})
    tokens = tokenized(plan, "rows", small, rows, 32)
    policy = plan.model("policy", training, data=tokens, tokenizer=small)
    assert policy.tokenizer_id == small.task_key
    with pytest.raises(DataError, match="wrong-tokenizer"):
        plan.model("policy", training, data=tokens, tokenizer=large)
    with pytest.raises(DataError, match="rm learns nothing from rows of"):
        plan.model("judge", training_of("rm", learning, seed=0), data=tokens, tokenizer=small, init=policy)
    assert not list(tmp_path.iterdir())


WAYS = (("1", "1"), ("2", "2"), ("1", "3"), ("2", "0"))
"""Luigi workers, and processes of a stage (0: one per core): how many shards are in flight."""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_real_iteration_is_the_same_to_the_byte_however_it_is_spread(tmp_path: Path) -> None:
    made = []
    for number, (workers, processes) in enumerate(WAYS):
        folder = tmp_path / str(number)
        folder.mkdir()
        way = ("--workers", workers, "--quiver-processes", processes)
        done = command(folder, *REST, *way, module="pipelines", timeout=1800)
        assert done.returncode == 0, done.stderr
        assert damaged(folder) == []
        made.append(digests(folder))
    assert len(made[0]) > 50
    for way, others in zip(WAYS[1:], made[1:], strict=True):
        assert others == made[0], (way, sorted(name for name in others if others[name] != made[0].get(name)))
