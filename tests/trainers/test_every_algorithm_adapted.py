"""Every algorithm trains adapters in bf16 on a frozen base; driven by the registry, so a new one needs no edit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from schemas.settings import parse
from tests.tail import late
from tests.trainers import toys
from tests.trainers.adapted import frozen
from tests.trainers.curves import ISSUE
from tests.trainers.networks import vocabulary
from tests.trainers.test_parallel_curves import KINDS
from trainers import engine, registry
from trainers.config import Run
from trainers.engine.checkpoint import checkpoint
from trainers.engine.megatron import parallel
from trainers.engine.megatron.model import build
from trainers.parallel import Parallel

LORA = {"rank": 2, "alpha": 8, "dropout": 0.1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("base") / "base"
    checkpoint.save(
        str(folder),
        model=build(toys.model(), parallel.start(Parallel()), seed=3),
        tokenizer_files=vocabulary(toys.VOCABULARY),
    )
    return folder


CASES = [(name, "bf16") if name in KINDS else late(name, "bf16") for name in registry.algorithms()]
CASES += [(name, "fp32") if name in ISSUE else late(name, "fp32") for name in registry.algorithms()]


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_adapters_learn_and_their_base_stays(name: str, precision: str, base: Path, tmp_path: Path) -> None:
    rows = toys.rows_for(registry.algorithms()[name], 6)
    changes = {"algorithm": name, "data": ..., "init": str(base), "model": ..., "lora": LORA, "precision": precision}
    with engine.open(parse(Run, toys.config(tmp_path, **changes, optim={"lr": 1e-2}))) as trainer:
        trained = [p for p in trainer.model.parameters() if p.requires_grad]
        before, were = frozen(trainer.model), [value.detach().clone() for value in trained]
        figures = [trainer.learn(rows) for _ in range(2)]
        assert all(math.isfinite(value) for step in figures for value in step.values()) and figures[0]["grad_norm"] > 0
        assert frozen(trainer.model) == before
        assert any(not torch.equal(now, then) for now, then in zip(trained, were, strict=True))
        assert {value.dtype for value in trained} == {torch.float32 if precision == "fp32" else torch.bfloat16}
