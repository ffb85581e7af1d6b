"""How many positions a model has, read off the one small file of its folder that says so."""

from __future__ import annotations

from pathlib import Path

from schemas.errors import QuiverError
from trainers.config import read_json

_KEYS = {
    "model.json": ("max_sequence_length",),
    "config.json": ("max_position_embeddings", "n_positions"),
}
"""Of a checkpoint and of a Hugging Face folder: the file, and the keys under which families have the number."""


def positions_in(folder: str) -> int | None:
    """Positions of the model in a checkpoint or a Hugging Face folder; None where no file says a sound number: whoever
    opens the model refuses such a file in words of its own.
    """
    for name, keys in _KEYS.items():
        path = Path(folder.removeprefix("file://")) / name
        if not path.is_file():
            continue
        try:
            settings = read_json(path)
        except QuiverError:
            return None
        values = [settings.get(key) for key in keys] if isinstance(settings, dict) else []
        return next((value for value in values if type(value) is int and value > 0), None)
    return None
