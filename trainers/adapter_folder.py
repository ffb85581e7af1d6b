"""A PEFT folder, as `save_pretrained` of PEFT and TRL's trainers write it: LoRA adapters on a Hugging Face model.

    adapter_config.json          which model they belong to, and how they are scaled
    adapter_model.safetensors    the tensors (`trainers.adapter_tensors`)

What is read here is the small file, without torch: W + scale * B A with scale = alpha / rank (Hu et al. 2021), or
alpha / sqrt(rank) where the adapters are rank-stabilised (Kalajdzievski 2023); with `use_dora`, every output's weights
then get the length that the adapters hold for it (Liu et al. 2024). Everything else that PEFT can put into such a
folder changes what is computed, and is refused by name.
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

import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import ConfigError, printable
from schemas.store.storage import shown
from trainers.adapter_tensors import AdapterTensors, read_tensors
from trainers.config import read_json

CONFIG = "adapter_config.json"
_HEAD = "score.weight"
_MODEL = "config.json"
_LM = re.compile("ForCausalLM|LMHeadModel")

_READ = frozenset(
    (
        *("peft_type", "base_model_name_or_path", "revision", "task_type", "r", "lora_alpha", "use_rslora"),
        *("rank_pattern", "alpha_pattern", "init_lora_weights", "bias", "use_dora"),
        *("modules_to_save", "trainable_token_indices", "ensure_weight_tying"),
    )
)
_IDLE = frozenset(
    (
        *("auto_mapping", "peft_version", "inference_mode", "lora_dropout", "target_modules", "exclude_modules"),
        *("layers_to_transform", "layers_pattern", "megatron_config", "megatron_core", "eva_config"),
        *("qalora_group_size", "fan_in_fan_out"),
    )
)
"""What decides how adapters are trained, or what the tensors' names and the layers that they lie on say anyway."""

_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Ways to start adapters that leave the model's own weights as they are."""

MERGE = "merge_and_unload() of PEFT, then save_pretrained(new), makes a whole model of them"

_LARGEST = 2**31 - 1
"""The largest rank, and the largest alpha."""

_LARGEST_FILE = 64 << 20

PLAIN = re.compile(r"\^?[\w.]+")
"""What is no expression: the end of a module's name, or, behind ^, all of it."""

_LONGEST_PATTERN = 1000
_TWO_MEANINGS = re.compile(r"\(\?(?!:)|\[\^?\[|\[:|--|&&|~~|\|\||\{,|[^\x20-\x7e]")
"""What Python's expressions, which PEFT reads, and RE2's may understand differently. RE2 takes linear time, whatever
the folder asks for."""


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
    def tensors(self) -> AdapterTensors:
        """What lies in the file of tensors."""
        copied = list(self.settings.get("modules_to_save") or ())
        if copied and self.settings.get("ensure_weight_tying"):
            copied.append("lm_head")  # PEFT names the embedding alone, and copies what is tied to it too
        return read_tensors(self.path, copied)

    @property
    def has_lengths(self) -> bool:
        """Whether each adapter says how long every output's weights are (DoRA)."""
        return bool(self.settings.get("use_dora"))

    def tokens(self, module: str) -> list[int]:
        """Ids whose rows of `module` were trained."""
        given = self.settings.get("trainable_token_indices") or []
        if isinstance(given, dict):
            return next((list(ids) for name, ids in given.items() if module.endswith(name)), [])
        return list(given)

    def rank(self, module: str) -> int:
        """Rank of the adapter on `module`, by its name in the model."""
        return int(_matching(self.settings.get("rank_pattern"), module, self.settings["r"]))

    def alpha(self, module: str) -> float:
        """Alpha of the adapter on `module`."""
        return float(_matching(self.settings.get("alpha_pattern"), module, self.settings["lora_alpha"]))

    def scale(self, module: str) -> float:
        """What B A of the adapter on `module` is multiplied by."""
        rank = self.rank(module)
        return self.alpha(module) / (math.sqrt(rank) if self.settings.get("use_rslora") else rank)

    @property
    def config(self) -> dict[str, Any]:
        """config.json of the adapted model: that of `base`, with as many ids as an embedding has that came with the
        adapters, and a classifier's, of as many numbers as the head that came, where they make one.
        """
        read = read_json(Path(self.base) / _MODEL)
        config: dict[str, Any] = read if isinstance(read, dict) else {}
        kinds, tensors = config.get("architectures"), self.tensors
        if tensors.vocab_size is not None:
            config["vocab_size"] = tensors.vocab_size
        if self.scalar and isinstance(kinds, list):
            config["architectures"] = [_LM.sub("ForSequenceClassification", str(kind)) for kind in kinds]
            head = tensors.shape(tensors.copies.get(_HEAD) or tensors.below.get(_HEAD, ""))
            config["num_labels"] = head[0] if head else None
        return config


def is_adapters(folder: str) -> bool:
    """Whether `folder` holds adapters, and no weights of a whole model beside them."""
    there = Path(folder)
    return os.path.isfile(there / CONFIG) and not any(there.glob("model*.safetensors"))


def read_adapters(folder: str, base: str = "") -> AdapterFolder:
    """The adapters in `folder`, on the model in the folder `base` or in that which they name themselves.

    `ConfigError` for adapters of another kind than LoRA, for settings that change what is computed in a way that is not
    read here, and where the base is not on this machine.
    """
    size = os.path.getsize(os.path.join(folder, CONFIG))
    settings: Any = read_json(Path(folder) / CONFIG) if size <= _LARGEST_FILE else None
    faults = _faults(settings) if isinstance(settings, dict) else ["it is no object of settings"]
    if faults:
        raise ConfigError(
            "unsupported-adapters",
            f"{CONFIG} asks for adapters that are not read",
            expected="LoRA or DoRA on linears and embeddings, modules_to_save, trainable_token_indices (LoraConfig)",
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
    if settings.get("bias") not in (None, "none", "all", "lora_only"):
        faults.append(f"bias {settings['bias']}")
    if not _are_names(settings.get("modules_to_save") or []):
        faults.append(f"modules_to_save {settings['modules_to_save']}")
    tokens = settings.get("trainable_token_indices") or []
    lists = tokens.values() if isinstance(tokens, dict) and _are_names(list(tokens)) else [tokens]
    if not all(map(_are_ids, lists)):
        faults.append(f"trainable_token_indices {tokens} (ids, each once, are read)")
    if settings.get("init_lora_weights") not in _STARTS:
        faults.append(f"init_lora_weights {settings['init_lora_weights']}, which changes the model's own weights")
    for name, fits, kind in (("rank_pattern", _is_rank, "ranks"), ("alpha_pattern", _is_positive, "positive numbers")):
        given = settings.get(name) or {}
        if not isinstance(given, dict) or any(not _is_pattern(key) or not fits(given[key]) for key in given):
            faults.append(f"{name} {given} ({kind} for ends of names or for expressions that RE2 reads are read)")
    return faults + [f"{name} {value}" for name, value in settings.items() if name not in _READ | _IDLE and value]


def _is_positive(value: object) -> bool:
    """Whether it is a number above 0 and not beyond the largest: integers of JSON may be too large for a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _LARGEST


def _is_rank(value: object) -> bool:
    """Whether it is such a number, and whole."""
    return isinstance(value, int | float) and _is_positive(value) and value == int(value)


def _are_names(value: object) -> bool:
    """Whether they are texts, none of them empty."""
    return isinstance(value, list) and all(isinstance(name, str) and name for name in value)


def _are_ids(value: object) -> bool:
    """Whether they are whole numbers from 0 on, each there once."""
    whole = isinstance(value, list) and all(type(number) is int and 0 <= number <= _LARGEST for number in value)
    return whole and len(set(value)) == len(value)  # type: ignore[arg-type, call-overload]


def _is_pattern(key: str) -> bool:
    """Whether PEFT and `_names` understand the same by it."""
    if PLAIN.fullmatch(key):
        return True
    if len(key) > _LONGEST_PATTERN or _TWO_MEANINGS.search(key):
        return False
    try:
        re.compile(key)
        _names(key, "")
    except (re.error, pa.ArrowInvalid, OverflowError, RecursionError):
        return False
    return True


def _names(pattern: str, module: str) -> bool:
    """Whether the pattern names `module`, by PEFT's rule: it matches all of the name, or its end behind a dot."""
    if PLAIN.fullmatch(pattern):
        name = pattern.removeprefix("^")
        return module == name or (name == pattern and module.endswith(f".{name}"))
    match = pc.match_substring_regex(pa.scalar(module), rf"^(?:(.*\.)?({pattern})$)")
    return bool(match.as_py())


def _matching(patterns: Mapping[str, Any] | None, module: str, usual: Any) -> Any:
    """The value of the first pattern that names `module`, or the usual one."""
    return next((value for pattern, value in (patterns or {}).items() if _names(pattern, module)), usual)


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
