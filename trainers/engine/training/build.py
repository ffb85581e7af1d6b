"""A run from its configuration: what it reads is opened and checked, its network, optimizer and batches are built.

What can be refused is refused before the first step: sizes that do not divide, data of another kind, rows that cannot
be trained on, a checkpoint of another network.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

from schemas import chat_template, tokenizer_lineage
from schemas.dataset import Dataset
from schemas.end_tokens import TurnEnd
from schemas.errors import ConfigError, DataError
from schemas.manifest import Parent
from schemas.store.commit import read_manifest
from schemas.store.storage import shown
from schemas.tokenizer import TOKENIZERS, files_identity, files_of, read_dataset, read_folder
from trainers import registry
from trainers.algorithm import Algorithm
from trainers.architecture import OUTPUT_NAMES, ModelConfig, recorded_outputs
from trainers.config import Run
from trainers.engine.checkpoint import checkpoint
from trainers.engine.checkpoint.checkpoint import Checkpoint
from trainers.engine.checkpoint.stored import Stored
from trainers.engine.data import index as indexes
from trainers.engine.data.feed import BatchSharding, DatasetLoader
from trainers.engine.data.index import Index
from trainers.engine.data.rows import Limits, TokenDataset
from trainers.engine.megatron import model as networks
from trainers.engine.megatron import parallel
from trainers.engine.megatron.parallel import Layout
from trainers.engine.training import optim as optimizers
from trainers.engine.training.step import Stepper
from trainers.launch import rank
from trainers.parallel import parallel_errors

_RECOMPUTE: dict[str, dict[str, Any]] = {
    "none": {},
    "attention": {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]},
    "full": {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
}


@dataclass(frozen=True)
class Inputs:
    """What a run reads: the rows to learn from (None: they are yet to come) and to validate on, and the checkpoint it
    starts from.
    """

    data: Dataset | None
    validation: Dataset | None
    init: Checkpoint | None

    @property
    def parents(self) -> tuple[Parent, ...]:
        """The inputs as the new checkpoint's manifest names them."""
        data = () if self.data is None else (self.data.as_parent("data"),)
        return data if self.init is None else (*data, self.init.as_parent("init"))


@dataclass(frozen=True)
class Trainee:
    """A network in training: the DDP-wrapped model, its optimizer, and what steps it."""

    model: Any
    optimizer: Any
    stepper: Stepper


@dataclass(frozen=True)
class Prepared:
    """A run that nothing of what can be checked speaks against; its network is not built yet.

    `shape` is the network with the head that the algorithm asks, `tokenizer_files` and `facts` are those of the
    checkpoint that will come of it.
    """

    run: Run
    algorithm: Algorithm
    settings: Any
    layout: Layout
    inputs: Inputs
    shape: ModelConfig
    tokenizer_files: Mapping[str, str]
    facts: Mapping[str, Any]

    @property
    def limits(self) -> Limits:
        """What the network can read and say."""
        return limits_of(self.shape)


def prepare(run: Run, data: Dataset | None, validation: Dataset | None) -> Prepared:
    """Start this process's groups and check `run` against what it reads; `data` None: its rows are yet to come."""
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")  # Megatron's order of kernels and communication needs it
    if run.execution.threads is not None:
        torch.set_num_threads(run.execution.threads)
    algorithm, settings = registry.configured(run.learning.algorithm, run.learning.settings)
    layout = parallel.start(run.execution.parallel, seed=run.learning.seed, timeout=rank.collective_seconds())
    if validation is not None and not validation.num_rows:
        where = shown(validation.url)
        raise DataError(
            "no-rows",
            f"there is nothing to validate by: {where} has no rows",
            expected="at least one row, or a training without validation",
            where=where,
            kept="every finished stage",
            next=f"quiver show {where}",
        )
    inputs = Inputs(data, validation, None if run.paths.init is None else checkpoint.open_checkpoint(run.paths.init))
    tokenizer_files = _tokenizer_files(run, inputs.init)
    facts = _facts(run, inputs, algorithm, settings, tokenizer_files)
    shape = _with_head(run, inputs.init, algorithm, settings)
    return Prepared(run, algorithm, settings, layout, inputs, shape, tokenizer_files, facts)


def trainee(run: Run, algorithm: Algorithm, settings: Any, layout: Layout, init: Checkpoint | None) -> Trainee:
    """The network of `run` with the head that `algorithm` asks, fresh or from `init`, ready to be stepped."""
    shape = _with_head(run, init, algorithm, settings)
    if faults := parallel_errors(shape, run.execution.parallel):
        raise ConfigError("parallel-size", "the model cannot be cut so", found="; ".join(faults))
    learning = run.learning
    options: dict[str, Any] = {"implementation": run.execution.implementation, "calculate_per_token_loss": True}
    options |= _RECOMPUTE[run.execution.recompute]
    if init is not None:
        options |= {"model": shape, "precision": learning.precision, "seed": learning.seed, "lora": learning.lora}
        network = checkpoint.load_model(init, layout, **options)
    else:
        network = networks.build(shape, layout, precision=learning.precision, seed=learning.seed, **options)
    ddp = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        overlap_grad_reduce=False,
        use_distributed_optimizer=run.execution.parallel.distributed_optimizer,
    )
    wrapped = DistributedDataParallel(network.config, ddp, network)
    optimizer = optimizers.build(learning.optim, wrapped, bf16=learning.precision == "bf16")
    if run.learning.carry_optimizer and init is not None:
        _carry(run, init, shape, wrapped, optimizer)
    stepper = Stepper(wrapped, shape, algorithm, settings, layout)
    return Trainee(wrapped, optimizer, stepper)


def _carry(run: Run, init: Checkpoint, shape: ModelConfig, model: Any, optimizer: Any) -> None:
    """Fill `optimizer` with the state in `init`; without one there it starts fresh, which is said."""
    if not init.has_optimizer:
        if parallel.is_rank_zero():
            print(f"{init.folder} has no optimizer state to carry on: the optimizer starts fresh", file=sys.stderr)
        return
    masters = any("fp32_param" in name for name in Stored(os.path.join(init.folder, checkpoint.OPTIMIZER)).tensors)
    precision = "bf16" if masters else "fp32"
    before = (init.model.head, init.model.head_size, init.adapters is not None, precision)
    now = (shape.head, shape.head_size, run.learning.lora is not None, run.learning.precision)
    if before != now:
        what = ("head", "head_size", "adapters", "precision")
        unlike = [f"{name} {b} -> {n}" for name, b, n in zip(what, before, now, strict=True) if b != n]
        raise ConfigError(
            "other-optimizer",
            "the optimizer state in init is of other weights than this run trains",
            found=", ".join(unlike),
            where=init.folder,
            kept="nothing was started",
            next="leave out carry_optimizer",
        )
    checkpoint.load_optimizer(init.folder, model=model, optimizer=optimizer)


def _with_head(run: Run, init: Checkpoint | None, algorithm: Algorithm, settings: Any) -> ModelConfig:
    model = init.model if init is not None else run.learning.model
    assert model is not None, "a run has a model or a checkpoint to start from"
    if not algorithm.needs.scalar:
        return replace(model, head="lm", head_size=1)
    size = algorithm.num_outputs(settings, model.head_size)
    if init is not None and algorithm.output_names is not None:
        _check_outputs(init, algorithm.output_names(settings))
    return replace(model, head="scalar", head_size=size, tie_embeddings=False)


def _check_outputs(init: Checkpoint, names: tuple[str, ...]) -> None:
    """`ConfigError` where the head that is kept gives as many numbers under other names."""
    before = recorded_outputs(init.manifest.facts.get(OUTPUT_NAMES), len(names)) if init.model.head == "scalar" else ()
    if before and before != names:
        raise ConfigError(
            "other-outputs",
            "the numbers of the head in init have other names than those that are to be learnt",
            expected=", ".join(before),
            found=", ".join(names),
            where=init.folder,
            kept="nothing was started",
            next="give the attributes the names, and the order, that init has; or start from a model without that head",
        )


def limits_of(shape: ModelConfig) -> Limits:
    """What a network of this shape can read and say."""
    return Limits(shape.max_sequence_length, shape.vocab_size, shape.head_size)


def feed(
    run: Run, dataset: Dataset, algorithm: Algorithm, shape: ModelConfig, layout: Layout, *, shuffle: bool
) -> DatasetLoader:
    """The steps of `dataset` as this process reads them; `DataError` if some row cannot be trained on."""
    limits = limits_of(shape)
    source = TokenDataset(
        dataset, algorithm, limits, parallel.on_rank_zero(lambda: _indexed(run, dataset, algorithm, limits))
    )
    cut = sharding(run, layout)
    rows, seed = run.learning.global_batch_size, run.learning.seed
    return DatasetLoader(source, batch_rows=rows, seed=seed, sharding=cut, shuffle=shuffle)


def sharding(run: Run, layout: Layout) -> BatchSharding:
    """How this process takes its part of a global batch."""
    multiple = layout.tensor if layout.sequence else 1
    tokens = run.execution.micro_batch_tokens
    return BatchSharding(layout.data_rank, layout.data, tokens, multiple, even=layout.expert > 1)


def _indexed(run: Run, dataset: Dataset, algorithm: Algorithm, limits: Limits) -> Index:
    """The index of `dataset`: the one that an earlier launch of the run left, or that of a scan."""
    path = indexes.place(run.paths.folder, dataset, algorithm, vars(limits))
    index = Index.read(path, dataset)
    if index is None:
        index = TokenDataset(dataset, algorithm, limits).index
        index.write(path)
    return index


def _tokenizer_files(run: Run, init: Checkpoint | None) -> dict[str, str]:
    """The tokenizer files of the new checkpoint, by name."""
    place = run.paths.tokenizer
    if place is None:
        return {} if init is None else init.tokenizer_files()
    manifest = read_manifest(place)
    if manifest is None or manifest.kind == "checkpoint":
        row = read_folder(place)
    else:
        dataset = Dataset.open(place)
        dataset.schema.requires(TOKENIZERS, "trainers.run")
        row = read_dataset(dataset)
    if row is None:
        raise ConfigError("no-tokenizer", f"there is no tokenizer at {place}", kept="nothing was started")
    return files_of(row)


def _facts(
    run: Run, inputs: Inputs, algorithm: Algorithm, settings: Any, tokenizer_files: Mapping[str, str]
) -> dict[str, Any]:
    """The facts of the new checkpoint; `DataError` for rows in ids of another tokenizer than it speaks."""
    known = {} if inputs.data is None else inputs.data.facts
    facts = {**known, **run.paths.facts}
    one = files_identity(tokenizer_files) if tokenizer_files else ""
    if not one and inputs.init is not None:
        one = str(inputs.init.manifest.facts.get(tokenizer_lineage.FACT, ""))
    for rows in (inputs.data, inputs.validation):
        if rows is not None:
            tokenizers = tokenizer_lineage.tokenizers_of(rows.schema, rows.facts)
            tokenizer_lineage.check(
                tokenizers, algorithm.rows.names, one, run.paths.init or "the tokenizer of the run", rows.url
            )
    earlier = {} if inputs.init is None else inputs.init.manifest.facts
    taught = TurnEnd.of(known).after(TurnEnd.of(earlier))
    facts |= taught.facts if taught.stop else {}
    facts.pop(chat_template.FACT, None)
    facts |= chat_template.learnt(known, earlier).facts
    if one or not isinstance(facts.get(tokenizer_lineage.FACT), str):
        facts[tokenizer_lineage.FACT] = one
    if inputs.init is not None and "family" in inputs.init.manifest.facts:
        facts["family"] = inputs.init.manifest.facts["family"]
    if algorithm.output_names is not None:
        facts[OUTPUT_NAMES] = list(algorithm.output_names(settings))
    return facts
