"""A reward model that puts numbers on rows: the scalar head at the last token, over a checkpoint.

Rows are sorted by length and read in packed passes of about `batch_tokens` tokens; which rows share a pass
follows from the chunk alone (ties by content), so the order of rows changes nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from schemas.conversation import IDS
from schemas.errors import ConfigError, DataError
from schemas.schema import Column, Schema
from trainers.config import Parallel
from trainers.engine import checkpoint as checkpoints
from trainers.engine import parallel, stages
from trainers.engine.checkpoint import Checkpoint
from trainers.engine.model import Network
from trainers.engine.packing import Packed, pack
from trainers.engine.specs import Implementation


class Scorer:
    """Scores the tokens of `columns`, laid end to end, with the scalar head of `network`."""

    def __init__(self, network: Network, *, columns: Sequence[str] = ("input_ids",), batch_tokens: int = 8192) -> None:
        self.network, self.columns, self.batch_tokens = network, tuple(columns), batch_tokens
        self.device = next(network.parameters()).device

    @property
    def takes(self) -> Schema:
        """The token columns."""
        return Schema("scored", 1, tuple(Column(name, IDS, "tokens that are read") for name in self.columns))

    @torch.inference_mode()
    def score(self, rows: pa.Table) -> dict[str, pa.Array]:
        """`reward` float64, one per row; a head of several numbers gives `reward_0`, `reward_1`, ...

        `DataError` for a row without tokens, too long for the model, or with ids outside its vocabulary.
        """
        texts = self._texts(rows)
        size = self.network.architecture.head_size
        scores = np.zeros((len(texts), size))
        for chosen in self._passes(texts):
            ids = torch.from_numpy(np.concatenate([texts[i] for i in chosen])).to(self.device)
            plan = pack([len(texts[i]) for i in chosen], self.device)
            said_1tn = stages.through(self.network, functools.partial(self._read, ids, plan), len(ids))
            found = torch.zeros(len(chosen), size, dtype=torch.float64, device=self.device)
            if said_1tn is not None:
                found.copy_(said_1tn[0, plan.last])
            stages.share(self.network, found)
            scores[chosen] = found.cpu().numpy()
        names = ["reward"] if size == 1 else [f"reward_{i}" for i in range(size)]
        return {name: pa.array(scores[:, i], pa.float64()) for i, name in enumerate(names)}

    def _read(self, ids: Tensor, plan: Packed) -> Tensor:
        said: Tensor = self.network(ids[None], plan.positions, None, packed_seq_params=plan)
        return said

    def _texts(self, rows: pa.Table) -> list[npt.NDArray[np.int64]]:
        parts = [rows[name].to_pylist() for name in self.columns]
        texts = [np.concatenate([np.asarray(ids, np.int64) for ids in row]) for row in zip(*parts, strict=True)]
        longest, vocabulary = (
            self.network.architecture.max_sequence_length,
            self.network.architecture.vocab_size,
        )
        for number, ids in enumerate(texts):
            if not 0 < len(ids) <= longest or ids.min() < 0 or ids.max() >= vocabulary:
                raise DataError(
                    "cannot-score",
                    f"row {number} cannot be scored",
                    expected=f"1 to {longest} tokens, ids in 0 .. {vocabulary - 1}",
                    found=f"{len(ids)} tokens, ids {ids.min(initial=0)} .. {ids.max(initial=0)}",
                )
        return texts

    def _passes(self, texts: Sequence[npt.NDArray[np.int64]]) -> Iterator[list[int]]:
        chosen: list[int] = []
        tokens = 0
        for number in sorted(range(len(texts)), key=lambda i: (len(texts[i]), texts[i].tobytes())):
            if chosen and tokens + len(texts[number]) > self.batch_tokens:
                yield chosen
                chosen, tokens = [], 0
            chosen.append(number)
            tokens += len(texts[number])
        if chosen:
            yield chosen


def open_scorer(
    checkpoint: str | Checkpoint,
    *,
    columns: Sequence[str] = ("input_ids",),
    batch_tokens: int = 8192,
    threads: int | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    implementation: Implementation = "auto",
    tensor: int = 1,
    pipeline: int = 1,
    expert: int = 1,
) -> Scorer:
    """A scorer over the reward model in `checkpoint`. columns: token columns that make up what is read, in
    order. tensor, pipeline, expert: how the network is cut; every process of it scores the same rows.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    source = checkpoints.open_checkpoint(checkpoint) if isinstance(checkpoint, str) else checkpoint
    if source.model.head != "scalar":
        raise ConfigError(
            "no-reward-model", "the checkpoint is no reward model", found="an lm head", where=source.folder
        )
    layout = parallel.start(Parallel(tensor=tensor, pipeline=pipeline, expert=expert))
    network = checkpoints.load_model(
        source, layout, precision=precision, implementation=implementation, inference=True
    ).eval()
    return Scorer(network, columns=columns, batch_tokens=batch_tokens)
