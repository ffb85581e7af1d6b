"""A reward model that puts numbers on rows: the scalar head at the last token, over a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.errors import ConfigError
from schemas.rows.conversation import IDS
from schemas.schema import Column, Schema
from trainers.architecture import OUTPUT_NAMES, output_names
from trainers.engine.checkpoint import checkpoint as checkpoints
from trainers.engine.checkpoint.checkpoint import Checkpoint
from trainers.engine.inference.frozen import FrozenModel, open_network
from trainers.engine.megatron.model import Network


class Scorer:
    """Scores the tokens of `columns`, laid end to end, with the scalar head of `network`; `names` are what its numbers
    are called.
    """

    def __init__(
        self,
        network: Network,
        *,
        columns: Sequence[str] = ("input_ids",),
        batch_tokens: int = 8192,
        names: Sequence[str] = (),
    ) -> None:
        self.network, self.columns = network, tuple(columns)
        self.model = FrozenModel(network, batch_tokens=batch_tokens)
        size = network.architecture.head_size
        self.names = tuple(names) or output_names(None, size)
        assert len(self.names) == size, f"{size} numbers are not called {self.names}"

    @property
    def takes(self) -> Schema:
        return Schema("scored", 1, tuple(Column(name, IDS, "tokens that are read") for name in self.columns))

    def score(self, rows: pa.Table) -> dict[str, pa.Array]:
        """The head's numbers by name, float64, one per row.

        `DataError` for a row without tokens, too long for the model, or with ids outside its vocabulary.
        """
        parts = [rows[name].to_pylist() for name in self.columns]
        texts = [np.concatenate([np.asarray(ids, np.int64) for ids in row]) for row in zip(*parts, strict=True)]
        scores_NH = self.model.scores(texts)
        return {name: pa.array(scores_NH[:, i], pa.float64()) for i, name in enumerate(self.names)}


def open_scorer(
    checkpoint: str | Checkpoint, *, columns: Sequence[str] = ("input_ids",), batch_tokens: int = 8192, **how: Any
) -> Scorer:
    """A scorer over the reward model in `checkpoint`; its numbers are called after the attributes it was trained on,
    where it was. columns: token columns that make up what is read, in order. how: settings of `open_network`.
    """
    source = checkpoints.open_checkpoint(checkpoint) if isinstance(checkpoint, str) else checkpoint
    if source.model.head != "scalar":
        raise ConfigError(
            "no-reward-model", "the checkpoint is no reward model", found="an lm head", where=source.folder
        )
    names = output_names(source.manifest.facts.get(OUTPUT_NAMES), source.model.head_size)
    network = open_network(source, **how)
    return Scorer(network, columns=columns, batch_tokens=batch_tokens, names=names)
