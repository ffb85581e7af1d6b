"""What the one small file of a model's folder says: positions, vocabulary, what the numbers of its head are called."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from schemas.errors import QuiverError
from schemas.nemo.model import CONFIG, CONFIG_2, is_nemo, settings_at
from trainers.adapter_folder import is_adapters, read_adapters
from trainers.architecture import OUTPUT_NAMES, output_names
from trainers.config import read_json

_POSITIONS = {
    "model.json": ("max_sequence_length",),
    "config.json": ("max_position_embeddings", "n_positions"),
    CONFIG: ("max_position_embeddings", "encoder_seq_length"),
    CONFIG_2: ("seq_length",),
}
"""Of a checkpoint, a Hugging Face folder and models of NeMo: the file, and the keys that have the number there."""

ADAPTERS = "lora.json"
"""The file of a checkpoint that holds LoRA adapters alone."""

_USUAL_LABELS = 2
"""Numbers of a classifier whose config.json names none, as in transformers."""


def positions_in(folder: str, base: str = "") -> int | None:
    """Positions of the model in a checkpoint or a Hugging Face folder (adapters there: of `base`); None where no file
    says a sound number: whoever opens the model refuses such a file in words of its own.
    """
    name, settings = _settings(folder, base)
    return next((value for key in _POSITIONS.get(name, ()) if (value := _count(settings.get(key)))), None)


def vocabulary_in(folder: str, base: str = "") -> int | None:
    """Ids that the model in a checkpoint or a Hugging Face folder knows; None where no file says a sound number."""
    return _count(_settings(folder, base)[1].get("vocab_size"))


def scores_in(folder: str, base: str = "") -> bool | None:
    """Whether the model in a checkpoint or a Hugging Face folder puts numbers on rows, and gives no tokens; None where
    no file says what it is.
    """
    return _is_scalar(*_settings(folder, base))


def outputs_in(folder: str, facts: Mapping[str, Any], base: str = "") -> tuple[str, ...]:
    """What the numbers are called that a reward model, in a checkpoint with these `facts` or in a Hugging Face folder,
    puts on a row; empty for any other model.
    """
    name, settings = _settings(folder, base)
    if not _is_scalar(name, settings):
        return ()
    labels = settings.get("id2label")
    named = len(labels) if isinstance(labels, dict) else 0
    usual = _count(settings.get("num_labels")) or named or _USUAL_LABELS
    if name == CONFIG:
        regression = settings.get("regression")
        usual = (_count(regression.get("num_attributes")) if isinstance(regression, dict) else None) or 1
    size = _count(settings.get("head_size")) if name == "model.json" else usual
    return output_names(facts.get(OUTPUT_NAMES), size) if size else ()


def _is_scalar(name: str, settings: Mapping[str, Any]) -> bool | None:
    """Whether the network of the file `name` has a scalar head; None where it does not say."""
    if name == "model.json":
        return settings["head"] == "scalar" if "head" in settings else None
    if name in (CONFIG, CONFIG_2):
        return bool(settings.get("reward_model_type"))
    kinds = settings.get("architectures")
    if not isinstance(kinds, list) or len(kinds) != 1:
        return None
    return str(kinds[0]).endswith("ForSequenceClassification")


def _settings(folder: str, base: str) -> tuple[str, Mapping[str, Any]]:
    """The small file's name and what it holds, that of the base for adapters; nothing where it cannot be read."""
    if is_adapters(folder.removeprefix("file://")):
        with suppress(QuiverError, OSError):
            return "config.json", read_adapters(folder.removeprefix("file://"), base).config
        return "", {}
    if is_nemo(folder.removeprefix("file://")):
        with suppress(QuiverError, OSError):
            given = settings_at(folder.removeprefix("file://"))
            inner = given.values.get("config") if given.is_second else given.values
            return given.name, inner if isinstance(inner, dict) else {}
        return "", {}
    for name in ("model.json", "config.json"):
        path = Path(folder.removeprefix("file://")) / name
        if path.is_file():
            try:
                settings = read_json(path)
            except QuiverError:
                settings = None
            return name, settings if isinstance(settings, dict) else {}
    return "", {}


def _count(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None
