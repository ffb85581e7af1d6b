"""A program for torchrun: loss curves of every algorithm at several layouts, and log-probs over a cut vocabulary.

`python -m tests.trainers.curves FOLDER OUT.json LAYOUT...` with layouts written tensor,pipeline,sequence,dealt (the
last for the distributed optimizer), and `:name,name` behind one that not all algorithms run at; the first rank writes
the answers. FOLDER holds a dataset for every algorithm, under its name; `even <name>`, whose rows are `EVEN` tokens per
sequence; and `packs`, all rows of `sft` in packs.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.distributed as dist

from schemas.dataset import Dataset
from schemas.settings import parse
from tests.trainers import toys
from trainers import registry
from trainers.config import Run
from trainers.engine.megatron import logprobs, parallel
from trainers.engine.megatron.parallel import Layout
from trainers.engine.training import build
from trainers.parallel import Parallel

STEPS, FEWER = 5, 3
"""Steps of `ISSUE`, into a second epoch; of others and of packs, which update the weights twice before the last."""
EVEN = 24
Curve: TypeAlias = list[dict[str, float]]
ISSUE = ("sft", "rm")
"""The algorithms that run at every layout."""


def curve(
    folder: Path, name: str, layout: Layout, table: str | None = None, steps: int = FEWER, **changes: Any
) -> Curve:
    """The first `steps` of algorithm `name`: loss, of sources and of every row too, gradient norm, tokens, metrics."""
    algorithm, settings = registry.configured(name, {})
    data = Dataset.open(str(folder / (table or name)))
    run = parse(Run, toys.config(folder, algorithm=name, data=data.url, **changes))
    size = algorithm.num_outputs(settings)
    shape = replace(toys.model(), head="scalar" if algorithm.needs.scalar else "lm", head_size=size)
    feed = build.feed(run, data, algorithm, shape, layout, shuffle=True)
    learner = build.trainee(run, algorithm, settings, layout, None)
    points = []
    for step in feed.steps(0, steps):
        learner.model.zero_grad_buffer()
        learner.optimizer.zero_grad()
        outcome = learner.stepper.train(step.batches, sources=len(feed.source.sources), rows=step.num_records)
        _, norm, _ = learner.optimizer.step()
        figures = {f"source {place}": loss for place, loss in outcome.sources.items()}
        figures |= {f"row {place}": value for place, value in enumerate(outcome.rows_RN.ravel().tolist())}
        points.append(
            {"loss": outcome.loss, "norm": float(norm), "tokens": outcome.tokens, **outcome.metrics, **figures}
        )
    return points


def vocabulary_answers(layout: Layout) -> dict[str, Any]:
    """Log-probs, entropy and top-k of fixed logits whose vocabulary is cut over the tensor group, and a gradient."""
    random = torch.Generator().manual_seed(7)
    whole_tV = torch.randn(5, 16, generator=random) * 3
    ids_tK = torch.randint(0, 14, (5, 3), generator=random)
    mine_tV = whole_tV.chunk(layout.tensor, dim=-1)[layout.tensor_rank].clone().requires_grad_()
    logits_tV = mine_tV * 1.0
    logprobs.hide_padding(logits_tV, 14)
    at_tK, entropy_t = logprobs.logprobs_at(logits_tV, ids_tK), logprobs.entropy(logits_tV)
    top, top_ids = logprobs.top_k(logits_tV, 4)
    logits_tK = logprobs.logits_at(logits_tV, ids_tK)
    taken_t = logprobs.token_logprobs(logits_tV.clone(), ids_tK[:, 0])
    ranked = logprobs.largest_logits(logits_tV, 4)
    (at_tK.sum() + 2 * entropy_t.sum() + 3 * taken_t.sum() + (logits_tK**2).sum() + (ranked**3).sum()).backward()
    assert mine_tV.grad is not None
    parts = [torch.zeros_like(mine_tV.grad) for _ in range(layout.tensor)]
    dist.all_gather(parts, mine_tV.grad, group=logprobs.parallel_state.get_tensor_model_parallel_group())
    answers = {
        "at": at_tK,
        "logits": logits_tK,
        "ranked": ranked,
        "entropy": entropy_t,
        "taken": taken_t,
        "top": top,
        "top_ids": top_ids,
    }
    answers["gradient"] = torch.cat(parts, dim=-1)
    return {name: value.detach().tolist() for name, value in answers.items()}


def main() -> None:
    """Run every layout in turn in this world."""
    folder, out, *layouts = sys.argv[1:]
    answers: dict[str, Any] = {}
    for text in layouts:
        sizes_of, _, names = text.partition(":")
        tensor, pipeline, sequence, dealt = (int(part) for part in sizes_of.split(","))
        cut: dict[str, Any] = {"tensor": tensor, "pipeline": pipeline, "sequence": bool(sequence)}
        cut["distributed_optimizer"] = bool(dealt)
        sizes = Parallel(**cut)
        layout = parallel.start(sizes, seed=0)
        measured: dict[str, Any] = {"vocabulary": vocabulary_answers(layout)}
        for name in names.split(",") if names else registry.algorithms():
            measured[name] = curve(Path(folder), name, layout, steps=STEPS if name in ISSUE else FEWER, parallel=cut)
        whole = {"global_batch_size": 31, "micro_batch_tokens": 200, "parallel": cut}
        for table in ("sft", "packs") if layout.world == 1 else ("packs",):
            measured[f"sft, all {table}"] = curve(Path(folder), "sft", layout, table, **whole)
        for name, rows in itertools.product(ISSUE, (1, 2, 4)) if layout.world == 1 else ():
            budget = rows * EVEN * (2 if name == "rm" else 1)
            measured[f"{name} by {rows}"] = curve(Path(folder), name, layout, f"even {name}", micro_batch_tokens=budget)
        measured["sft in small passes"] = curve(
            Path(folder), "sft", layout, steps=STEPS, parallel=cut, micro_batch_tokens=20
        )
        answers[text] = measured
        logprobs.parallel_state.destroy_model_parallel()
    parallel.stop()
    if os.environ.get("RANK", "0") == "0":
        Path(out).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
