"""What is learnt does not depend on how it is cut: tensor, pipeline, data parallel and micro-batches against one
process.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.dataset import Dataset
from tests.trainers import toys
from trainers import registry

ALONE = "1,1,0"
CUTS = {"data": ALONE, "tensor": "2,1,0", "sequence": "2,1,1", "pipeline": "1,2,0"}
ALGORITHMS = sorted(registry.algorithms())


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("curves")
    for algorithm in registry.algorithms().values():
        table = toys.rows_for(algorithm, 31)
        toys.put(folder / algorithm.name, algorithm.rows, table.slice(0, 20), table.slice(20))
    toys.put(folder / "tokens", registry.algorithms()["sft"].rows, toys.tokens(3))
    assert Dataset.exists(str(folder / "sft"))
    one = launched(folder, 1, ALONE)[ALONE]
    two = launched(folder, 2, *CUTS.values())
    return {"alone": one, **{name: two[layout] for name, layout in CUTS.items()}}


def launched(folder: Path, processes: int, *layouts: str) -> dict[str, Any]:
    out = folder / f"answers-{processes}.json"
    command = [sys.executable, "-W", "ignore"]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    command += ["-m", "tests.trainers.curves", str(folder), str(out), *layouts]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.mark.parametrize("cut", sorted(CUTS))
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_cut_run_has_the_curve_of_one_process(answers: dict[str, Any], name: str, cut: str) -> None:
    for one, other in zip(answers["alone"][name], answers[cut][name], strict=True):
        assert one.keys() == other.keys()
        for figure, value in one.items():
            assert math.isclose(value, other[figure], rel_tol=1e-5, abs_tol=1e-6), (figure, one, other)


@pytest.mark.parametrize("cut", ["alone", *sorted(CUTS)])
def test_micro_batches_do_not_matter(answers: dict[str, Any], cut: str) -> None:
    for one, other in zip(answers["alone"]["sft"], answers[cut]["sft in small passes"], strict=True):
        for figure, value in one.items():
            assert math.isclose(value, other[figure], rel_tol=1e-5), (figure, one, other)


def test_the_curves_move(answers: dict[str, Any]) -> None:
    for name in ALGORITHMS:
        losses = [point["loss"] for point in answers["alone"][name]]
        assert len(set(losses)) == len(losses) and all(point["norm"] > 0 for point in answers["alone"][name])


@pytest.mark.parametrize("cut", ["alone", "tensor"])
def test_log_probs_over_a_cut_vocabulary(answers: dict[str, Any], cut: str) -> None:
    found = {name: torch.tensor(value) for name, value in answers[cut]["vocabulary"].items()}
    random = torch.Generator().manual_seed(7)
    whole_tV = (torch.randn(5, 16, generator=random) * 3).requires_grad_()
    ids_tK = torch.randint(0, 14, (5, 3), generator=random)
    dense_tV = torch.log_softmax(whole_tV[:, :14], dim=-1)
    at_tK, entropy_t = dense_tV.gather(-1, ids_tK), -(dense_tV.exp() * dense_tV).sum(-1)
    (at_tK.sum() + 2 * entropy_t.sum() + 3 * at_tK[:, 0].sum()).backward()
    top, top_ids = dense_tV.topk(4, dim=-1)
    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(found["at"], at_tK.detach(), **close)
    torch.testing.assert_close(found["taken"], at_tK[:, 0].detach(), **close)
    torch.testing.assert_close(found["entropy"], entropy_t.detach(), **close)
    torch.testing.assert_close(found["top"], top.detach(), **close)
    assert found["top_ids"].tolist() == top_ids.tolist()
    assert whole_tV.grad is not None
    torch.testing.assert_close(found["gradient"], whole_tV.grad, **close)
