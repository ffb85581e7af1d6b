"""A policy that answers prompts: tables in, tables out, over a checkpoint.

`open_generator(checkpoint).generate(rows, sampling, seeds)` fits datakit's `Generator` protocol without
knowing it. What a call returns is a function of the weights, its rows, the sampling settings and the seeds:
batches are composed from the rows alone and every draw has its own random number (`token_sampling`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from tokenizers import Tokenizer

from schemas.end_tokens import EndTokens, TurnEnd
from schemas.errors import ConfigError
from schemas.rows.conversation import IDS
from trainers.engine.checkpoint import checkpoint as checkpoints
from trainers.engine.checkpoint.checkpoint import Checkpoint
from trainers.engine.inference import token_sampling
from trainers.engine.inference.answer_texts import AnswerTexts, StopTexts, read_tokenizer
from trainers.engine.inference.decode import Answers, Decoder, Ints, Prompt
from trainers.engine.inference.frozen import open_network
from trainers.engine.megatron.model import Network


class Sampling(Protocol):
    """How answers are drawn; see `token_sampling.Distribution` for the first four. `stop` are texts that end an
    answer.
    """

    @property
    def temperature(self) -> float: ...
    @property
    def top_k(self) -> int: ...
    @property
    def top_p(self) -> float: ...
    @property
    def greedy(self) -> bool: ...
    @property
    def samples_per_prompt(self) -> int: ...
    @property
    def max_new_tokens(self) -> int: ...
    @property
    def stop(self) -> Sequence[str]: ...


class Generator(AnswerTexts):
    """Draws answers from `network`; the tokens `end_ids` and the texts `stop` end an answer, `batch_size` answers are
    decoded at once.
    """

    def __init__(
        self,
        network: Network,
        tokenizer: Tokenizer,
        end_ids: Sequence[int],
        *,
        stop: Sequence[str] = (),
        batch_size: int = 512,
        refill: bool = True,
    ) -> None:
        vocab_size = network.architecture.vocab_size
        super().__init__(tokenizer, end_ids, vocab_size, network.architecture.max_sequence_length, stop)
        self.network, self.batch_size, self.refill = network, batch_size, refill
        drawable = self.known | self.ends
        self.barred_V = None if drawable.all() else torch.from_numpy(~drawable)

    def generate(self, rows: pa.Table, sampling: Sampling, seeds: npt.NDArray[np.uint64]) -> pa.Table:
        """`sampling.samples_per_prompt` answers to each of `rows["prompt_ids"]`, prompt by prompt.

        Columns: `prompt_row`, `sample_index`, `response_ids` (the end token included), `response` (end token
        and stop text left out), `logprobs` (nats, of the policy at temperature 1 with nothing cut, over all
        ids of the model, whatever was drawn from: what reading the answer once more gives), `finish_reason`
        ("stop", "length") and `error`, which says why a row has no answer and is null elsewhere. An id that
        has no token is never drawn.
        """
        prompts = [np.asarray(ids, np.int64) for ids in rows["prompt_ids"].to_pylist()]
        faults = [self.fault(ids) for ids in prompts]
        each = sampling.samples_per_prompt
        rooms = np.array([self.room(ids, sampling.max_new_tokens) for ids in prompts], np.int64)
        stops = self.stop_texts(sampling.stop)
        inside_j = np.array([self.goes_on_inside(ids) for ids in prompts], np.bool_)
        inside_j = inside_j.repeat(each)
        decoder = Decoder(
            self.network,
            token_sampling.Distribution(sampling.temperature, sampling.top_k, sampling.top_p, sampling.greedy),
            rows=max(1, self.batch_size),
            streams_j=token_sampling.streams(
                np.asarray(seeds, np.uint64).repeat(each), np.tile(np.arange(each), len(prompts))
            ),
            rooms_j=rooms.repeat(each),
            ended=lambda answer, answers: _ended(answer, answers, inside_j, stops),
            refill=self.refill,
            barred_V=self.barred_V,
        )
        order = sorted((i for i, fault in enumerate(faults) if fault is None), key=lambda i: -len(prompts[i]))
        part = min(each, self.batch_size)
        units = [
            Prompt(prompts[i], i * each + first, min(part, each - first))
            for i in order
            for first in range(0, each, part)
        ]
        return _table(decoder.run(units), faults, each, inside_j, stops)


def _ended(answer: Ints, answers: Answers, inside_j: npt.NDArray[np.bool_], stops: StopTexts) -> npt.NDArray[np.bool_]:
    last = answers.ids[answer, answers.counts[answer] - 1]
    ended: npt.NDArray[np.bool_] = stops.ends[last]
    for at in np.flatnonzero(stops.may_end[last] & ~ended):
        number = answer[at]
        ended[at] = stops.ends_in(answers.ids[number, : answers.counts[number]], bool(inside_j[number]))
    return ended


def _table(
    answers: Answers, faults: Sequence[str | None], each: int, inside_j: npt.NDArray[np.bool_], stops: StopTexts
) -> pa.Table:
    total = len(answers.counts)
    drawn = np.arange(answers.ids.shape[1]) < answers.counts[:, None]
    offsets = pa.array(np.concatenate([[0], np.cumsum(answers.counts)]), pa.int32())
    error = [fault for fault in faults for _ in range(each)]
    wrong = pa.array([fault is not None for fault in error], pa.bool_())
    reasons = np.where(answers.stopped, "stop", "length")
    ids = pa.ListArray.from_arrays(offsets, pa.array(answers.ids[drawn], pa.int32()), type=IDS)
    kind = pa.list_(pa.float32())
    columns = {
        "prompt_row": pa.array(np.arange(total) // max(1, each), pa.int32()),
        "sample_index": pa.array(np.arange(total) % max(1, each), pa.int32()),
        "response_ids": ids,
        "response": pa.array(_texts(answers, inside_j, stops), pa.string()),
        "logprobs": pa.ListArray.from_arrays(offsets, pa.array(answers.logprobs[drawn], pa.float32()), type=kind),
        "finish_reason": pa.array(np.where(wrong.to_numpy(zero_copy_only=False), "error", reasons), pa.string()),
        "error": pa.array(error, pa.string()),
    }
    return pa.table(columns)


def _texts(answers: Answers, inside_j: npt.NDArray[np.bool_], stops: StopTexts) -> list[str]:
    drawn = [row[:count].tolist() for row, count in zip(answers.ids, answers.counts.tolist(), strict=True)]
    return stops.answer_texts(drawn, answers.stopped.tolist(), inside_j.tolist())


def open_generator(checkpoint: str | Checkpoint, *, batch_size: int = 512, **how: Any) -> Generator:
    """A generator over the policy in `checkpoint`. how: settings of `open_network`.

    `ConfigError` for a checkpoint without a tokenizer or with a scalar head.
    """
    source = checkpoints.open_checkpoint(checkpoint) if isinstance(checkpoint, str) else checkpoint
    if source.model.head != "lm":
        raise ConfigError(
            "no-language-model", "the checkpoint is no policy", found="a scalar head", where=source.folder
        )
    tokenizer, ends = load_tokenizer(source)
    return Generator(open_network(source, **how), tokenizer, ends.ids, stop=ends.texts, batch_size=batch_size)


def load_tokenizer(source: Checkpoint) -> tuple[Tokenizer, EndTokens]:
    """The tokenizer in a checkpoint, and what ends an answer (`schemas.end_tokens`)."""
    taught = TurnEnd.of(source.manifest.facts)
    return read_tokenizer(source.tokenizer_files(), taught, source.model.vocab_size, source.folder)
