"""What a training run is: one frozen `Run`, read strictly from JSON before torch is imported.

`Run` names the algorithm and its settings, the table to learn from, the network (a `Model`, or `init`: a checkpoint to
start from), how it is cut over processes (`Parallel`), the optimizer (`Optim`), and where the checkpoint goes. Every
unknown key, wrong type or contradiction is a `ConfigError` (exit 2) that lists all faults at once; nothing was started.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from schemas.errors import ConfigError, printable
from schemas.outside import parsing, strict_json
from schemas.settings import digest, parse, plain
from trainers.architecture import ModelConfig, shape_faults

VERSION = 2
"""Rises when the same run gives other weights."""


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """How the network is cut: tensor and pipeline sizes, `sequence` parallelism inside a tensor group.

    What is left of the world is data parallel: WORLD_SIZE / (tensor * pipeline) replicas. `expert` deals the experts of
    a mixture, each whole, over that many of a pipeline stage's tensor * data processes; with 1 they are cut by
    `tensor` like all else. `distributed_optimizer` deals the optimizer's state over the replicas (ZeRO 1).
    """

    tensor: int = 1
    pipeline: int = 1
    sequence: bool = False
    expert: int = 1
    distributed_optimizer: bool = False

    @property
    def min_world_size(self) -> int:
        """The smallest world that fills the cut; every world that does is a multiple of it."""
        return self.pipeline * math.lcm(self.tensor, self.expert)

    def __str__(self) -> str:
        """The cut in words."""
        return f"tensor {self.tensor} x pipeline {self.pipeline}" + f", expert {self.expert}" * (self.expert > 1)


@dataclass(frozen=True, kw_only=True)
class Optim:
    """AdamW with decoupled weight decay (none on biases and norms), gradient clipping and a learning-rate schedule.

    `warmup_steps` rise linearly from 0 to `lr`; then `constant`, or `cosine` / `linear` down to `min_lr` at the last
    step. `clip_grad` is the greatest global gradient norm (0: no clipping). `fused` takes torch's fused kernel.
    """

    lr: float
    min_lr: float = 0.0
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip_grad: float = 1.0
    fused: bool = True


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021): W x + (alpha / rank) B A x, with A and B alone in training.

    `targets` are the linears that get one, by Megatron's names; `dropout` acts on the adapter's input.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    targets: tuple[Literal["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"], ...] = (
        "linear_qkv",
        "linear_proj",
        "linear_fc1",
        "linear_fc2",
    )


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run. `data` and `validation` may be any fsspec URL; `out` and `work` are folders that all ranks
    share. `data` may be left out where rows are given to `trainers.engine.open` instead.

    `work` (default `<out>.run`) holds metrics, periodic saves and, after a fault of ours, the traceback. `vocabulary`
    is a dataset of one TOKENIZERS row whose tokenizer goes into the checkpoint (default: that of `init`).

    `global_batch_size` counts rows per optimizer step; `micro_batch_tokens` bounds the tokens of one forward pass (a
    row longer than that is a pass of its own). Neither the micro-batch nor the parallel sizes change what is learnt.
    `implementation` is whose layers compute: Transformer Engine's (`te`), ours (`local`), or `te` where it is there.
    `recompute` trades time for memory: activations of attention, or of whole layers, are computed again backwards.
    `carry_optimizer` starts from the optimizer's state in `init`, where it has one, and leaves the new one in `out`.
    `log_rows` writes the keys of every step's rows beside the metrics; `track` names where figures go besides;
    `records` is the dataset of what training saw of every row (default: none).
    Saves are made every `save_every` steps, in the background with `save_async`; the newest `keep_last` stay, and the
    `keep_best` with the lowest `best_by` (with a leading "-" the highest), also when the run is complete.
    `key` is the identity of the result (default: a digest of what decides it); `facts` are written in its manifest.
    """

    other_names: ClassVar[Mapping[str, str]] = {
        "learning_rate": "optim.lr",
        "lr_scheduler_type": "optim.schedule",
        "max_grad_norm": "optim.clip_grad",
        "min_learning_rate": "optim.min_lr",
        "warmup": "optim.warmup_steps",
        "batch_size": "global_batch_size",
        "train_batch_size": "global_batch_size",
        "per_device_train_batch_size": "global_batch_size",
        "num_train_epochs": "epochs",
        "num_epochs": "epochs",
        "max_epochs": "epochs",
        "steps": "max_steps",
        "lora_r": "lora.rank",
        "lora_alpha": "lora.alpha",
        "save_steps": "save_every",
        "logging_steps": "log_every",
        "eval_steps": "validate_every",
        "report_to": "track",
    }
    """What transformers, TRL and NeMo call a setting, and its path here."""

    algorithm: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: str | None = None
    validation: str | None = None
    out: str
    work: str | None = None
    model: ModelConfig | None = None
    init: str | None = None
    vocabulary: str | None = None
    parallel: Parallel = Parallel()
    optim: Optim
    epochs: int | None = None
    max_steps: int | None = None
    global_batch_size: int
    micro_batch_tokens: int = 16384
    precision: Literal["fp32", "bf16"] = "fp32"
    implementation: Literal["auto", "local", "te"] = "auto"
    recompute: Literal["none", "attention", "full"] = "none"
    lora: Lora | None = None
    carry_optimizer: bool = False
    seed: int = 0
    threads: int | None = None
    log_every: int = 1
    log_rows: bool = False
    track: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    records: str | None = None
    save_every: int | None = None
    save_async: bool = False
    keep_last: int = 2
    keep_best: int = 0
    best_by: str = "val_loss"
    validate_every: int | None = None
    key: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        faults = _run_faults(self) + _optim_faults(self.optim)
        cut = self.parallel
        faults += _parallel_faults(cut) if self.model is None else parallel_errors(self.model, cut)
        if faults:
            raise ConfigError("contradiction", "; ".join(faults), kept="nothing was started")

    @property
    def folder(self) -> Path:
        """The local folder of logs and periodic saves."""
        return Path(self.work if self.work is not None else f"{self.out.removeprefix('file://').rstrip('/')}.run")

    def identity_fields(self) -> dict[str, Any]:
        """The part of the run that decides which weights come out, as plain JSON."""
        everything = plain(self)
        fields = {name: value for name, value in everything.items() if name not in _RUNTIME}
        if not self.carry_optimizer:
            del fields["carry_optimizer"]  # it came later, and without it a run is what it was
        return fields

    @property
    def op(self) -> dict[str, Any]:
        """What is done: `train.<algorithm>`, its version, and `decisive()`."""
        return {"name": f"train.{self.algorithm}", "version": VERSION, "params": self.identity_fields()}

    def fingerprint(self, *inputs: str) -> str:
        """`key` where one was given; else a digest of `op` and of the digests of the `inputs`."""
        return self.key or digest({"run": self.op, "inputs": list(inputs)})


_RUNTIME = frozenset(
    (
        "out",
        "work",
        "vocabulary",
        "parallel",
        "micro_batch_tokens",
        "implementation",
        "recompute",
        "threads",
        "log_every",
        "log_rows",
        "track",
        "records",
        "save_every",
        "save_async",
        "keep_last",
        "keep_best",
        "best_by",
        "key",
        "facts",
        "validation",
        "validate_every",
        "data",
        "init",
    )
)


def read(path: str | Path) -> Run:
    """The run described by the JSON file `path`; `ConfigError` for anything that is not exactly a run."""
    return parse(Run, read_json(path), where=str(path))


def read_json(path: str | Path) -> Any:
    """What the JSON file `path` holds; `ConfigError` where it cannot be read or gives a key twice."""
    try:
        with parsing(lambda words: ConfigError("bad-json", f"{printable(path)} is not JSON: {printable(words)}",
                                               where=str(path), kept="nothing was started")):  # fmt: skip
            return strict_json(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError("no-config", f"{printable(path)} cannot be read: {error.strerror}", where=str(path)) from None


def check_trackers(run: Run) -> None:
    """Raise `ConfigError` where a tracker was asked for that is not installed; TensorBoard is the default, not asked
    for.
    """
    missing = [name for name in run.track if name != "tensorboard" and importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            "no-tracker",
            f"{', '.join(missing)} cannot be imported",
            expected="every tracker that track names to be installed",
            kept="nothing was started",
            next="pip install 'quiver-align[track]', or leave it out of track",
        )


def parallel_errors(model: ModelConfig, parallel: Parallel, *, training: bool = True) -> list[str]:
    """Why `model` or `parallel` contradicts itself, or the one cannot be cut by the other; empty when it can."""
    if contradictions := shape_faults(model) + _parallel_faults(parallel):
        return contradictions
    tp, pp = parallel.tensor, parallel.pipeline
    sizes = {
        "num_attention_heads": model.num_attention_heads,
        "ffn_hidden_size": model.ffn_hidden_size,
    }
    faults = [
        f"model.{name} {size} does not divide by parallel.tensor {tp}" for name, size in sizes.items() if size % tp
    ]
    if max(model.num_query_groups, tp) % min(model.num_query_groups, tp):
        faults.append(f"model.num_query_groups {model.num_query_groups} and parallel.tensor {tp} do not divide")
    if model.num_layers % pp:
        faults.append(f"model.num_layers {model.num_layers} does not divide by parallel.pipeline {pp}")
    return faults + _expert_cut_faults(model, parallel, training)


def _expert_cut_faults(model: ModelConfig, parallel: Parallel, training: bool) -> list[str]:
    ep, experts, faults = parallel.expert, model.experts, []
    if ep > 1 and (experts is None or experts.number % ep):
        number = 0 if experts is None else experts.number
        faults.append(f"model.experts.number {number} does not divide by parallel.expert {ep}")
    if experts is not None and parallel.tensor > 1 and not parallel.sequence and (training or ep > 1):
        faults.append(f"a mixture of experts at parallel.tensor {parallel.tensor} needs parallel.sequence")
    return faults


def _below(faults: list[str], prefix: str, least: float, **values: float | None) -> None:
    for name, value in values.items():
        if value is not None and value < least:
            faults.append(f"{prefix}{name} {value} is below {least}")


def _run_faults(run: Run) -> list[str]:
    faults: list[str] = []
    for one, other in (("model", "init"), ("epochs", "max_steps")):
        given = [name for name in (one, other) if getattr(run, name) is not None]
        if len(given) != 1:
            faults.append(f"give exactly one of {one} and {other}, not {len(given)}")
    counts: tuple[str, ...] = ("epochs", "max_steps", "global_batch_size", "micro_batch_tokens", "threads", "log_every")
    counts += ("save_every", "validate_every", "keep_last")
    _below(faults, "", 1, **{name: getattr(run, name) for name in counts})
    _below(faults, "", 0, seed=run.seed, keep_best=run.keep_best)
    if run.lora is not None:
        _below(faults, "lora.", 1, rank=run.lora.rank)
        _below(faults, "lora.", 0, alpha=run.lora.alpha, dropout=run.lora.dropout)
        faults += _lora_faults(run.lora, run.init)
    if run.validate_every is not None and run.validation is None:
        faults.append("validate_every has no effect without validation")
    faults += _save_faults(run)
    for name in ("out", "work", "init"):
        if "://" in (getattr(run, name) or "").removeprefix("file://"):
            faults.append(f"{name} {printable(getattr(run, name))} is not a folder on a file system")
    for name in ("data", "validation", "init"):
        if getattr(run, name) == run.out:
            faults.append(f"out is the same folder as {name}")
    if run.max_steps is not None and run.optim.warmup_steps > run.max_steps:
        faults.append(f"optim.warmup_steps {run.optim.warmup_steps} is more than max_steps {run.max_steps}")
    return faults


def _lora_faults(lora: Lora, init: str | None) -> list[str]:
    faults: list[str] = []
    if init is None:
        faults.append("lora needs init: the checkpoint that its adapters belong to")
    if lora.dropout >= 1:
        faults.append(f"lora.dropout {lora.dropout} is not below 1")
    if not lora.targets or len(set(lora.targets)) != len(lora.targets):
        faults.append("lora.targets names each linear once, and one at least")
    return faults


def _save_faults(run: Run) -> list[str]:
    faults: list[str] = []
    if run.keep_best and (run.validation is None or run.save_every is None):
        faults.append("keep_best has no effect without validation and save_every")
    if run.save_async and run.save_every is None:
        faults.append("save_async has no effect without save_every")
    if run.best_by != "val_loss" and run.validation is None:
        faults.append("best_by has no effect without validation")
    return faults


def _optim_faults(optim: Optim) -> list[str]:
    faults: list[str] = []
    given = {
        name: getattr(optim, name) for name in ("lr", "min_lr", "warmup_steps", "weight_decay", "clip_grad", "eps")
    }
    _below(faults, "optim.", 0, **given)
    if not all(0 <= beta < 1 for beta in optim.betas):
        faults.append(f"optim.betas {optim.betas} are not in [0, 1)")
    if optim.min_lr > optim.lr:
        faults.append(f"optim.min_lr {optim.min_lr} is above optim.lr {optim.lr}")
    if optim.schedule == "constant" and optim.min_lr:
        faults.append("optim.min_lr has no effect with schedule constant")
    return faults


def _parallel_faults(parallel: Parallel) -> list[str]:
    faults: list[str] = []
    _below(faults, "parallel.", 1, tensor=parallel.tensor, pipeline=parallel.pipeline, expert=parallel.expert)
    if parallel.sequence and parallel.tensor == 1:
        faults.append("parallel.sequence has no effect with tensor 1")
    return faults
