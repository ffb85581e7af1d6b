"""A run from its configuration: everything built and wired, trained, and the checkpoint published.

What can be refused is refused before the first step: sizes that do not divide, data of another kind, rows that cannot
be trained on, a checkpoint of another network.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

from schemas import tokenizer_lineage
from schemas.dataset import Dataset
from schemas.end_tokens import TurnEnd
from schemas.errors import ConfigError
from schemas.manifest import Parent
from schemas.store.commit import read_manifest
from schemas.tokenizer import TOKENIZERS, files_identity, files_of, read_dataset, read_folder
from trainers import registry
from trainers.algorithm import Algorithm
from trainers.architecture import ModelConfig
from trainers.config import VERSION, Run, parallel_errors
from trainers.engine.checkpoint import checkpoint, retention
from trainers.engine.checkpoint.checkpoint import OUTPUT_NAMES, Checkpoint
from trainers.engine.checkpoint.saves import Saves
from trainers.engine.data import index as indexes
from trainers.engine.data.feed import BatchLoader, BatchSharding
from trainers.engine.data.index import Index
from trainers.engine.data.rows import Limits, TokenDataset
from trainers.engine.megatron import model as networks
from trainers.engine.megatron import parallel
from trainers.engine.megatron.parallel import Layout
from trainers.engine.reporting.records import RecordsManifest, are_there, records_key
from trainers.engine.reporting.report import by_source
from trainers.engine.reporting.speed import Speed
from trainers.engine.training import optim as optimizers
from trainers.engine.training.loop import Loop, signals
from trainers.engine.training.step import Stepper
from trainers.launch import rank

_RECOMPUTE: dict[str, dict[str, Any]] = {
    "none": {},
    "attention": {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]},
    "full": {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
}


@dataclass(frozen=True)
class Inputs:
    """What a run reads: the rows to learn from and to validate on, and the checkpoint it starts from."""

    data: Dataset
    validation: Dataset | None
    init: Checkpoint | None

    @property
    def parents(self) -> tuple[Parent, ...]:
        """The inputs as the new checkpoint's manifest names them."""
        parents = [self.data.as_parent("data")]
        if self.init is not None:
            manifest = self.init.manifest
            parents.append(Parent("init", self.init.folder, manifest.content_digest, manifest.task_key))
        return tuple(parents)


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
    layout = parallel.start(run.parallel, seed=run.seed, timeout=rank.collective_seconds())
    records = run.records
    if records is not None and parallel.on_rank_zero(lambda: are_there(run.records or "", records_key(key))):
        records = None
    init = None if run.init is None else checkpoint.open_checkpoint(run.init)
    inputs = Inputs(data, validation, init)
    vocabulary = _vocabulary(run, init)
    facts = _facts(run, inputs, algorithm, settings, vocabulary)
    shape = _with_head(run, init, algorithm, settings)
    steps = feed(run, data, algorithm, shape, layout, shuffle=True)
    checks = None if validation is None else feed(run, validation, algorithm, shape, layout, shuffle=False)
    learner = trainee(run, algorithm, settings, layout, init)
    last = run.max_steps if run.max_steps is not None else (run.epochs or 0) * steps.steps_per_epoch
    identity = {
        "run": run.identity_fields(),
        "version": VERSION,
        "inputs": [parent.content_digest for parent in inputs.parents],
    }
    retention.check(run, _validated(algorithm, checks), last, run.validate_every or steps.steps_per_epoch)
    known = {"identity": identity, "facts": facts, "vocabulary": vocabulary}
    saves = Saves(run, model=learner.model, optimizer=learner.optimizer, **known)
    loop = Loop(
        run=run,
        model=learner.model,
        optimizer=learner.optimizer,
        stepper=learner.stepper,
        feed=steps,
        validation=checks,
        saves=saves,
        speed=Speed.of(run, shape, layout),
        leads=layout.rank == 0,
        records=records is not None,
        last=last,
    )
    with signals() as asked:
        learner.stepper.stop_asked = lambda: asked() or saves.failed
        figures = loop.go(saves.resume())
        parallel.on_rank_zero(lambda: publish_records(run, inputs, loop, key))
        rank.heartbeat("the checkpoint")
        publish(run, inputs, learner, key, {**figures, "steps": last}, time.monotonic() - began, known)
        saves.finish()
    return figures


def trainee(run: Run, algorithm: Algorithm, settings: Any, layout: Layout, init: Checkpoint | None) -> Trainee:
    """The network of `run` with the head that `algorithm` asks, fresh or from `init`, ready to be stepped."""
    shape = _with_head(run, init, algorithm, settings)
    if faults := parallel_errors(shape, run.parallel):
        raise ConfigError("parallel-size", "the model cannot be cut so", found="; ".join(faults))
    options: dict[str, Any] = {"implementation": run.implementation, "calculate_per_token_loss": True}
    options |= _RECOMPUTE[run.recompute]
    if init is not None:
        options |= {"model": shape, "precision": run.precision, "seed": run.seed, "lora": run.lora}
        network = checkpoint.load_model(init, layout, **options)
    else:
        network = networks.build(shape, layout, precision=run.precision, seed=run.seed, **options)
    ddp = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        overlap_grad_reduce=False,
        use_distributed_optimizer=run.parallel.distributed_optimizer,
    )
    wrapped = DistributedDataParallel(network.config, ddp, network)
    optimizer = optimizers.build(run.optim, wrapped, bf16=run.precision == "bf16")
    stepper = Stepper(wrapped, shape, algorithm, settings, layout)
    return Trainee(wrapped, optimizer, stepper)


def publish(
    run: Run,
    inputs: Inputs,
    learner: Trainee,
    key: str,
    stats: Mapping[str, float],
    seconds: float,
    known: Mapping[str, Any],
) -> None:
    """Write the finished network as a checkpoint that names what it was made of; `known`: its facts and tokenizer."""
    checkpoint.save(
        run.out,
        model=learner.model,
        vocabulary=known["vocabulary"],
        facts={**known["facts"], "stats": dict(stats)},
        key=key,
        op=run.op,
        parents=inputs.parents,
        seed=run.seed,
        runtime_info={"seconds": round(seconds, 3)},
    )


def _validated(algorithm: Algorithm, checks: BatchLoader | None) -> list[str]:
    """The figures of a validation."""
    sources = () if checks is None else checks.source.sources
    losses = by_source("loss", dict.fromkeys(range(len(sources)), 0.0), sources)
    return [f"val_{name}" for name in ("loss", *losses, *algorithm.metrics)]


def publish_records(run: Run, inputs: Inputs, loop: Loop, key: str) -> None:
    """Make the dataset of what training saw, if one was asked for and is not there; on the first process."""
    if loop.report.records is not None and run.records is not None:
        op = {**run.op, "name": f"{run.op['name']}.records"}
        manifest = RecordsManifest(key=records_key(key), op=op, parents=inputs.parents, seed=run.seed)
        loop.report.records.publish(run.records, manifest)


def _with_head(run: Run, init: Checkpoint | None, algorithm: Algorithm, settings: Any) -> ModelConfig:
    model = init.model if init is not None else run.model
    assert model is not None, "a run has a model or a checkpoint to start from"
    if not algorithm.needs.scalar:
        return replace(model, head="lm", head_size=1)
    size = algorithm.num_outputs(settings, model.head_size)
    return replace(model, head="scalar", head_size=size, tie_embeddings=False)


def feed(
    run: Run, dataset: Dataset, algorithm: Algorithm, shape: ModelConfig, layout: Layout, *, shuffle: bool
) -> BatchLoader:
    """The steps of `dataset` as this process reads them; `DataError` if some row cannot be trained on."""
    limits = Limits(shape.max_sequence_length, shape.vocab_size, shape.head_size)
    source = TokenDataset(
        dataset, algorithm, limits, parallel.on_rank_zero(lambda: _indexed(run, dataset, algorithm, limits))
    )
    multiple = layout.tensor if layout.sequence else 1
    cut = BatchSharding(layout.data_rank, layout.data, run.micro_batch_tokens, multiple, even=layout.expert > 1)
    return BatchLoader(source, batch_rows=run.global_batch_size, seed=run.seed, cut=cut, shuffle=shuffle)


def _indexed(run: Run, dataset: Dataset, algorithm: Algorithm, limits: Limits) -> Index:
    """The index of `dataset`: the one that an earlier launch of the run left, or that of a scan."""
    path = indexes.place(run.folder, dataset, algorithm, vars(limits))
    index = Index.read(path, dataset)
    if index is None:
        index = TokenDataset(dataset, algorithm, limits).index
        index.write(path)
    return index


def _vocabulary(run: Run, init: Checkpoint | None) -> dict[str, str]:
    """The tokenizer files of the new checkpoint, by name."""
    if run.vocabulary is None:
        return {} if init is None else init.vocabulary()
    manifest = read_manifest(run.vocabulary)
    if manifest is None or manifest.kind == "checkpoint":
        row = read_folder(run.vocabulary)
    else:
        dataset = Dataset.open(run.vocabulary)
        dataset.schema.requires(TOKENIZERS, "trainers.run")
        row = read_dataset(dataset)
    if row is None:
        raise ConfigError("no-tokenizer", f"there is no tokenizer at {run.vocabulary}", kept="nothing was started")
    return files_of(row)


def _facts(
    run: Run, inputs: Inputs, algorithm: Algorithm, settings: Any, vocabulary: Mapping[str, str]
) -> dict[str, Any]:
    """The facts of the new checkpoint; `DataError` for rows in ids of another tokenizer than it speaks."""
    facts = {**inputs.data.facts, **run.facts}
    one = files_identity(vocabulary) if vocabulary else ""
    if not one and inputs.init is not None:
        one = str(inputs.init.manifest.facts.get(tokenizer_lineage.FACT, ""))
    for rows in (inputs.data, inputs.validation):
        if rows is not None:
            tokenizers = tokenizer_lineage.tokenizers_of(rows.schema, rows.facts)
            tokenizer_lineage.check(
                tokenizers, algorithm.rows.names, one, run.init or "the tokenizer of the run", rows.url
            )
    taught = TurnEnd.of(inputs.data.facts)
    if inputs.init is not None:
        taught = taught.after(TurnEnd.of(inputs.init.manifest.facts))
    facts |= taught.facts if taught.stop else {}
    if one or not isinstance(facts.get(tokenizer_lineage.FACT), str):
        facts[tokenizer_lineage.FACT] = one
    if inputs.init is not None and "family" in inputs.init.manifest.facts:
        facts["family"] = inputs.init.manifest.facts["family"]
    if algorithm.output_names is not None:
        facts[OUTPUT_NAMES] = list(algorithm.output_names(settings))
    return facts
