"""A program for torchrun: what every kind of network computes, draws and learns at several layouts.

`python -m tests.trainers.shapes FOLDER LAYOUT...` with layouts written tensor,pipeline,sequence,expert; the first rank
writes FOLDER/answers.json. Between layouts the world is left and started again.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist

from schemas.settings import parse
from tests.trainers.networks import SMALL, louder, words
from trainers import registry
from trainers.architecture import Experts, ModelConfig, RopeScaling
from trainers.config import Run
from trainers.engine.checkpoint import checkpoint
from trainers.engine.data.batch import MicroBatch, assemble
from trainers.engine.data.packing import pack
from trainers.engine.inference.frozen import Scorer
from trainers.engine.inference.generator import Generator
from trainers.engine.megatron import parallel, stages
from trainers.engine.megatron.logprobs import parallel_state
from trainers.engine.megatron.parallel import Layout
from trainers.engine.training import build
from trainers.parallel import Parallel

KINDS: dict[str, dict[str, Any]] = {
    "nemotron": {
        "rotary_percent": 0.5,
        "normalization": "LayerNorm",
        "zero_centered_norm": True,
        "gated": False,
        "activation": "squared_relu",
    },
    "llama31": {"rope_scaling": RopeScaling(factor=5.0, low_frequency=0.8, high_frequency=3.0, original_length=24)},
    "mixtral": {"experts": Experts(number=4, per_token=2, balance=0.5)},
}
LENGTHS = [5, 9, 2, 12]
STEPS = 3


class Greedy:
    """Greedy decoding, as a generator is asked for it."""

    samples_per_prompt, temperature, top_k, top_p, max_new_tokens, stop, greedy = 2, 1.0, 0, 1.0, 8, (), True


def shape(kind: str, **changes: Any) -> ModelConfig:
    return replace(SMALL, **{**KINDS[kind], **changes})


def ids(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(2, SMALL.vocab_size, count)


def batches() -> list[MicroBatch]:
    """Two micro-batches of a step, the second one shorter."""
    rows = [{"input_ids": ids(n, n), "loss_mask": (np.arange(n) > n // 3).astype(np.int8)} for n in (17, 9, 12)]
    sft = registry.algorithms()["sft"]
    return [assemble(sft, rows[:2], multiple=2), assemble(sft, rows[2:], multiple=2)]


def trainee(model: ModelConfig, layout: Layout, *, dealt: bool = False, **changes: Any) -> Any:
    """A network under DDP with its optimizer and its stepper, as a run has them; `dealt`: distributed optimizer."""
    sizes = {"tensor": layout.tensor, "pipeline": layout.pipeline, "expert": layout.expert}
    cut = Parallel(**sizes, sequence=layout.sequence, distributed_optimizer=dealt)
    fixed = {"algorithm": "sft", "data": "d", "out": "o", "max_steps": 9, "global_batch_size": 3}
    run = parse(Run, {**fixed, "model": model, "parallel": cut, "optim": {"lr": 1e-2, "clip_grad": 0.1}, **changes})
    return build.trainee(run, *registry.configured("sft", {}), layout, None)


def curve(learner: Any, layout: Layout, steps: int = STEPS) -> list[list[float]]:
    """Loss and gradient norm of the first steps; replicas share the micro-batches."""
    mine, points = batches()[layout.data_rank :: layout.data], []
    for _ in range(steps):
        learner.model.zero_grad_buffer()
        learner.optimizer.zero_grad()
        outcome = learner.stepper.train(mine)
        _, norm, _ = learner.optimizer.step()
        points.append([outcome.loss, float(norm)])
    return points


@torch.no_grad()
def logits(net: Any) -> list[Any]:
    """Of a packed batch, [t, V], on every rank."""
    tokens, plan = torch.from_numpy(ids(sum(LENGTHS), 1))[None], pack(LENGTHS)
    outputs = stages.through(net, lambda: net(tokens, plan.positions, None, packed_seq_params=plan), sum(LENGTHS))
    whole_tV = torch.zeros(sum(LENGTHS), SMALL.vocab_size)
    if outputs is not None:
        parts = [torch.empty_like(outputs) for _ in range(net.layout.tensor)]
        dist.all_gather(parts, outputs.contiguous(), group=parallel_state.get_tensor_model_parallel_group())
        whole_tV.copy_(torch.cat(parts, dim=-1)[0, :, : SMALL.vocab_size])
    stages.share(net, whole_tV)
    return whole_tV.tolist()


def answers(net: Any) -> list[Any]:
    """What greedy decoding draws: ids and their log-probabilities."""
    rows = pa.table({"prompt_ids": pa.array([ids(n, n).tolist() for n in (4, 11, 1)], pa.list_(pa.int32()))})
    outputs = Generator(net, words(), [1], batch_size=4).generate(rows, Greedy(), np.arange(3, dtype=np.uint64))
    return [outputs["response_ids"].to_pylist(), outputs["logprobs"].to_pylist()]


def rewards(layout: Layout) -> list[float]:
    net = louder(checkpoint.build(shape("mixtral", head="scalar"), layout)).eval()
    rows = pa.table({"input_ids": pa.array([ids(n, n).tolist() for n in (4, 11, 7)], pa.list_(pa.int32()))})
    return Scorer(net).score(rows)["reward"].to_pylist()


def measured(kind: str, layout: Layout, folder: Path) -> dict[str, Any]:
    """All that is compared, at one layout."""
    model, report = shape(kind), {}
    name = f"{kind}-{layout.world}-{layout.tensor}-{layout.pipeline}-{layout.expert}-{layout.sequence}"
    net = checkpoint.build(model, layout).eval()
    report["digest"] = checkpoint.save(str(folder / name), model=net).facts["weights_digest"]
    if not layout.sequence:
        report["logits"], report["answers"] = logits(louder(net)), answers(net)
    if model.experts is None or layout.tensor == 1 or layout.sequence:
        report["curve"] = curve(trainee(model, layout), layout)
        if model.experts is not None:
            report["full"] = curve(trainee(model, layout, recompute="full"), layout)
            report |= resumed(model, layout, folder / name)
    return report


def resumed(model: ModelConfig, layout: Layout, place: Path) -> dict[str, Any]:
    """Curves in bf16 with a distributed optimizer: the first steps, one more, and one more of the single process."""
    learner = trainee(model, layout, precision="bf16", dealt=True)
    report = {"bf16": curve(learner, layout)}
    contents = {"model": learner.model, "optimizer": learner.optimizer, "train_state": {"step": STEPS}}
    checkpoint.save(f"{place}-trained", **contents)
    report["later"] = curve(learner, layout, 1)
    report["resumed"] = resume(model, layout, place.parent / f"{place.name.split('-')[0]}-1-1-1-1-False-trained")
    return report


def resume(model: ModelConfig, layout: Layout, place: Path) -> list[list[float]]:
    """One step from a save of `resumed`."""
    learner = trainee(model, layout, precision="bf16", dealt=True)
    source = checkpoint.open_checkpoint(str(place))
    checkpoint.load_weights(learner.model, source)
    checkpoint.load_optimizer(source, model=learner.model, optimizer=learner.optimizer)
    return curve(learner, layout, 1)


def everything(layout: Layout, folder: Path) -> dict[str, Any]:
    """What is compared of every kind that this layout cuts in a way of its own."""
    alone, dealt = layout.world == 1, layout.data > 1 or layout.expert > 1
    report = {kind: measured(kind, layout, folder) for kind in KINDS if alone or not dealt or kind == "mixtral"}
    return report if layout.sequence else {**report, "rewards": rewards(layout)}


def main() -> None:
    """Run every layout in turn."""
    folder, report = Path(sys.argv[1]), {}
    for text in sys.argv[2:]:
        tensor, pipeline, sequence, expert = (int(part) for part in text.split(","))
        layout = parallel.start(Parallel(tensor=tensor, pipeline=pipeline, sequence=bool(sequence), expert=expert))
        places = parallel_state.get_expert_model_parallel_rank(), parallel_state.get_data_parallel_rank()
        assert places == (layout.expert_rank, layout.data_rank), f"{places}: {layout}"
        report[text] = everything(layout, folder)
        parallel.stop()
    if os.environ["RANK"] == "0":
        (folder / "answers.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
