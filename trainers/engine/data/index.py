"""What one scan of a dataset found: the row groups, how long every row is, and that all of them can be trained on.

An index is kept in the run's folder under a name that says of what it is: the dataset's digest, what the algorithm
reads, what the network can take. So a second launch need not scan. It is written whole or not at all, carries its own
SHA-256, and one that is damaged is as good as none. Shards are verified when they are read, as without an index.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from schemas.canonical import json_digest
from schemas.dataset import Dataset
from schemas.errors import StorageError
from schemas.store.ownfiles import own_folder, read_verified, replace_verified
from trainers.algorithm import Algorithm

_FORMAT = 1


@dataclass(frozen=True)
class Index:
    """`groups_G3`: shard, number in it and rows of every row group; `lengths_NS`: tokens of every row and sequence.

    `inside_N` counts the sequences of packs (None: no packs); `source_U` gives the place in `sources` of every sequence
    (empty: unknown).
    """

    groups_G3: np.ndarray
    lengths_NS: np.ndarray
    inside_N: np.ndarray | None
    sources: tuple[str, ...]
    source_U: np.ndarray

    def write(self, path: Path) -> None:
        """Put it at `path`, replacing what is there; an index that cannot be written is done without."""
        arrays: dict[str, Any] = {"groups_G3": self.groups_G3, "lengths_NS": self.lengths_NS, "source_U": self.source_U}
        if self.inside_N is not None:
            arrays["inside_N"] = self.inside_N
        names = np.frombuffer(json.dumps(self.sources).encode(), dtype=np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, sources=names, **arrays)
        with suppress(StorageError):
            own_folder(path.parent)
            replace_verified(path, buffer.getbuffer())

    @staticmethod
    def read(path: Path, dataset: Dataset) -> Index | None:
        """The index of `dataset` at `path`; None where there is none that can be used."""
        try:
            with np.load(io.BytesIO(read_verified(path)), allow_pickle=False) as arrays:
                fields = {name: arrays[name] for name in arrays.files}
            sources = tuple(json.loads(fields.pop("sources").tobytes()))
            index = Index(**{"inside_N": None, **fields}, sources=sources)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return index if index.lengths_NS.shape[:1] == (dataset.num_rows,) else None


def place(folder: Path, dataset: Dataset, algorithm: Algorithm, limits: Mapping[str, Any]) -> Path:
    """Where the index of `dataset` for `algorithm` and `limits` stands below `folder`."""
    sequences = [vars(sequence) for sequence in algorithm.sequences]
    read: dict[str, Any] = {"sequences": sequences, "numbers": algorithm.numbers, "vectors": algorithm.vectors}
    read |= {"needs": algorithm.needs.value, "per": algorithm.per.value}
    fields = {"format": _FORMAT, "dataset": dataset.content_digest, "algorithm": read, "limits": dict(limits)}
    return folder / "index" / json_digest(fields)[:32]
