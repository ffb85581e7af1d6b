"""A PEFT folder, as `save_pretrained` of PEFT and TRL's trainers write it: LoRA adapters on a Hugging Face model.

    adapter_config.json          which model they belong to, and how they are scaled
    adapter_model.safetensors    base_model.model.<module>.lora_A.weight [rank, in], .lora_B.weight [out, rank];
                                 other weights stand in place of the model's

What is read here is the small file, without torch: W + scale * B A with scale = alpha / rank (Hu et al. 2021), or
alpha / sqrt(rank) where the adapters are rank-stabilised (Kalajdzievski 2023). Everything else that PEFT can put into
such a folder changes what is computed, and is refused by name.
"""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError, printable
from schemas.store.storage import shown
from trainers.config import read_json
from trainers.safetensors_header import entries

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
HEAD = f"{PREFIX}score.weight"
_MODEL = "config.json"
_LM = re.compile("ForCausalLM|LMHeadModel")

_READ = frozenset(
    (
        *("peft_type", "base_model_name_or_path", "revision", "task_type", "r", "lora_alpha", "use_rslora"),
        *("rank_pattern", "alpha_pattern", "fan_in_fan_out", "init_lora_weights", "bias"),
    )
)
_IDLE = frozenset(
    (
        *("auto_mapping", "peft_version", "inference_mode", "lora_dropout", "target_modules", "exclude_modules"),
        *("layers_to_transform", "layers_pattern", "modules_to_save", "megatron_config", "megatron_core"),
        *("eva_config", "qalora_group_size"),
    )
)
"""What decides how adapters are trained, or what the names of the tensors say anyway."""

_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Ways to start adapters that leave the model's own weights as they are."""

MERGE = "merge_and_unload() of PEFT, then save_pretrained(new), makes a whole model of them"

_LARGEST = 2**31 - 1
"""The largest rank, and the largest alpha."""

_PLAIN = re.compile(r"\^?[\w.]+")
"""What is read as a pattern of modules' names: the end of a name, or, behind ^, all of it."""


@dataclass(frozen=True, kw_only=True)
class AdapterFolder:
    """The adapters in the folder `path` on the model in the folder `base`; `settings` are their adapter_config.json."""

    path: str
    base: str
    settings: Mapping[str, Any]

    @property
    def scalar(self) -> bool:
        """Whether they make a reward model: a classifier of whole texts."""
        return self.settings.get("task_type") == "SEQ_CLS"

    @property
    def transposed(self) -> bool:
        """Whether the adapted weights are [in, out], as GPT-2's are."""
        return bool(self.settings.get("fan_in_fan_out"))

    def rank(self, module: str) -> int:
        """Rank of the adapter on `module`, by its name in the model."""
        return int(_matching(self.settings.get("rank_pattern"), module, self.settings["r"]))

    def scale(self, module: str) -> float:
        """What B A of the adapter on `module` is multiplied by."""
        alpha = _matching(self.settings.get("alpha_pattern"), module, self.settings["lora_alpha"])
        rank = self.rank(module)
        return float(alpha / (math.sqrt(rank) if self.settings.get("use_rslora") else rank))

    @property
    def config(self) -> dict[str, Any]:
        """config.json of the adapted model: that of `base`, as a classifier's where the adapters make one."""
        read = read_json(Path(self.base) / _MODEL)
        config: dict[str, Any] = read if isinstance(read, dict) else {}
        kinds = config.get("architectures")
        if self.scalar and isinstance(kinds, list):
            config["architectures"] = [_LM.sub("ForSequenceClassification", str(kind)) for kind in kinds]
            config["num_labels"] = self.labels
        return config

    @property
    def labels(self) -> int | None:
        """How many numbers the head has that came with adapters of a classifier; None where none came."""
        head = entries(os.path.join(self.path, TENSORS)).get(HEAD)
        return head.shape[0] if head is not None and head.shape else None


def is_adapters(folder: str) -> bool:
    """Whether `folder` holds adapters, and no weights of a whole model beside them."""
    there = Path(folder)
    return os.path.isfile(there / CONFIG) and not any(there.glob("model*.safetensors"))


def read_adapters(folder: str, base: str = "") -> AdapterFolder:
    """The adapters in `folder`, on the model in the folder `base` or in that which they name themselves.

    `ConfigError` for adapters of another kind than LoRA, for settings that change what is computed in a way that is not
    read here, and where the base is not on this machine.
    """
    settings = read_json(Path(folder) / CONFIG)
    faults = _faults(settings) if isinstance(settings, dict) else ["it is no object"]
    if faults:
        raise ConfigError(
            "unsupported-adapters",
            f"{CONFIG} asks for adapters that are not read",
            expected="LoRA on linear layers (PEFT's LoraConfig), with or without rank-stabilised scale",
            found=printable("; ".join(faults), 400),
            where=shown(folder),
            kept="nothing was started",
            next=MERGE,
        )
    return AdapterFolder(path=folder, base=base or _base_of(folder, settings), settings=settings)


def _faults(settings: Mapping[str, Any]) -> list[str]:
    if settings.get("peft_type") != "LORA":
        return [f"peft_type {settings.get('peft_type')}"]
    faults = [f"r {settings.get('r')}"] if not _is_rank(settings.get("r")) else []
    faults += [f"lora_alpha {settings.get('lora_alpha')}"] if not _is_positive(settings.get("lora_alpha")) else []
    if settings.get("bias") not in (None, "none"):
        faults.append(f"bias {settings['bias']}")
    if settings.get("init_lora_weights") not in _STARTS:
        faults.append(f"init_lora_weights {settings['init_lora_weights']}, which changes the model's own weights")
    for name, fits, kind in (("rank_pattern", _is_rank, "ranks"), ("alpha_pattern", _is_positive, "positive numbers")):
        given = settings.get(name) or {}
        if not isinstance(given, dict) or any(not _PLAIN.fullmatch(key) or not fits(given[key]) for key in given):
            faults.append(f"{name} {given} (plain ends of names and {kind} are read)")
    return faults + [f"{name} {value}" for name, value in settings.items() if name not in _READ | _IDLE and value]


def _is_positive(value: object) -> bool:
    """Whether it is a number above 0 and not beyond the largest: integers of JSON may be too large for a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _LARGEST


def _is_rank(value: object) -> bool:
    """Whether it is such a number, and whole."""
    return isinstance(value, int | float) and _is_positive(value) and value == int(value)


def _matching(patterns: Mapping[str, Any] | None, module: str, usual: Any) -> Any:
    """The value of the first pattern that names `module` (PEFT's rule), or the usual one."""
    for pattern, value in (patterns or {}).items():
        name = pattern.removeprefix("^")
        if module == name or (name == pattern and module.endswith(f".{name}")):
            return value
    return usual


def _base_of(folder: str, settings: Mapping[str, Any]) -> str:
    """The folder of the model that adapters name: a path, or a name whose files lie in the hub's cache."""
    named = str(settings.get("base_model_name_or_path") or "")
    tried = [os.path.join(folder, named)] if named else []
    with suppress(ValueError):  # no name of a user may hold what stands behind ~
        tried += [os.path.abspath(os.path.expanduser(named))] if named else []
    snapshots = os.path.join(_hub(), "models--" + named.replace("/", "--"))
    tried += _snapshots(snapshots, str(settings.get("revision") or "main")) if named else []
    for place in tried:
        if os.path.isfile(os.path.join(place, _MODEL)):
            return os.path.normpath(place)
    raise ConfigError(
        "no-base-model",
        f"the model that the adapters in {shown(folder)} belong to is not on this machine",
        expected=f"{printable(named, 200) or 'its name'}: a folder, or in the hub's cache ({shown(_hub())})",
        found="no folder with config.json" if named else f"{CONFIG} names none",
        where=shown(folder),
        kept="nothing was started",
        next=f"quiver ImportModel --folder {shlex.quote(shown(folder))} --base FOLDER",
    )


def _hub() -> str:
    """Where the hub's library keeps what it downloaded, by its own rules."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return os.path.expanduser(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub"))


def _snapshots(place: str, revision: str) -> list[str]:
    """Where the cache has `revision` (a commit, or a branch that it knows the commit of)."""
    if not re.fullmatch(r"[\w.\-]+(/[\w.\-]+)*", revision) or ".." in revision:
        return []
    branch = Path(place) / "refs" / revision
    commit = branch.read_text(encoding="utf-8").strip() if os.path.isfile(branch) else revision
    return [os.path.join(place, "snapshots", commit)] if re.fullmatch(r"[\w.\-]+", commit) else []
