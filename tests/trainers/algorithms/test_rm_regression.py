"""The regression reward model by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from schemas.errors import ConfigError, DataError
from schemas.rows.attributed import ATTRIBUTED_TOKENS
from schemas.settings import parse
from schemas.store import commit
from tests.trainers import toys
from trainers import run as runs
from trainers.algorithm import Loss, ModelOutputs, Needs
from trainers.algorithms.rm_regression import RM_REGRESSION, Settings
from trainers.config import Run

NONE = float("nan")


def loss_of(scores: list[list[float]], labels: list[list[float]]) -> tuple[Loss, torch.Tensor]:
    scores_BK = torch.tensor(scores, requires_grad=True)
    outputs = {"input_ids": ModelOutputs(torch.arange(len(scores)), len(scores), {Needs.SCORES: scores_BK})}
    return RM_REGRESSION.loss(Settings(), outputs, {"attributes": torch.tensor(labels)}), scores_BK


def test_attributes_that_were_not_judged_do_not_count() -> None:
    loss, scores_BK = loss_of([[1.0, 2.0], [3.0, 9.0], [5.0, 5.0]], [[0.0, 4.0], [3.5, NONE], [NONE, NONE]])
    assert loss.values.tolist() == [2.5, 0.25, 0.0] and loss.weights.tolist() == [2.0, 1.0, 0.0]
    total = (loss.values * loss.weights).sum()
    assert (total / loss.weights.sum()).item() == pytest.approx((1 + 4 + 0.25) / 3)
    error, count = loss.metrics["absolute_error"]
    assert (error.item(), count.item()) == (3.5, 3.0)
    total.backward()
    assert scores_BK.grad is not None
    assert scores_BK.grad.tolist() == [[2.0, -4.0], [-1.0, 0.0], [0.0, 0.0]]


def test_minus_a_hundred_is_no_judgement() -> None:
    loss, scores_BK = loss_of([[1.0, 2.0], [3.0, 9.0]], [[0.0, -100.0], [3.5, NONE]])
    assert loss.values.tolist() == [1.0, 0.25] and loss.weights.tolist() == [1.0, 1.0]
    error, count = loss.metrics["absolute_error"]
    assert (error.item(), count.item()) == (1.5, 2.0)
    (loss.values * loss.weights).sum().backward()
    assert scores_BK.grad is not None and scores_BK.grad.tolist() == [[2.0, 0.0], [-1.0, 0.0]]


def run_on(folder: Path, name: str, labels: list[list[float | None]]) -> Run:
    rows = toys.ids(len(labels), 3)
    columns = {"sample_id": [f"s{i}" for i in range(len(rows))], "input_ids": rows, "attributes": labels}
    columns |= {"source": [None] * len(rows)}
    data = toys.put(folder / name / "rows", ATTRIBUTED_TOKENS, pa.table(columns, schema=ATTRIBUTED_TOKENS.arrow))
    fixed = {"data": data.url, "out": str(folder / name / "rm"), "algorithm": "rm_regression", "max_steps": 4}
    run = parse(Run, toys.config(folder / name, settings={"attributes": ["helpfulness", "verbosity"]}, **fixed))
    torch.set_num_threads(1)
    runs.execute(run)
    return run


def test_training_learns_the_same_however_a_missing_judgement_is_written(tmp_path: Path) -> None:
    judged: list[list[float | None]] = [[float(i % 5), 4.0 - i % 3] for i in range(14)]
    losses = {}
    for name, missing in (("null", None), ("nan", NONE), ("number", -100.0)):
        labels = [[row[0], missing] if i % 3 == 0 else row for i, row in enumerate(judged)]
        run = run_on(tmp_path, name, labels)
        losses[name] = (toys.curve(run.paths.folder), commit.read_manifest(run.paths.out).facts["weights_digest"])
    assert losses["null"] == losses["nan"] == losses["number"]
    assert losses["null"][0][0]["loss"] < 20


def test_rows_without_a_judgement_and_infinite_ones_are_refused(tmp_path: Path) -> None:
    labels: list[list[float | None]] = [[1.0, 2.0], [None, -100.0], [math.inf, 1.0], [3.0, None]]
    with pytest.raises(DataError) as caught:
        run_on(tmp_path, "rows", labels)
    assert "attributes holds an infinite number: 1 row, first s2" in caught.value.what
    assert "attributes holds no judgement (null, NaN and -100 are none): 1 row, first s1" in caught.value.what


def test_rows_with_another_number_of_attributes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="attributes does not hold 2 numbers, as the head gives: 2 rows, first s1"):
        run_on(tmp_path, "rows", [[1.0, 2.0], [1.0], [1.0, 2.0, 3.0]])


def test_the_head_gives_one_number_per_attribute() -> None:
    assert (
        RM_REGRESSION.num_outputs(Settings()) == 5 and RM_REGRESSION.num_outputs(Settings(attributes=("reward",))) == 1
    )
    for wrong in ((), ("reward", "reward")):
        with pytest.raises(ConfigError, match="different names"):
            Settings(attributes=wrong)
