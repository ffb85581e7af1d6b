"""Run by torchrun or alone: loss curves of adapters at several layouts, and what they were trained from and to.

`python -m tests.trainers.adapted FOLDER OUT.json LAYOUT...` with layouts written tensor,pipeline,sequence; the first
rank writes the answers and leaves a checkpoint of the adapters of every layout beside them. FOLDER holds a dataset and
a base for every algorithm.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from schemas.dataset import Dataset
from schemas.settings import parse
from tests.trainers import toys
from trainers import registry
from trainers.config import Run
from trainers.engine.checkpoint import checkpoint
from trainers.engine.megatron import lora, parallel
from trainers.engine.megatron.parallel import Layout
from trainers.engine.training import build
from trainers.parallel import Parallel

STEPS = 4
LORA = {"rank": 3, "alpha": 12, "dropout": 0.25}


def frozen(network: Any) -> str:
    """A digest of everything that must not change."""
    total = hashlib.sha256()
    for name, value in network.named_parameters():
        if not value.requires_grad:
            total.update(name.encode() + value.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def trained(folder: Path, name: str, layout: Layout, **changes: Any) -> tuple[build.Trainee, list[dict[str, float]]]:
    """Adapters of algorithm `name` after a few steps: loss and gradient norm of each."""
    algorithm, settings = registry.configured(name, {})
    data = Dataset.open(str(folder / name))
    config = {"algorithm": name, "data": data.url, "init": str(folder / "base"), "model": ..., "lora": LORA}
    run = parse(Run, toys.config(folder, **{**config, **changes}))
    init = checkpoint.open_checkpoint(str(folder / "base"))
    feed = build.feed(run, data, algorithm, init.model, layout, shuffle=True)
    learner = build.trainee(run, algorithm, settings, layout, init)
    before, points = frozen(learner.model), []
    for step in feed.steps(0, STEPS):
        learner.model.zero_grad_buffer()
        learner.optimizer.zero_grad()
        lora.at_step(learner.model, step.number + 1)
        outcome = learner.stepper.train(step.batches)
        _, norm, _ = learner.optimizer.step()
        points.append({"loss": outcome.loss, "norm": float(norm), "tokens": outcome.tokens})
    assert frozen(learner.model) == before, "a weight of the base changed"
    return learner, points


def answers(folder: Path, out: Path, layout: Layout, text: str, cut: dict[str, Any]) -> dict[str, Any]:
    """What this layout learns."""
    measured: dict[str, Any] = {}
    for name in ("sft", "rm"):
        learner, measured[name] = trained(folder, name, layout, parallel=cut)
        checkpoint.save(str(out.parent / f"{out.stem}-{text}-{name}"), model=learner.model)
    if layout.pipeline > 1:
        _, measured["recomputed"] = trained(
            folder, "sft", layout, parallel=cut, recompute="full", micro_batch_tokens=20
        )
    if layout.sequence:
        _, measured["small passes"] = trained(folder, "sft", layout, parallel=cut, micro_batch_tokens=20)
    if layout.data > 1:
        _, measured["zero"] = trained(folder, "sft", layout, parallel={**cut, "distributed_optimizer": True})
    return measured


def main() -> None:
    """Run every layout in turn in this world."""
    from megatron.core import parallel_state

    folder, out, *layouts = sys.argv[1:]
    measured: dict[str, Any] = {}
    for text in layouts:
        tensor, pipeline, sequence = (int(part) for part in text.split(","))
        cut = {"tensor": tensor, "pipeline": pipeline, "sequence": bool(sequence)}
        layout = parallel.start(Parallel(**cut), seed=0)
        measured[text] = answers(Path(folder), Path(out), layout, text, cut)
        parallel_state.destroy_model_parallel()
    parallel.stop()
    if os.environ.get("RANK", "0") == "0":
        Path(out).write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
