"""Folders that the `datasets` library saved to disk: which Arrow files they hold, in order.

dataset_dict.json                  {"splits": [...]}: one folder below for each split
state.json                         {"_data_files": [{"filename": ...}, ...]}, Arrow streams beside it
"""

from __future__ import annotations

import json
from typing import Any

from schemas.errors import ConfigError, DataError, printable
from schemas.nearest import nearest
from schemas.store.opening import named_file
from schemas.store.storage import inside, normal, shown

_SPLITS, _STATE = "dataset_dict.json", "state.json"
_LIMIT = 1 << 24


def is_saved(place: str) -> bool:
    """Whether `datasets` saved a dataset, or several by split, in the folder `place`."""
    return any(_size(f"{normal(place)}/{name}") is not None for name in (_SPLITS, _STATE))


def saved_files(place: str, split: str | None) -> list[str]:
    """The Arrow files of a saved folder, or `place` itself where it is a file; `ConfigError` for a split that is not
    there, or where one has to be chosen.
    """
    folder = normal(place)
    if _size(f"{folder}/{_SPLITS}") is not None:
        splits = [str(name) for name in _list(_read(f"{folder}/{_SPLITS}"), "splits", folder)]
        if split not in splits and (split is not None or len(splits) != 1):
            raise ConfigError(
                "no-split",
                f"{shown(place)} holds several splits{'' if split is None else f', no {printable(split)}'}",
                expected=f"one of {printable(', '.join(splits), 200)}",
                kept="nothing was started",
                next=f"--params '{json.dumps({'split': splits[0] if splits else ''})}'",
                wrong=() if split is None else (split,),
                nearest=nearest(split or "", splits),
            )
        return saved_files(f"{folder}/{inside(split or splits[0], folder)}", None)
    if _size(f"{folder}/{_STATE}") is None:
        return [place]
    state = _read(f"{folder}/{_STATE}")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise DataError(
            "not-flat",
            f"{shown(place)} is a selection of rows of another dataset",
            kept="nothing was started",
            next="save it again behind dataset.flatten_indices()",
        )
    entries = _list(state, "_data_files", folder)
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries]
    return [f"{folder}/{inside(str(name), folder)}" for name in names]


def _size(url: str) -> int | None:
    store, path = named_file(url)
    return store.size(path)


def _read(url: str) -> dict[str, Any]:
    store, path = named_file(url)
    try:
        content = json.loads(store.read(path, _LIMIT))
    except (ValueError, RecursionError) as error:
        raise DataError("broken-json", f"{shown(url)} is not JSON: {printable(error)}", where=shown(url)) from error
    if not isinstance(content, dict):
        raise DataError("broken-json", f"{shown(url)} is no JSON object", where=shown(url))
    return content


def _list(content: dict[str, Any], key: str, where: str) -> list[Any]:
    if not isinstance(content.get(key), list) or not content[key]:
        raise DataError("broken-json", f"{shown(where)} names no {key}", expected="a list", where=shown(where))
    return list(content[key])
