"""A run from its configuration: everything built and wired, trained, and the checkpoint published.

What can be refused is refused before the first step: sizes that do not divide, data of another kind, rows that cannot
be trained on, a checkpoint of another network.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

from schemas.dataset import Dataset
from schemas.errors import DataError
from schemas.manifest import Parent
from schemas.settings import plain
from schemas.vocabularies import VOCABULARIES
from trainers import registry
from trainers.algorithm import Algorithm
from trainers.config import Model, Run
from trainers.engine import checkpoint, parallel
from trainers.engine import model as networks
from trainers.engine import optim as optimizers
from trainers.engine.checkpoint import Checkpoint
from trainers.engine.feed import Cut, Feed
from trainers.engine.loop import Loop
from trainers.engine.parallel import Layout
from trainers.engine.rows import Limits, Source
from trainers.engine.saves import Saves
from trainers.engine.step import Stepper


@dataclass(frozen=True)
class Inputs:
    """What a run reads: the rows to learn from and to validate on, and the checkpoint it starts from."""

    data: Dataset
    validation: Dataset | None
    init: Checkpoint | None

    @property
    def parents(self) -> tuple[Parent, ...]:
        """The inputs as the new checkpoint's manifest names them."""
        found = [self.data.as_parent("data")]
        if self.init is not None:
            manifest = self.init.manifest
            found.append(Parent("init", self.init.folder, manifest.digest, manifest.key))
        return tuple(found)


@dataclass(frozen=True)
class Trainee:
    """A network in training: the DDP-wrapped model, its optimizer, and what steps it."""

    model: Any
    optimizer: Any
    stepper: Stepper


def train(run: Run, data: Dataset, validation: Dataset | None, key: str) -> Mapping[str, float]:
    """Train `run` to its end, from its newest save if there is one, and publish the checkpoint; its last figures."""
    began = time.monotonic()
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    algorithm, settings = registry.configured(run.algorithm, run.settings)
    layout = parallel.start(run.parallel, seed=run.seed)
    init = None if run.init is None else checkpoint.open_checkpoint(run.init)
    inputs = Inputs(data, validation, init)
    shape = _with_head(run, init, algorithm)
    steps = feed(run, data, algorithm, shape, layout, shuffle=True)
    checks = None if validation is None else feed(run, validation, algorithm, shape, layout, shuffle=False)
    learner = trainee(run, algorithm, settings, layout, init)
    last = run.max_steps if run.max_steps is not None else (run.epochs or 0) * steps.steps_per_epoch
    identity = {"run": run.decisive(), "inputs": [parent.digest for parent in inputs.parents]}
    folder = run.folder / "saves"
    saves = Saves(folder, model=learner.model, optimizer=learner.optimizer, layout=layout, identity=identity)
    loop = Loop(
        run=run,
        model=learner.model,
        optimizer=learner.optimizer,
        stepper=learner.stepper,
        feed=steps,
        validation=checks,
        saves=saves,
        leads=layout.rank == 0,
        last=last,
    )
    figures = loop.go(saves.resume())
    publish(run, inputs, learner, key, {**figures, "steps": last}, time.monotonic() - began)
    saves.clear()
    return figures


def trainee(run: Run, algorithm: Algorithm, settings: Any, layout: Layout, init: Checkpoint | None) -> Trainee:
    """The network of `run` with the head that `algorithm` asks, fresh or from `init`, ready to be stepped."""
    shape = _with_head(run, init, algorithm)
    if init is not None:
        network = checkpoint.load_model(
            init, layout, model=shape, precision=run.precision, seed=run.seed, calculate_per_token_loss=True
        )
    else:
        network = networks.build(shape, layout, precision=run.precision, seed=run.seed, calculate_per_token_loss=True)
    ddp = DistributedDataParallelConfig(grad_reduce_in_fp32=True, overlap_grad_reduce=False)
    wrapped = DistributedDataParallel(network.config, ddp, network)
    optimizer = optimizers.build(run.optim, wrapped, bf16=run.precision == "bf16")
    stepper = Stepper(wrapped, shape.vocab_size, algorithm, settings, layout)
    return Trainee(wrapped, optimizer, stepper)


def publish(run: Run, inputs: Inputs, learner: Trainee, key: str, stats: Mapping[str, float], seconds: float) -> None:
    """Write the finished network as a checkpoint that names what it was made of."""
    checkpoint.save(
        run.out,
        model=learner.model,
        vocabulary=_vocabulary(run, inputs.init),
        facts={**inputs.data.facts, **run.facts, "stats": dict(stats)},
        key=key,
        op={"name": f"train.{run.algorithm}", "version": 1, "params": plain(run.decisive())},
        parents=inputs.parents,
        seed=run.seed,
        circumstance={"seconds": round(seconds, 3)},
    )


def _with_head(run: Run, init: Checkpoint | None, algorithm: Algorithm) -> Model:
    model = init.model if init is not None else run.model
    assert model is not None, "a run has a model or a checkpoint to start from"
    if not algorithm.needs.scalar:
        return replace(model, head="lm", head_size=1)
    return replace(model, head="scalar", tie_embeddings=False)


def feed(run: Run, dataset: Dataset, algorithm: Algorithm, shape: Model, layout: Layout, *, shuffle: bool) -> Feed:
    """The steps of `dataset` as this process reads them; `DataError` if some row cannot be trained on."""
    source = Source(dataset, algorithm, Limits(shape.max_sequence_length, shape.vocab_size))
    multiple = layout.tensor if layout.sequence else 1
    cut = Cut(layout.data_rank, layout.data, run.micro_batch_tokens, multiple)
    return Feed(source, batch_rows=run.global_batch_size, seed=run.seed, cut=cut, shuffle=shuffle)


def _vocabulary(run: Run, init: Checkpoint | None) -> dict[str, str]:
    """The tokenizer files of the new checkpoint, by name."""
    if run.vocabulary is None:
        return {} if init is None else init.vocabulary()
    dataset = Dataset.open(run.vocabulary)
    dataset.schema.requires(VOCABULARIES, "trainers.run")
    rows = dataset.read().to_pylist()
    if len(rows) != 1:
        raise DataError("vocabulary", f"{run.vocabulary} holds {len(rows)} tokenizers, not one", where=run.vocabulary)
    row = rows[0]
    names = ("chat_template", "bos_token", "eos_token", "pad_token")
    options = {name: row[name] for name in names if row[name] is not None}
    return {
        "tokenizer.json": row["tokenizer_json"],
        "tokenizer_config.json": json.dumps(options, sort_keys=True, ensure_ascii=False),
    }
