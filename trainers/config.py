"""What a training run is: one frozen `Run`, read strictly from JSON before torch is imported.

`Run` has three parts: `Learning` (algorithm, network, optimizer: what decides the weights), `Execution` (how the
network is cut over processes, what is saved and reported) and `Paths` (the tables, the checkpoint to start from, where
the new one goes). Every unknown key, wrong type or contradiction is a `ConfigError` (exit 2) that lists all faults at
once; nothing was started.
"""

from __future__ import annotations

import importlib.util
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from schemas.canonical import DEFAULT_UNNAMED, identity_fields, json_digest, plain
from schemas.errors import ConfigError, printable
from schemas.installed import with_extra
from schemas.run_layout import run_folder_of
from schemas.settings import FLATTENED, at_least, bound_faults, parse
from schemas.store.ownfiles import replace_file
from schemas.untrusted import parsing, strict_json
from trainers.architecture import ModelConfig
from trainers.parallel import Parallel, parallel_errors, size_errors
from trainers.registry import settings_by_name, spelled_out

VERSION = 3
"""Rises when the same run gives other weights."""


@dataclass(frozen=True, kw_only=True)
class Optim:
    """AdamW with decoupled weight decay (none on biases and norms), gradient clipping and a learning-rate schedule.

    `warmup_steps` rise linearly from 0 to `lr`; then `constant`, or `cosine` / `linear` down to `min_lr`, which it has
    behind the last step. `clip_grad` is the greatest global gradient norm (0: no clipping). `fused` takes torch's
    fused kernel.
    """

    other_names: ClassVar[Mapping[str, str]] = {
        "learning_rate": "lr",
        "lr_scheduler_type": "schedule",
        "max_grad_norm": "clip_grad",
        "min_learning_rate": "min_lr",
        "warmup": "warmup_steps",
    }
    """What other programs call them."""

    lr: float = field(metadata=at_least(0))
    min_lr: float = field(default=0.0, metadata=at_least(0))
    warmup_steps: int = field(default=0, metadata=at_least(0))
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = field(default=1e-8, metadata=at_least(0))
    weight_decay: float = field(default=0.01, metadata=at_least(0))
    clip_grad: float = field(default=1.0, metadata=at_least(0))
    fused: bool = True


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021): W x + (alpha / rank) B A x, with A and B alone in training.

    `targets` are the linears that get one, by Megatron's names; `dropout` acts on the adapter's input.
    """

    rank: int = field(metadata=at_least(1))
    alpha: float = field(metadata=at_least(0))
    dropout: float = field(default=0.0, metadata=at_least(0))
    targets: tuple[Literal["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"], ...] = (
        "linear_qkv",
        "linear_proj",
        "linear_fc1",
        "linear_fc2",
    )


@dataclass(frozen=True, kw_only=True)
class Learning:
    """What is learnt: all that decides which weights come out, besides the inputs. It is a part of task keys.

    `global_batch_size` counts rows per optimizer step. `model` is a fresh network; without one, a run starts from a
    checkpoint, and with `carry_optimizer` from the state of the optimizer that it was saved with, where it has one; the
    new one is then saved too. A field that is added here is a setting of `CONFIG.json`, `--learning`, `--set` and
    `luigi.cfg`; one that older keys must not notice has `DEFAULT_UNNAMED` as its metadata, one with a bound `at_least`.
    """

    other_names: ClassVar[Mapping[str, str]] = {
        "batch_size": "global_batch_size",
        "train_batch_size": "global_batch_size",
        "per_device_train_batch_size": "global_batch_size",
        "num_train_epochs": "epochs",
        "num_epochs": "epochs",
        "max_epochs": "epochs",
        "steps": "max_steps",
        "lora_r": "lora.rank",
        "lora_alpha": "lora.alpha",
    }
    """What transformers, TRL and NeMo call a setting, and its path here."""

    algorithm: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: ModelConfig | None = None
    optim: Optim
    epochs: int | None = field(default=None, metadata=at_least(1))
    max_steps: int | None = field(default=None, metadata=at_least(1))
    global_batch_size: int = field(metadata=at_least(1))
    precision: Literal["fp32", "bf16"] = "fp32"
    lora: Lora | None = None
    carry_optimizer: bool = field(default=False, metadata=DEFAULT_UNNAMED)
    seed: int = field(default=0, metadata=at_least(0))

    def __post_init__(self) -> None:
        algorithm, settings = spelled_out(self.algorithm, self.settings)
        object.__setattr__(self, "algorithm", algorithm)  # a preset and what it stands for are one
        object.__setattr__(self, "settings", settings)

    @property
    def op(self) -> dict[str, Any]:
        """What is done: `train.<algorithm>`, its version, and all settings that decide which weights come out."""
        return {"name": f"train.{self.algorithm}", "version": VERSION, "params": identity_fields(self)}

    def num_steps(self, rows: int | None) -> int | None:
        """Optimizer steps of a run over that many rows; None where it is not known how many."""
        if self.max_steps is not None or self.epochs is None or rows is None:
            return self.max_steps
        return self.epochs * -(-rows // self.global_batch_size)

    def faults(self) -> list[str]:
        """Why it contradicts itself; empty when it does not."""
        faults: list[str] = []
        if (self.epochs is None) == (self.max_steps is None):
            faults.append(f"give exactly one of epochs and max_steps, not {0 if self.epochs is None else 2}")
        faults += bound_faults(self)
        if self.lora is not None:
            faults += _lora_faults(self.lora)
        if self.max_steps is not None and self.optim.warmup_steps > self.max_steps:
            faults.append(f"optim.warmup_steps {self.optim.warmup_steps} is more than max_steps {self.max_steps}")
        return faults + optim_faults(self.optim)


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run is executed and reported; none of it changes what is learnt.

    `micro_batch_tokens` bounds the tokens of one forward pass (a row longer than that is a pass of its own).
    `implementation` is whose layers compute: Transformer Engine's (`te`), ours (`local`), or `te` where it is there.
    `recompute` trades time for memory: activations of attention, or of whole layers, are computed again backwards.
    `log_rows` writes the keys of every step's rows beside the metrics; `track` names where figures go besides.
    Saves are made every `save_every` steps, in the background with `save_async`; the newest `keep_last` stay, and the
    `keep_best` with the lowest `best_by` (with a leading "-" the highest), also when the run is complete.
    """

    other_names: ClassVar[Mapping[str, str]] = {
        "save_steps": "save_every",
        "logging_steps": "log_every",
        "eval_steps": "validate_every",
        "report_to": "track",
    }

    parallel: Parallel = field(default_factory=Parallel)
    micro_batch_tokens: int = field(default=16384, metadata=at_least(1))
    implementation: Literal["auto", "local", "te"] = "auto"
    recompute: Literal["none", "attention", "full"] = "none"
    threads: int | None = field(default=None, metadata=at_least(1))
    log_every: int = field(default=1, metadata=at_least(1))
    log_rows: bool = False
    track: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    save_every: int | None = field(default=None, metadata=at_least(1))
    save_async: bool = False
    keep_last: int = field(default=2, metadata=at_least(1))
    keep_best: int = field(default=0, metadata=at_least(0))
    best_by: str = "val_loss"
    validate_every: int | None = field(default=None, metadata=at_least(1))

    def faults(self) -> list[str]:
        """Why it contradicts itself; empty when it does not."""
        faults = bound_faults(self)
        if self.keep_best and self.save_every is None:
            faults.append("keep_best has no effect without save_every")
        if self.save_async and self.save_every is None:
            faults.append("save_async has no effect without save_every")
        return faults + size_errors(self.parallel)

    def unused(self) -> list[str]:
        """What has no effect in a run that is not validated."""
        given = {"keep_best": self.keep_best, "best_by": self.best_by != "val_loss",
                 "validate_every": self.validate_every}  # fmt: skip
        return [f"{name} has no effect without validation" for name, value in given.items() if value]


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Where things lie. `data` and `validation` may be any fsspec URL; `out`, `work` and `init` are folders that all
    ranks share. `data` may be left out where rows are given to `trainers.engine.open` instead.

    `work` (default `<out>.run`) holds metrics, periodic saves and, after a fault of ours, the traceback. `init` is the
    checkpoint to start from. `tokenizer` is a dataset of one TOKENIZERS row whose tokenizer goes into the checkpoint
    (default: that of `init`). `records` is the dataset of what training saw of every row (default: none). `task_key`
    is the identity of the result (default: a digest of what decides it); `facts` are written in its manifest.
    """

    data: str | None = None
    validation: str | None = None
    init: str | None = None
    tokenizer: str | None = None
    out: str
    work: str | None = None
    records: str | None = None
    task_key: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    older_names: ClassVar[Mapping[str, str]] = {"vocabulary": "tokenizer"}

    @property
    def folder(self) -> Path:
        """The local folder of logs and periodic saves."""
        return Path(self.work if self.work is not None else run_folder_of(self.out.removeprefix("file://")))

    def faults(self) -> list[str]:
        """Why it contradicts itself; empty when it does not."""
        faults = []
        for name in ("out", "work", "init"):
            if "://" in (getattr(self, name) or "").removeprefix("file://"):
                faults.append(f"{name} {printable(getattr(self, name))} is not a folder on a file system")
        for name in ("data", "validation", "init", "tokenizer", "out", "work", "records"):
            if "\0" in (getattr(self, name) or ""):
                faults.append(f"{name} {printable(getattr(self, name))} holds a NUL, as no place's name can")
        for name in ("data", "validation", "init"):
            if getattr(self, name) == self.out:
                faults.append(f"out is the same folder as {name}")
        return faults


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training without paths, as a graph holds it; `check` once it is known what it starts from."""

    given_apart: ClassVar[tuple[str, ...]] = ("algorithm", "model", "seed")
    """What is no setting of it to whoever gives settings: commands have flags of their own for these."""

    learning: Learning = field(metadata=FLATTENED)
    execution: Execution = field(metadata=FLATTENED)

    def check(self, *, init: bool, validation: bool, paths: Sequence[str] = (), where: str = "") -> None:
        """Raise `ConfigError` with every contradiction: inside the parts, and with whether there is a checkpoint to
        start from, and rows to validate on; `paths` are the faults of those.
        """
        learning, execution = self.learning, self.execution
        faults = [*learning.faults(), *execution.faults(), *paths]
        if init == (learning.model is not None):
            faults.append(f"give exactly one of model and init, not {2 if init else 0}")
        if learning.lora is not None and not init:
            faults.append("lora needs init: the checkpoint that its adapters belong to")
        if learning.model is not None and not size_errors(execution.parallel):
            faults += parallel_errors(learning.model, execution.parallel)
        faults += [] if validation else execution.unused()
        if faults:
            raise ConfigError("contradiction", "; ".join(faults), where=where, kept="nothing was started")

    def placed(self, paths: Paths, **changes: Any) -> Run:
        """The run with its paths, and with `changes` of what is learnt."""
        return Run(learning=replace(self.learning, **changes), execution=self.execution, paths=paths)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run: what is learnt, how it is executed, where things lie. Its JSON is flat: a setting has one name,
    whichever part it belongs to.
    """

    learning: Learning = field(metadata=FLATTENED)
    execution: Execution = field(metadata=FLATTENED)
    paths: Paths = field(metadata=FLATTENED)

    def __post_init__(self) -> None:
        training, paths = Training(learning=self.learning, execution=self.execution), self.paths
        init, validation = paths.init is not None, paths.validation is not None
        training.check(init=init, validation=validation, paths=paths.faults())

    def task_key(self, *inputs: str) -> str:
        """`paths.task_key` where one was given; else a digest of what is done and of the content of the `inputs`."""
        return self.paths.task_key or json_digest({"run": self.learning.op, "inputs": list(inputs)})


def training_of(
    algorithm: str, settings: Mapping[str, Any], *, seed: int, model: Mapping[str, Any] | None = None, where: str = ""
) -> Training:
    """The training with these `settings` (fields of `Learning` and `Execution`), of a fresh `model` or (None) of a
    checkpoint; `ConfigError` for any that is unknown. The size of the vocabulary comes from the tokenizer, later.
    """
    taken = sorted({*Training.given_apart} & settings.keys())
    if taken:
        raise ConfigError(
            "bad-setting", f"{', '.join(taken)} cannot be set here", where=where, kept="nothing was started"
        )
    fresh = {} if model is None else {"model": {"vocab_size": 1, **model}}
    given = {"algorithm": algorithm, "seed": seed, **fresh, **settings}
    return parse(Training, given, where=where, elsewhere=settings_by_name(algorithm))


def merged(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON: `defaults` with what is `given` in their place, object by object; a list is replaced whole.

    What is given displaces the defaults that exclude it: `max_steps` the `epochs` and the other way round, and a
    warm-up that is longer; a constant rate the `min_lr` that it does not fall to, a lower `lr` one that is above it.
    """
    rest = dict(defaults)
    for one, other in (("epochs", "max_steps"), ("max_steps", "epochs")):
        if given.get(one) is not None and given.get(other) is None:
            rest.pop(other, None)
    if given.get("schedule") == "constant":
        rest.pop("min_lr", None)
    if _above(rest.get("min_lr"), given.get("lr")):
        rest.pop("min_lr")
    optim, steps = rest.get("optim"), given.get("max_steps")
    if isinstance(optim, Mapping) and _above(optim.get("warmup_steps"), steps):
        rest["optim"] = {name: value for name, value in optim.items() if name != "warmup_steps"}
    for name, value in given.items():
        below = rest.get(name)
        rest[name] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return rest


def _above(default: Any, given: Any) -> bool:
    numbers = isinstance(default, int | float) and isinstance(given, int | float)
    return numbers and default > given


def write(path: str | Path, run: Run) -> None:
    """Leave `run` in the JSON file `path`, as `read` takes it; never half of it."""
    replace_file(Path(path), json.dumps(plain(run), indent=1))


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
        raise ConfigError(
            "no-config",
            f"{printable(path)} cannot be read: {error.strerror}",
            where=str(path),
            kept="nothing was started",
            next=f"ls {shlex.quote(str(Path(path).parent))}",
        ) from None


def check_trackers(execution: Execution) -> None:
    """Raise `ConfigError` where a tracker was asked for that is not installed; TensorBoard is the default, not asked
    for.
    """
    missing = [name for name in execution.track if name != "tensorboard" and importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            "no-tracker",
            f"{', '.join(missing)} cannot be imported",
            expected="every tracker that track names to be installed",
            kept="nothing was started",
            next=with_extra("track"),
        )


def _lora_faults(lora: Lora) -> list[str]:
    faults = bound_faults(lora, "lora.")
    if lora.dropout >= 1:
        faults.append(f"lora.dropout {lora.dropout} is not below 1")
    if not lora.targets or len(set(lora.targets)) != len(lora.targets):
        faults.append("lora.targets names each linear once, and one at least")
    return faults


def optim_faults(optim: Optim) -> list[str]:
    """Why the settings of an optimizer contradict themselves; empty when they do not."""
    faults = bound_faults(optim, "optim.")
    if not all(0 <= beta < 1 for beta in optim.betas):
        faults.append(f"optim.betas {optim.betas} are not in [0, 1)")
    if optim.min_lr > optim.lr:
        faults.append(f"optim.min_lr {optim.min_lr} is above optim.lr {optim.lr}")
    if optim.schedule == "constant" and optim.min_lr:
        faults.append("optim.min_lr has no effect with schedule constant")
    return faults
