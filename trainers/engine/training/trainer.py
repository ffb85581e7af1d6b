"""Training as an object: a network that learns step by step and is asked as it stands.

`python -m trainers.run` is a loop over it; online methods and notebooks call it themselves. In a world of several
processes each has its `Trainer`, and all of them make the same calls with the same rows.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import torch.distributed as dist

from schemas.canonical import identity_fields, json_digest
from schemas.dataset import Dataset
from schemas.end_tokens import TurnEnd
from schemas.errors import ConfigError, DataError, HealthError, QuiverError, printable
from schemas.manifest import Manifest
from schemas.store.ownfiles import own_folder, replace_file
from trainers.config import VERSION
from trainers.engine.checkpoint import checkpoint
from trainers.engine.checkpoint.saves import Saves
from trainers.engine.data.feed import GlobalBatch, global_batch
from trainers.engine.data.rows import TokenTable
from trainers.engine.inference.answer_texts import read_tokenizer
from trainers.engine.inference.frozen import FrozenModel, Scorer
from trainers.engine.inference.generator import Generator
from trainers.engine.inference.live import inference_network
from trainers.engine.megatron import lora, parallel
from trainers.engine.megatron.model import Network
from trainers.engine.reporting.report import by_source
from trainers.engine.reporting.results import TrainedStep
from trainers.engine.training import build, optim
from trainers.engine.training.build import Prepared
from trainers.engine.training.weights_checksum import weights_checksum
from trainers.launch import rank


class Trainer:
    """The network of a run, its optimizer, and how many `steps` they made.

    `last` is the step at which the learning rate has come down (None: it never does); it stays there afterwards.
    `task_key` is the identity of what comes of it (None: follows from the run and from all rows given to `learn`).
    `op` and `parents` are what its checkpoint says it was made by and of: the training and its inputs, unless whoever
    makes the rows says more. `resources` are let go by `close`.
    """

    def __init__(
        self, prepared: Prepared, *, last: int | None, task_key: str | None = None, resources: ExitStack | None = None
    ) -> None:
        self.prepared, self.run, self.last = prepared, prepared.run, last
        parts = (prepared.algorithm, prepared.settings, prepared.layout, prepared.inputs.init)
        learner = build.trainee(prepared.run, *parts)
        self.model, self.optimizer, self.stepper = learner.model, learner.optimizer, learner.stepper
        self.steps, self._resumed = 0, False
        self.given_key = task_key or self.run.paths.task_key
        self.op: Mapping[str, Any] = self.run.learning.op
        self.parents = prepared.inputs.parents
        self._learnt, self._figures = "", dict[str, float]()
        self._began, self._resources, self._closed = time.monotonic(), resources or ExitStack(), False
        self._one_at_a_time = threading.RLock()

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def learn(self, rows: Any) -> dict[str, float]:
        """One optimizer step on exactly these rows; its figures: `loss`, those of the algorithm and of every source,
        `lr`, `grad_norm`, `rows`, `tokens`.

        rows: a dataset or an Arrow table of what the algorithm reads, or what becomes one (a dict of columns, a data
        frame); rows without a key are called by their number. `ConfigError` while another thread is at this trainer,
        and once it is closed; `DataError`, and no step, for columns that are missing or of another type, for rows that
        cannot be trained on, and where processes were given different rows; `HealthError` for a loss that is not
        finite.
        """
        with self._alone():
            batch = self.batch(rows)
            done = self._step(batch, records=False)
        made = {"lr": done.lr, "grad_norm": done.grad_norm, "rows": len(batch.rows), "tokens": done.result.tokens}
        return {**done.figures, **made}

    def batch(self, rows: Any, figures: Mapping[str, float] | None = None) -> GlobalBatch:
        """These rows as the next step's (see `learn`); `figures` are what a report shows beside those of the step."""
        with self._alone():
            table, seen = self._agreed(rows)
            cut = build.sharding(self.run, self.prepared.layout)
            batch = global_batch(table, np.arange(len(table)), cut, number=self.steps, epoch=0)
            return replace(batch, content_digest=seen, figures=figures or {})

    def step(self, batch: GlobalBatch, *, records: bool = False) -> TrainedStep:
        """One optimizer step; with `records` of every row, too. `HealthError` where loss or gradient are not finite."""
        with self._alone():
            return self._step(batch, records)

    def _step(self, batch: GlobalBatch, records: bool) -> TrainedStep:
        number, sources = batch.number + 1, batch.source.sources
        rank.heartbeat(f"step {number}")
        self.model.zero_grad_buffer()
        self.optimizer.zero_grad()
        lora.at_step(self.model, number)
        rows = batch.num_records if records else 0
        result = self.stepper.train(batch.batches, sources=len(sources), rows=rows)
        self._check_finite(batch, "loss", result.loss, "the weights as they were before this step")
        rate = optim.set_learning_rate(self.optimizer, self.run.learning.optim, number, self.last)
        _, norm, _ = self.optimizer.step()
        grad_norm = float(norm) if norm is not None else 0.0
        self._check_finite(batch, "gradient", grad_norm, "what was saved before; the weights here are lost")
        self.steps = number
        if batch.content_digest:
            self._learnt = hashlib.sha256(f"{self._learnt} {batch.content_digest}".encode()).hexdigest()
        self._figures = {"loss": result.loss, **by_source("loss", result.sources, sources), **result.metrics}
        return TrainedStep(result, dict(self._figures), rate, grad_norm)

    def generator(self, *, batch_size: int = 512) -> Generator:
        """Draws answers from the weights as they stand at each call; fits datakit's `Generator` protocol.

        `ConfigError` for a network with a scalar head, or without a tokenizer. batch_size: answers decoded at once.
        """
        self._check_open()
        self._check_head("lm", "policy")
        facts, where = self.prepared.facts, self.run.paths.init or self.run.paths.out
        size = self.prepared.shape.vocab_size
        tokenizer, ends = read_tokenizer(self.prepared.tokenizer_files, TurnEnd.of(facts), size, where)
        return Generator(self._inference, tokenizer, ends.ids, stop=ends.texts, batch_size=batch_size)

    def scorer(self, *, columns: Sequence[str] = ("input_ids",), batch_tokens: int = 8192) -> Scorer:
        """Scores rows with the weights as they stand at each call; fits datakit's `Scorer` protocol.

        `ConfigError` for a network without a scalar head. columns, batch_tokens: as `open_scorer` takes them.
        """
        self._check_open()
        self._check_head("scalar", "reward model")
        named = self.prepared.algorithm.output_names
        names = () if named is None else named(self.prepared.settings)
        return Scorer(self._inference, columns=columns, batch_tokens=batch_tokens, names=names)

    def token_model(self, *, batch_tokens: int = 8192) -> FrozenModel:
        """Log-probabilities, entropies and values of given tokens, by the weights as they stand at each call."""
        self._check_open()
        return FrozenModel(self._inference, batch_tokens=batch_tokens)

    def first_model(self, *, batch_tokens: int = 8192) -> FrozenModel | None:
        """The same by the network that training began with, where that is this one with its adapters left out: it
        shares the weights. None where all weights are trained, or it began with adapters.
        """
        self._check_open()
        init = self.prepared.inputs.init
        if self.run.learning.lora is None or init is None or init.adapters is not None:
            return None
        return FrozenModel(self._network(adapted=False), batch_tokens=batch_tokens)

    def save(
        self, folder: str | None = None, *, optimizer: bool = False, stats: Mapping[str, float] | None = None
    ) -> Manifest:
        """Publish a checkpoint in `folder` (default: the run's `out`), for another run's `init`; with the optimizer's
        state where asked for, or where the run carries it on. stats: the figures of its facts (default: those of the
        last step). Other content in the folder is `ConflictError`.
        """
        with self._alone():
            return self._save(folder, optimizer, stats)

    def _save(self, folder: str | None, optimizer: bool, stats: Mapping[str, float] | None) -> Manifest:
        prepared = self.prepared
        return checkpoint.save(
            folder or self.run.paths.out,
            model=self.model,
            optimizer=self.optimizer if optimizer or self.run.learning.carry_optimizer else None,
            tokenizer_files=prepared.tokenizer_files,
            facts={**prepared.facts, "stats": {**(self._figures if stats is None else stats), "steps": self.steps}},
            task_key=self.task_key,
            op=self.op,
            parents=self.parents,
            seed=self.run.learning.seed,
            runtime_info={"seconds": round(time.monotonic() - self._began, 3)},
        )

    def save_state(self, figures: Mapping[str, float] | None = None, *, beside: Sequence[Trainer] = ()) -> None:
        """Save what the next step depends on in the run's `work` folder, for `resume`; which saves stay is the run's
        `keep_last` and `keep_best`. figures: those of a validation at this step, by which a save is the best. beside:
        trainers that are saved before it, each in its own folder, where the saves that this one's name stay besides.

        `ConfigError` where the folder has saves that this trainer does not go on from.
        """
        with self._alone():
            if not self._resumed and (newest := parallel.on_rank_zero(self.saves.folders.newest)):
                raise ConfigError(
                    "saves-there",
                    f"there are saves of another run of this configuration, the newest of step {newest}",
                    expected="a trainer that goes on from them, or a folder without saves",
                    where=str(self.saves.folder),
                    kept="these saves, and the trainer as it is",
                    next="trainers.engine.open(run, resume=True), or another work (or out) for a new run",
                )
            self._resumed = True
            self.saves.settle()
            self.keep_beside(beside)
            for one in beside:
                one.save_state()
                one.saves.settle()
            last = {name: value for name, value in self._figures.items() if math.isfinite(value)}
            state = {"learnt": self._learnt, "figures": last, "beside": [one.steps for one in beside]}
            self.saves.write(self.steps, figures or {}, state)

    def keep_beside(self, beside: Sequence[Trainer]) -> None:
        """Let the trainers `beside` keep what the saves of this one that are there go on with. All processes ask."""
        made = parallel.on_rank_zero(self.saves.steps_beside)
        for number, one in enumerate(beside):
            one.saves.named_elsewhere = {steps[number] for steps in made if number < len(steps)}

    def resume(self, step: int | None = None, *, beside: Sequence[Trainer] = ()) -> int:
        """Go on from the newest whole save in the run's `work` folder, or from that of `step`, with the trainers that
        were saved `beside` it; the steps made until then, 0 where there is no save. Weights, optimizer, rate and all
        that follows are bit for bit those of a trainer that was never closed, given the same rows from here on; at
        another layout they agree to rounding. Saves of later steps than `step` are removed, with a warning.

        A step draws nothing but what follows from seed and step; what the caller draws must follow from `steps`, too.
        `ConfigError` after a step, for a run that was configured otherwise, and where there is no save of `step`;
        `IntegrityError` where all saves are damaged.
        """
        with self._alone():
            if self.steps:
                raise ConfigError(
                    "under-way",
                    f"this trainer has made {self.steps} steps and cannot go on from a save",
                    expected="resume before the first step",
                    kept="the trainer, as it is",
                    next="close it and open another: trainers.engine.open(run, resume=True)",
                )
            state = self.saves.resume(step)
            self._resumed = True
            self.steps = int(state.get("step", 0))
            self._learnt, self._figures = str(state.get("learnt", "")), dict(state.get("figures", {}))
            saved = state.get("beside", []) if state else [0] * len(beside)
            if len(saved) != len(beside):
                raise ConfigError(
                    "other-trainers",
                    f"the save of step {self.steps} was made with {len(saved)} trainers beside it",
                    expected=f"{len(saved)} trainers beside it",
                    found=str(len(beside)),
                    where=str(self.saves.folder),
                    kept="its saves",
                    next="go on with the trainers that it was saved with, or give another work (or out) for a new run",
                )
            for one, at in zip(beside, saved, strict=True):
                one.resume(at)
            return self.steps

    @property
    def weights_checksum(self) -> str:
        """SHA-256 in hex of the weights that learn, as they stand; equal at one layout alone. All processes ask."""
        with self._alone():
            return weights_checksum(self.model)

    @property
    def resumed(self) -> bool:
        """Whether the saves in the run's `work` folder are its own: it went on from them, or made them."""
        return self._resumed

    @cached_property
    def saves(self) -> Saves:
        """The saves in the run's `work` folder."""
        prepared, run = self.prepared, self.run
        inputs = [parent.content_digest for parent in prepared.inputs.parents]
        unchanged = {"run": identity_fields(run.learning), "version": VERSION, "inputs": inputs}
        known = {"facts": prepared.facts, "tokenizer_files": prepared.tokenizer_files}
        return Saves(run, model=self.model, optimizer=self.optimizer, identity_fields=unchanged, **known)

    def close(self) -> None:
        """Let go of network and optimizer; the process may open another trainer. A second call does nothing."""
        if self._closed:
            return
        with self._alone():
            self._closed = True
        if "saves" in self.__dict__:
            self.__dict__.pop("saves").close()
        self.__dict__.pop("_inference", None)
        del self.model, self.optimizer, self.stepper
        gc.collect()  # Megatron's modules and hooks refer to each other
        self._resources.close()

    @cached_property
    def _inference(self) -> Network:
        return self._network(adapted=True)

    def _network(self, *, adapted: bool) -> Network:
        learning, execution = self.run.learning, self.run.execution
        how: dict[str, Any] = {"precision": learning.precision, "implementation": execution.implementation}
        return inference_network(self.model, adapted=adapted, **how)

    @property
    def task_key(self) -> str:
        """The identity of what comes of it; without a `given_key` it follows from all rows learnt so far."""
        if self.given_key is not None:
            return self.given_key
        inputs = [parent.content_digest for parent in self.prepared.inputs.parents]
        return json_digest({"run": self.run.learning.op, "inputs": inputs, "learnt": self._learnt})

    def _agreed(self, rows: Any) -> tuple[TokenTable, str]:
        """`rows` as this process reads them, and their content digest, once all processes have seen that they were
        given the same.
        """
        fault: QuiverError | None = None
        try:
            table = TokenTable(_table(rows), self.prepared.algorithm, self.prepared.limits)
            seen = table.content_digest
        except QuiverError as error:
            error.kept = "the network and its optimizer, as they were"
            fault, seen = error, error.render()
        if self.prepared.layout.world > 1:
            all_seen: list[Any] = [None] * self.prepared.layout.world
            dist.all_gather_object(all_seen, seen)
            if len(set(all_seen)) > 1:
                raise DataError(
                    "unlike-rows",
                    "the processes of this trainer were given different rows",
                    expected="the rows of the whole step, the same on every process",
                    found=f"{len(set(all_seen))} different tables over {len(all_seen)} processes",
                    kept="the network and its optimizer, as they were",
                ) from fault
        if fault is not None:
            raise fault
        return table, seen

    def _check_finite(self, batch: GlobalBatch, what: str, value: float, kept: str) -> None:
        """Raise `HealthError` unless `value` is finite; every row of the batch is named in a file."""
        if math.isfinite(value):
            return
        number, names, path = batch.number + 1, batch.names(), self.run.paths.folder / "unhealthy.json"
        if self.prepared.layout.rank == 0:
            own_folder(path.parent)
            replace_file(path, json.dumps({"step": number, "what": what, "value": str(value), "rows": names}) + "\n")
        raise HealthError(
            "not-finite",
            f"the {what} of step {number} is {value}; its {len(names)} rows are named in {path}",
            expected="a finite number",
            found=f"{value} on rows {', '.join(map(printable, names[:5]))}{', ...' if len(names) > 5 else ''}",
            kept=kept,
            next="look at these rows, or lower optim.lr",
        )

    def _check_head(self, head: str, what: str) -> None:
        if self.prepared.shape.head != head:
            raise ConfigError(
                "wrong-head",
                f"{self.run.learning.algorithm} trains no {what}",
                expected=f"an algorithm whose network has the head {head}",
                found=f"the head {self.prepared.shape.head}",
                kept="the trainer, as it was",
            )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one thread at a time at the network; `ConfigError` for a second one, and once it is closed."""
        if not self._one_at_a_time.acquire(blocking=False):
            raise ConfigError(
                "trainer-busy",
                "another thread is learning, saving or closing this trainer",
                expected="one thread at a time",
                kept="the trainer, as that thread leaves it",
                next="call it from one thread, or under a lock of your own",
            )
        try:
            self._check_open()
            yield
        finally:
            self._one_at_a_time.release()

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigError("closed", "this trainer is closed", next="open another: trainers.engine.open(run)")


def _table(rows: Any) -> pa.Table:
    if isinstance(rows, Dataset):
        return rows.read()
    try:
        return rows if isinstance(rows, pa.Table) else pa.table(rows)
    except (TypeError, ValueError, AttributeError, pa.ArrowException) as error:
        raise DataError(
            "no-table",
            "the rows given to learn are no table",
            expected="a dataset, an Arrow table, a dict of columns, or a data frame",
            found=f"{type(rows).__name__}: {printable(error)}",
        ) from error
