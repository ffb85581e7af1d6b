"""What is learnt does not depend on how it is cut: tensor, pipeline, data parallel, the distributed optimizer,
micro-batches and packs against one process.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from datakit.apply import apply
from datakit.tokenize import Pack
from schemas.dataset import Dataset
from tests.tail import late
from tests.trainers import toys
from tests.trainers.curves import EVEN, ISSUE
from tests.warm.command import launched
from trainers import registry

ALGORITHMS = sorted(registry.algorithms())
OTHERS = [name for name in ALGORITHMS if name not in ISSUE]
_ASK = {(a.needs, len(a.sequences)): name for name, a in reversed(registry.algorithms().items())}
KINDS = [*ISSUE, *(name for name in OTHERS if name in _ASK.values())]
"""Beside `ISSUE` one of each kind: what it asks the network, of how many sequences."""
REST = ",".join(name for name in OTHERS if name not in KINDS)
ALONE, FEW, SOME = "1,1,0,0", ":" + ",".join(ISSUE), ":" + ",".join(KINDS)
CUTS = {
    "data": ALONE + SOME,
    "dealt": "1,1,0,1" + FEW,
    "tensor": "2,1,0,0" + FEW,
    "sequence": "2,1,1,0" + SOME,
    "pipeline": "1,2,0,0" + SOME,
}
LATE = {
    "four": (4, "2,1,1,0" + FEW),
    "sequence, others": (2, f"2,1,1,0:{REST}"),
    "data, others": (2, f"{ALONE}:{REST}"),
    "pipeline, others": (2, f"1,2,0,0:{REST}"),
    "dealt, others": (2, "1,1,0,1:" + ",".join(OTHERS)),
    "tensor, others": (2, "2,1,0,0:" + ",".join(OTHERS)),
}
"""Of slow tests alone: `four` is tensor 2 with sequence parallelism x data 2; the other algorithms, of whose kind one
runs at `CUTS`.
"""
EVERY = [pytest.param("four", marks=pytest.mark.slow), *sorted(CUTS)]


class Answers(dict[str, Any]):
    """What every cut gives; those of `LATE` are made once they are asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(curves(folder, 2, *CUTS.values()))
        self.folder = folder
        for name, layout in CUTS.items():
            self[name] = self[layout]
        self["alone"] = curves(folder, 1, ALONE)[ALONE]

    def __missing__(self, name: str) -> Any:
        processes, layout = LATE[name]
        self[name] = curves(self.folder, processes, layout)[layout]
        return self[name]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    folder = tmp_path_factory.mktemp("curves")
    for algorithm in registry.algorithms().values():
        table = toys.rows_for(algorithm, 31)
        toys.put(folder / algorithm.name, algorithm.rows, table.slice(0, 20), table.slice(20))
        if algorithm.name in ISSUE:
            toys.put(folder / f"even {algorithm.name}", algorithm.rows, even(table))
    toys.put(folder / "tokens", registry.algorithms()["sft"].rows, toys.tokens(3))
    assert Dataset.exists(str(folder / "sft"))
    apply(Pack(capacity=90), Dataset.open(str(folder / "sft")), str(folder / "packs"))
    return Answers(folder)


def even(table: pa.Table) -> pa.Table:
    """The same rows with all lists cut or repeated to `EVEN` entries."""
    rows = [
        {name: (value * EVEN)[:EVEN] if isinstance(value, list) else value for name, value in row.items()}
        for row in table.to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=table.schema)


def curves(folder: Path, processes: int, *layouts: str) -> dict[str, Any]:
    out = folder / f"answers-{processes}.json"
    launched(processes, "tests.trainers.curves", folder, out, *layouts)
    measured: dict[str, Any] = json.loads(out.read_text())
    return measured


def names(layout: str) -> list[str]:
    """The algorithms that run at `layout`."""
    chosen = layout.partition(":")[2]
    return chosen.split(",") if chosen else ALGORITHMS


RUNS = [(name, cut) for cut in sorted(CUTS) for name in names(CUTS[cut])]
RUNS += [late(name, cut) for cut, (_, layout) in LATE.items() for name in names(layout)]


@pytest.mark.parametrize(("name", "cut"), RUNS)
def test_a_cut_run_has_the_curve_of_one_process(answers: Answers, name: str, cut: str) -> None:
    for one, other in zip(answers["alone"][name], answers[cut][name], strict=True):
        assert one.keys() == other.keys()
        for figure, value in one.items():
            # single rewards lie around zero, of order one; so do differences of their means
            scale = 2e-5 if figure.startswith("row") else 5e-6 if figure.startswith("reward") else 1e-6
            assert math.isclose(value, other[figure], rel_tol=1e-5, abs_tol=scale), (figure, one, other)


@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("name", ISSUE)
def test_neither_do_micro_batches_of_so_many_rows(answers: Answers, name: str, rows: int) -> None:
    ours, others = answers["alone"][f"{name} by 4"], answers["alone"][f"{name} by {rows}"]
    assert math.isclose(ours[0]["norm"], others[0]["norm"], rel_tol=1e-6), (ours[0], others[0])
    for one, other in zip(ours, others, strict=True):
        assert one["tokens"] == other["tokens"]
        assert math.isclose(one["loss"], other["loss"], rel_tol=1e-5), (one, other)


@pytest.mark.parametrize("cut", ["alone", *EVERY])
def test_packs_do_not_matter(answers: Answers, cut: str) -> None:
    for one, other in zip(answers["alone"]["sft, all sft"], answers[cut]["sft, all packs"], strict=True):
        for figure in ("loss", "norm", "tokens"):
            assert math.isclose(one[figure], other[figure], rel_tol=1e-5), (figure, one, other)


@pytest.mark.parametrize("cut", ["alone", *EVERY])
def test_micro_batches_do_not_matter(answers: Answers, cut: str) -> None:
    for one, other in zip(answers["alone"]["sft"], answers[cut]["sft in small passes"], strict=True):
        for figure, value in one.items():
            assert math.isclose(value, other[figure], rel_tol=1e-5), (figure, one, other)


def test_the_curves_move(answers: Answers) -> None:
    for name in ALGORITHMS:
        losses = [point["loss"] for point in answers["alone"][name]]
        assert len(set(losses)) == len(losses) and all(point["norm"] > 0 for point in answers["alone"][name])


@pytest.mark.parametrize("cut", ["alone", "tensor"])
def test_log_probs_over_a_cut_vocabulary(answers: Answers, cut: str) -> None:
    measured = {name: torch.tensor(value) for name, value in answers[cut]["vocabulary"].items()}
    random = torch.Generator().manual_seed(7)
    whole_tV = (torch.randn(5, 16, generator=random) * 3).requires_grad_()
    ids_tK = torch.randint(0, 14, (5, 3), generator=random)
    dense_tV = torch.log_softmax(whole_tV[:, :14], dim=-1)
    at_tK, entropy_t = dense_tV.gather(-1, ids_tK), -(dense_tV.exp() * dense_tV).sum(-1)
    logits_tK = (whole_tV - whole_tV.detach()[:, :14].amax(-1, keepdim=True)).gather(-1, ids_tK)
    ranked_tK = whole_tV[:, :14].sort(descending=True).values[:, :4]
    ranked_tK = ranked_tK - ranked_tK[:, :1].detach()
    (at_tK.sum() + 2 * entropy_t.sum() + 3 * at_tK[:, 0].sum() + (logits_tK**2).sum() + (ranked_tK**3).sum()).backward()
    top, top_ids = dense_tV.topk(4, dim=-1)
    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(measured["at"], at_tK.detach(), **close)
    torch.testing.assert_close(measured["logits"], logits_tK.detach(), **close)
    torch.testing.assert_close(measured["ranked"], ranked_tK.detach(), **close)
    torch.testing.assert_close(measured["taken"], at_tK[:, 0].detach(), **close)
    torch.testing.assert_close(measured["entropy"], entropy_t.detach(), **close)
    torch.testing.assert_close(measured["top"], top.detach(), **close)
    assert measured["top_ids"].tolist() == top_ids.tolist()
    assert whole_tV.grad is not None
    torch.testing.assert_close(measured["gradient"], whole_tV.grad, **close)
