"""A network that is asked and never trained: scores, log-probabilities, values and likeliest ids of token rows; as a
`Scorer`, the numbers that a reward model puts on rows.

Rows are sorted by length and read in packed passes of about `batch_tokens` tokens; which rows share a pass follows
from the rows alone (ties by content), so their order changes nothing. Where the network is cut over pipeline stages or
a tensor group, every process of it reads the same rows and gets the same answers. Legend: N rows, T tokens after the
first of each row laid end to end, H outputs of the scalar head, K likeliest ids.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from schemas.errors import ConfigError, DataError
from schemas.rows.conversation import IDS
from schemas.schema import Column, Schema
from trainers.algorithm import ModelOutputs, Needs, TokenColumn
from trainers.architecture import OUTPUT_NAMES, output_names
from trainers.engine.checkpoint import checkpoint as checkpoints
from trainers.engine.checkpoint.checkpoint import Checkpoint
from trainers.engine.data.batch import MicroBatch, packed
from trainers.engine.megatron import logprobs, parallel, stages
from trainers.engine.megatron.forward import extract_outputs, forward
from trainers.engine.megatron.model import Network
from trainers.engine.megatron.specs import Implementation
from trainers.parallel import Parallel
from trainers.reward_scale import FACT as SCALE
from trainers.reward_scale import Scale, recorded_scale

Ids: TypeAlias = Sequence[npt.NDArray[np.int64]]
"""Token rows, one array of ids each."""

_IDS, _ASKED = "ids", "asked"
_Answer: TypeAlias = Callable[[Tensor, MicroBatch], Tensor]


class FrozenModel:
    """Answers about token rows, from one network."""

    def __init__(self, network: Network, *, batch_tokens: int = 8192) -> None:
        self.network, self.batch_tokens = network, batch_tokens
        self.device = next(network.parameters()).device

    def scores(self, rows: Ids) -> npt.NDArray[np.float64]:
        """The scalar head at the last token of every row, [N, H]."""
        self.check(rows)
        size = self.network.architecture.head_size
        scores_NH = np.zeros((len(rows), size))
        for chosen, answer in self._ask(rows, Needs.SCORES, (size,), self._outputs(Needs.SCORES, "scores_BH")):
            scores_NH[chosen] = answer
        return scores_NH

    def logprobs(self, rows: Ids) -> pa.Array:
        """Log-probability (nats, temperature 1) of every token given those before it: list<float32> as long as each
        row, 0 at the first token, which nothing predicts.
        """
        return self._per_token(rows, Needs.LOGPROBS, "logprobs_T")

    def entropies(self, rows: Ids) -> pa.Array:
        """Entropy (nats) of the distribution that every token was drawn from, laid out like `logprobs`."""
        return self._per_token(rows, Needs.ENTROPY, "entropy_T")

    def values(self, rows: Ids) -> pa.Array:
        """The scalar head's first number at the position before every token, laid out like `logprobs`."""
        return self._per_token(rows, Needs.VALUES, "values_TH")

    def top_k(self, rows: Ids, k: int) -> tuple[pa.Array, pa.Array]:
        """The k likeliest ids at every token, likeliest first, and their log-probabilities: list<list> as long as each
        row; both are 0 at the first token, which nothing predicts. `ConfigError` for more than the vocabulary holds.
        """
        if not 0 < k <= self.network.architecture.vocab_size:
            raise ConfigError(
                "bad-setting",
                f"the {k} likeliest of {self.network.architecture.vocab_size} ids cannot be said",
                expected=f"k from 1 to {self.network.architecture.vocab_size}",
                kept="nothing was published",
            )

        def likeliest(output: Tensor, batch: MicroBatch) -> Tensor:
            logprobs.hide_padding(output, self.network.architecture.vocab_size)
            span = batch.spans[_IDS]
            values_TK, ids_TK = logprobs.top_k(output[0, span.start : span.stop], k)
            return torch.cat([values_TK.double(), ids_TK.double()], dim=-1)

        along = self._along(rows, Needs.LOGPROBS, (2 * k,), likeliest)
        ids = _lists(np.ascontiguousarray(along[:, k:]).astype(np.int32), rows)
        return ids, _lists(np.ascontiguousarray(along[:, :k]).astype(np.float32), rows)

    def logprobs_at(self, rows: Ids, ids: Ids) -> pa.Array:
        """Log-probabilities (nats) of the `ids` that are named for every token, [T, K] for each row:
        list<list<float32>> as long as each row, 0 at the first token. `DataError` for an id outside the vocabulary.
        """
        vocab_size = self.network.architecture.vocab_size
        for number, asked_TK in enumerate(ids):
            if asked_TK.min(initial=0) < 0 or asked_TK.max(initial=0) >= vocab_size:
                raise DataError(
                    "cannot-score",
                    f"row {number} names ids that the model does not have",
                    expected=f"ids in 0 .. {vocab_size - 1}",
                    found=f"{asked_TK.min()} .. {asked_TK.max()}",
                )
        size = ids[0].shape[1] if len(ids) else 0
        along = self._along(rows, Needs.GATHERED, (size,), self._outputs(Needs.GATHERED, "gathered_TK"), ids)
        return _lists(along.astype(np.float32), rows)

    def _outputs(self, needs: Needs, name: str) -> _Answer:
        def answer(output: Tensor, batch: MicroBatch) -> Tensor:
            outputs: ModelOutputs = extract_outputs(output, batch, needs, self.network.architecture.vocab_size)[_IDS]
            values: Tensor = getattr(outputs, name)
            return values

        return answer

    def _per_token(self, rows: Ids, needs: Needs, name: str) -> pa.Array:
        size = (self.network.architecture.head_size,) if needs is Needs.VALUES else ()
        along = self._along(rows, needs, size, self._outputs(needs, name))
        return _lists((along[:, 0] if size else along).astype(np.float32), rows)

    def _along(
        self, rows: Ids, needs: Needs, shape: tuple[int, ...], answer: _Answer, asked: Ids | None = None
    ) -> npt.NDArray[np.float64]:
        """What is answered of every token, the rows laid end to end, with a 0 for each row's first token."""
        self.check(rows)
        starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
        along = np.zeros((int(starts[-1]), *shape))
        longer = [number for number, row in enumerate(rows) if len(row) > 1]
        of_longer = None if asked is None else [asked[n] for n in longer]
        for chosen, part in self._ask([rows[n] for n in longer], needs, shape, answer, of_longer):
            at = [np.arange(starts[longer[n]] + 1, starts[longer[n] + 1]) for n in chosen]
            along[np.concatenate(at)] = part
        return along

    @torch.inference_mode()
    def _ask(
        self, rows: Ids, needs: Needs, shape: tuple[int, ...], answer: _Answer, asked: Ids | None = None
    ) -> Iterator[tuple[list[int], npt.NDArray[np.float64]]]:
        """Passes over `rows`: which rows were read, and what was answered, [rows, ...] or [tokens, ...]."""
        for chosen in self._passes(rows):
            column = TokenColumn(ids=_IDS, gather_ids=None if asked is None else _ASKED)
            given = [{_IDS: rows[n], **({} if asked is None else {_ASKED: asked[n]})} for n in chosen]
            batch = packed((column,), needs, given).to(self.device)
            output = stages.through(self.network, functools.partial(forward, self.network, batch), batch.num_tokens)
            count = len(chosen) if needs is Needs.SCORES else batch.num_read
            values = torch.zeros(count, *shape, dtype=torch.float64, device=self.device)
            if output is not None:
                values.copy_(answer(output, batch))
            stages.share(self.network, values)
            yield chosen, values.cpu().numpy()

    def check(self, rows: Ids) -> None:
        """`DataError` for a row without tokens, too long for the model, or with ids outside its vocabulary."""
        longest, vocab_size = self.network.architecture.max_sequence_length, self.network.architecture.vocab_size
        for number, ids in enumerate(rows):
            if not 0 < len(ids) <= longest or ids.min() < 0 or ids.max() >= vocab_size:
                raise DataError(
                    "cannot-score",
                    f"row {number} cannot be scored",
                    expected=f"1 to {longest} tokens, ids in 0 .. {vocab_size - 1}",
                    found=f"{len(ids)} tokens, ids {ids.min(initial=0)} .. {ids.max(initial=0)}",
                )

    def _passes(self, rows: Ids) -> Iterator[list[int]]:
        chosen: list[int] = []
        tokens = 0
        for number in sorted(range(len(rows)), key=lambda n: (len(rows[n]), rows[n].tobytes())):
            if chosen and tokens + len(rows[number]) > self.batch_tokens:
                yield chosen
                chosen, tokens = [], 0
            chosen.append(number)
            tokens += len(rows[number])
        if chosen:
            yield chosen


class Scorer:
    """Scores the tokens of `columns`, laid end to end, with the scalar head of `network`; `names` are what its numbers
    are called, `scale` what they are standardised with, as far as that was measured.
    """

    def __init__(
        self,
        network: Network,
        *,
        columns: Sequence[str] = ("input_ids",),
        batch_tokens: int = 8192,
        names: Sequence[str] = (),
        scale: Scale | None = None,
    ) -> None:
        self.network, self.columns, self.scale = network, tuple(columns), scale or {}
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


def _lists(values: npt.NDArray[Any], rows: Ids) -> pa.Array:
    """A list column, one entry (a number, or a list of K) per token of each row."""
    inner = pa.array(values.reshape(-1))
    if values.ndim == 2:
        inner = pa.ListArray.from_arrays(pa.array(np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]), inner)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), inner)


def open_network(
    source: Checkpoint,
    *,
    threads: int | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    implementation: Implementation = "auto",
    tensor: int = 1,
    pipeline: int = 1,
    expert: int = 1,
) -> Network:
    """The network of `source`, to be asked only. threads: of torch on the CPU, for this whole process (None: as it is).
    tensor, pipeline, expert: how it is cut; every process of it reads the same rows.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    layout = parallel.start(Parallel(tensor=tensor, pipeline=pipeline, expert=expert))
    loaded = checkpoints.load_model(source, layout, precision=precision, implementation=implementation, inference=True)
    return loaded.eval()


def open_frozen(checkpoint: str | Checkpoint, *, batch_tokens: int = 8192, **how: Any) -> FrozenModel:
    """The network of `checkpoint`, to be asked about token rows. how: settings of `open_network`."""
    source = checkpoints.open_checkpoint(checkpoint) if isinstance(checkpoint, str) else checkpoint
    return FrozenModel(open_network(source, **how), batch_tokens=batch_tokens)


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
    scale = recorded_scale(source.manifest.facts.get(SCALE))
    return Scorer(network, columns=columns, batch_tokens=batch_tokens, names=names, scale=scale)
