"""The optimizer as a whole against torch's AdamW: decay by parameter, moments, clipping, schedule, resumed or not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from schemas import TOKENS
from schemas.settings import parse
from tests.fidelity import adamw
from tests.trainers import toys
from tests.trainers.weights import tiny
from trainers import registry
from trainers import run as runs
from trainers.config import Optim, Run
from trainers.engine.checkpoint import checkpoint
from trainers.engine.megatron import parallel
from trainers.engine.training import build, optim
from trainers.engine.weights.export_hf import export
from trainers.engine.weights.import_hf import import_hf
from trainers.parallel import Parallel
from trainers.schedule import learning_rate

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

FAMILIES = ("llama-tied-biased", "gpt2", "qwen2", "mixtral", "nemotron")
STEPS = 18
OPTIM = {
    "lr": 2e-3,
    "min_lr": 2e-4,
    "warmup_steps": 4,
    "schedule": "cosine",
    "betas": [0.9, 0.95],
    "eps": 1e-6,
    "weight_decay": 0.5,
    "clip_grad": 0.7,
}


def quietly(function: Any, source: Path, out: Path) -> None:
    function(str(source), str(out), check="off", say=lambda line: None)


def family(name: str, root: Path) -> Path:
    """A folder of the family under `root`, and the checkpoint `root`/init made of it."""
    folder = tiny.write(name, root / "hf")
    quietly(import_hf, folder, root / "init")
    return folder


def trained(root: Path, **changes: Any) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor], list[list[str]]]:
    """A run's metrics, its weights as a Hugging Face folder names them, and the rows of every step."""
    given = {"init": str(root / "init"), "model": ..., "optim": OPTIM, "max_steps": STEPS, **changes}
    run = parse(Run, toys.config(root, **given))
    torch.set_num_threads(1)
    runs.execute(run)
    quietly(export, Path(run.paths.out), root / "out")
    rows = [line["rows"] for line in toys.row_log(run.paths.folder)]
    return toys.curve(run.paths.folder), load_file(root / "out" / "model.safetensors"), rows


def compared(name: str, root: Path, *, bf16: bool = False, **changes: Any) -> dict[str, float]:
    """How far a run is from the reference: the greatest relative difference of any step's loss and gradient norm, the
    greatest difference of any weight at the end, and that of all as a share of the `way` that they went.
    """
    folder = family(name, root)
    curve, weights, names = trained(root, precision="bf16" if bf16 else "fp32", **changes)
    table = {row["sample_id"]: row for row in toys.tokens(20).to_pylist() + toys.tokens(11, 1, 20).to_pylist()}
    assert len(table) == 31 and set(TOKENS.names) == set(table["s0"])
    assert [len(step) for step in names] == [12, 12, 7] * (STEPS // 3), "the last step of an epoch takes what is left"
    theirs = adamw.train(folder, [[table[n] for n in step] for step in names], OPTIM, root / "reference", bf16=bf16)
    wanted = load_file(root / "reference" / "model.safetensors")
    assert weights.keys() == wanted.keys() and len(wanted) > 15
    assert [line["lr"] for line in curve] == pytest.approx([line["lr"] for line in theirs], rel=1e-12)
    gaps = {n: max(abs(a[n] / b[n] - 1) for a, b in zip(curve, theirs, strict=True)) for n in ("loss", "grad_norm")}
    clipped = sum(line["grad_norm"] > OPTIM["clip_grad"] for line in theirs)
    assert clipped > 0 and theirs[-1]["loss"] < theirs[0]["loss"]
    gaps["weight"] = max((weights[n].float() - wanted[n]).abs().max().item() for n in wanted)
    moved = _distance(wanted, load_file(folder / "model.safetensors"))
    return gaps | {"way": _distance(weights, wanted) / moved}


def _distance(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum((some[n].float() - others[n].float()).square().sum().item() for n in some))


@pytest.mark.parametrize("last", [1, 2, 7])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_rate_falls_as_in_transformers_and_every_step_learns(schedule: str, last: int) -> None:
    from transformers import get_scheduler

    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = torch.optim.SGD([parameter], lr=3e-4)
    scheduler = get_scheduler(schedule, theirs, num_warmup_steps=0, num_training_steps=last)
    for step in range(1, last + 1):
        rate = learning_rate(Optim(lr=3e-4, schedule=schedule), step, last)  # type: ignore[arg-type]
        assert rate == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12) and rate > 0
        theirs.step()
        scheduler.step()


@pytest.mark.parametrize("name", FAMILIES)
def test_eighteen_steps_are_those_of_torchs_adamw(name: str, tmp_path: Path) -> None:
    gaps = compared(name, tmp_path)
    assert gaps["loss"] < 2e-6 and gaps["grad_norm"] < 2e-5 and gaps["weight"] < 5e-5, gaps


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_distributed_optimizer_does_the_same(name: str, tmp_path: Path) -> None:
    gaps = compared(name, tmp_path, parallel={"distributed_optimizer": True})
    assert gaps["loss"] < 2e-6 and gaps["grad_norm"] < 2e-5 and gaps["weight"] < 5e-5, gaps


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dealt", [False, True], ids=["plain", "distributed"])
def test_bf16_has_fp32_masters_and_moments(name: str, dealt: bool, tmp_path: Path) -> None:
    gaps = compared(name, tmp_path, bf16=True, parallel={"distributed_optimizer": dealt})
    assert gaps["loss"] < 4e-2 and gaps["grad_norm"] < 0.2 and gaps["way"] < 0.2, gaps


KINDS = [
    pytest.param(n, p, d, marks=[] if n == "gpt2" or (p, d) == ("fp32", False) else pytest.mark.slow)
    for n in FAMILIES
    for p in ("fp32", "bf16")
    for d in (False, True)
]


def learner(root: Path, precision: str, dealt: bool, **changes: Any) -> build.Trainee:
    """The checkpoint `root`/init under an optimizer whose step is half the decay of what it falls on."""
    optimizer = {"lr": 0.1, "weight_decay": 0.5}
    given = {"init": str(root / "init"), "model": ..., "optim": optimizer, "precision": precision, **changes}
    run = parse(Run, toys.config(root, parallel={"distributed_optimizer": dealt}, **given))
    init = checkpoint.open_checkpoint(str(root / "init"))
    return build.trainee(run, *registry.configured("sft", {}), parallel.start(Parallel()), init)


def stepped(trainee: build.Trainee) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Every parameter before and after one step with gradients of zero."""
    named = dict(trainee.model.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    trainee.model.zero_grad_buffer()
    trainee.optimizer.zero_grad()
    optim.set_learning_rate(trainee.optimizer, Optim(lr=0.1), 1, None)
    trainee.optimizer.step()
    return {name: (before[name], parameter.detach().clone()) for name, parameter in named.items()}


@pytest.mark.parametrize(("name", "precision", "dealt"), KINDS)
def test_without_gradients_only_matrices_decay(name: str, precision: str, dealt: bool, tmp_path: Path) -> None:
    family(name, tmp_path)
    first = learner(tmp_path, precision, dealt)
    wanted = {n: p.detach().float().clone() for n, p in first.model.named_parameters()}
    assert any("norm" in n for n in wanted) and any(p.ndim == 2 for p in wanted.values())
    assert any(n.endswith("bias") for n in wanted) == (name not in ("mixtral",))

    def check(trainee: build.Trainee) -> None:
        for n, (_, after) in stepped(trainee).items():
            matrix = wanted[n].ndim > 1 and not n.endswith("bias")
            wanted[n] = wanted[n] * 0.95 if matrix else wanted[n]
            torch.testing.assert_close(after, wanted[n].to(after.dtype), rtol=0 if not matrix else 1e-6, atol=0, msg=n)

    check(first)
    checkpoint.save(str(tmp_path / "save"), model=first.model, optimizer=first.optimizer)
    resumed, saved = learner(tmp_path, precision, dealt), checkpoint.open_checkpoint(str(tmp_path / "save"))
    checkpoint.load_weights(resumed.model, saved)
    checkpoint.load_optimizer(str(tmp_path / "save"), model=resumed.model, optimizer=resumed.optimizer)
    check(resumed)


def test_of_adapters_the_matrices_decay_and_what_is_frozen_stays(tmp_path: Path) -> None:
    family("qwen2", tmp_path)
    trainee = learner(tmp_path, "fp32", False, lora={"rank": 2, "alpha": 4})
    moved = {n: after for n, (before, after) in stepped(trainee).items() if not torch.equal(before, after)}
    trained = [n for n, p in trainee.model.named_parameters() if p.requires_grad]
    assert moved and set(moved) <= set(trained) and all(".lora." in n for n in trained)
