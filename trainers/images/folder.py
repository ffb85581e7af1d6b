"""Folders of diffusers: Stable Diffusion 1.x, 2.x and XL, looked at without diffusers or torch.

`model_index.json` names the pipeline and the class of each part. Only classes that are known here are ever loaded, and
weights only from safetensors: a folder that names others, or holds pickles alone, is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError, printable
from schemas.untrusted import parsing, strict_json
from trainers.file_digests import WEIGHTS, file_digest

INDEX = "model_index.json"
PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
_PARTS: Mapping[str, frozenset[str]] = {
    "unet": frozenset({"UNet2DConditionModel"}),
    "vae": frozenset({"AutoencoderKL"}),
    "text_encoder": frozenset({"CLIPTextModel"}),
    "text_encoder_2": frozenset({"CLIPTextModelWithProjection"}),
    "tokenizer": frozenset({"CLIPTokenizer", "CLIPTokenizerFast"}),
    "tokenizer_2": frozenset({"CLIPTokenizer", "CLIPTokenizerFast"}),
}
"""The classes that each part may be of. Schedulers are made of their settings; what else a folder names (a safety
checker, a feature extractor, an encoder of images) is not loaded."""
_LIBRARIES = ("diffusers", "transformers")
_SCHEDULERS = re.compile(r"\w{1,60}Scheduler", re.ASCII)
_ZEROS = "force_zeros_for_empty_prompt"
WEIGHED = ("unet", "vae", "text_encoder", "text_encoder_2")
"""The parts that have weights."""
SCHEDULER = "scheduler"
_READ = (WEIGHTS, ".json", ".txt")
_ELSEWHERE = "adapter_config.json"
_ASKS = ("quantization_config", "auto_map")
"""What settings of a part may not ask for: other code than its own class."""


def is_diffusion_folder(folder: str) -> bool:
    """Whether there is a `model_index.json` in `folder`."""
    return "://" not in folder and os.path.isfile(os.path.join(os.path.expanduser(folder), INDEX))


def read_index(folder: str) -> dict[str, Any]:
    """What `model_index.json` says; `ConfigError` for a pipeline that is not one of `PIPELINES`, for parts of classes
    that are not known, and for parts without weights in safetensors.
    """
    path = Path(folder) / INDEX
    try:
        with parsing(lambda words: bad_folder(folder, f"{INDEX} cannot be read: {printable(words)}")):
            index = strict_json(path.read_bytes())
    except OSError as error:
        raise bad_folder(folder, f"{INDEX} cannot be read: {error.strerror}") from None
    if not isinstance(index, dict) or index.get("_class_name") not in PIPELINES:
        named = index.get("_class_name") if isinstance(index, dict) else None
        raise bad_folder(folder, f"the pipeline is {printable(named)}")
    for name in parts_of(index):
        given: Any = index.get(name)
        if not _is_pair(given) or given[0] not in _LIBRARIES or given[1] not in _PARTS[name]:
            raise bad_folder(folder, f"{name} is {printable(given)}")
        if name in WEIGHED:
            _check_part(folder, name)
    given = index.get(SCHEDULER)
    if not _is_pair(given) or given[0] != "diffusers" or not _SCHEDULERS.fullmatch(given[1]):
        raise bad_folder(folder, f"{SCHEDULER} is {printable(given)}")
    if type(index.get(_ZEROS, True)) is not bool:
        raise bad_folder(folder, f"{_ZEROS} is {printable(index[_ZEROS])}")
    return index


def _is_pair(given: Any) -> bool:
    return isinstance(given, list) and len(given) == 2 and all(isinstance(one, str) for one in given)


def _check_part(folder: str, name: str) -> None:
    """`ConfigError` for a part without weights, or one whose files would have others loaded in its place."""
    part = Path(folder) / name
    if not any(part.glob(f"*{WEIGHTS}")):
        raise bad_folder(folder, f"{name} has no weights in {WEIGHTS}")
    if (part / _ELSEWHERE).exists():
        raise bad_folder(folder, f"{name} has {_ELSEWHERE}, which names another model")
    try:
        with parsing(lambda words: bad_folder(folder, f"{name}/config.json cannot be read: {printable(words)}")):
            settings = strict_json((part / "config.json").read_bytes())
    except OSError as error:
        raise bad_folder(folder, f"{name}/config.json cannot be read: {error.strerror}") from None
    asked = [key for key in _ASKS if not isinstance(settings, dict) or key in settings]
    if asked:
        raise bad_folder(folder, f"{name}/config.json has {', '.join(asked)}")


def parts_of(index: Mapping[str, Any]) -> tuple[str, ...]:
    """The parts that are loaded of a folder with this index."""
    doubled = index["_class_name"] == "StableDiffusionXLPipeline"
    return tuple(name for name in _PARTS if doubled or not name.endswith("_2"))


def base_digest(folder: str) -> str:
    """SHA-256 in hex of what makes the model in `folder` what it is; `ConfigError` if it is none."""
    index, root = read_index(folder), Path(folder)
    digests = {"pipeline": index["_class_name"], "zeros": index.get(_ZEROS)}
    for part in (*parts_of(index), SCHEDULER):
        digests |= {f"{part}/{path.name}": file_digest(path) for path in files_of(root / part)}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def files_of(part: Path) -> list[Path]:
    """The files of a part that are read; what else lies beside them (pickles, other frameworks' weights) is not."""
    there = sorted(part.iterdir()) if part.is_dir() else ()
    return [path for path in there if path.is_file() and path.suffix in _READ and not path.name.startswith(".")]


def bad_folder(folder: str, given: str) -> ConfigError:
    """The error of a folder in which `given` is not what is read here."""
    return ConfigError(
        "bad-diffusers-folder",
        f"{printable(folder, 200)} is no Stable Diffusion folder that is read here",
        expected=f"{' or '.join(PIPELINES)} with parts of their own classes, weights in {WEIGHTS}",
        found=given,
        where=folder,
        kept="nothing was started",
    )
