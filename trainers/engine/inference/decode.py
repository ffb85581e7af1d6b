"""Decoding many answers at once: one cache, each row at its own place, finished rows given to the next
prompt.

A prompt is read once for all its samples, packed with others. Every step reads one token per row. When a
quarter of the rows stand idle they are given to waiting prompts; when none waits, the batch shrinks to the
rows still at work. Who sits where follows from the chunk's prompts and draws alone, never from time. Where a network
is cut over processes, all of them decode the same chunk in step (see `stages`).

Tensor and array suffixes: j answers (prompt-major), b rows of the batch, V vocabulary, u prompts of a packed
pass.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainers.engine.data.packing import pack
from trainers.engine.inference import token_sampling
from trainers.engine.megatron import stages
from trainers.engine.megatron.cache import Cache
from trainers.engine.megatron.model import Network
from trainers.launch import rank

Ints = npt.NDArray[np.int64]
Ended = Callable[[Ints, "Answers"], npt.NDArray[np.bool_]]

_IDLE = 4
_PROMPT_TOKENS = 8192


@dataclass
class Answers:
    """What is drawn: ids and log-probabilities [j, longest], how many of them [j], and whether the model
    ended [j].
    """

    ids: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]
    counts: Ints
    stopped: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Prompt:
    """A prompt and the answers `first` .. `first + count - 1` of the chunk that it is to get."""

    ids: npt.NDArray[np.int64]
    first: int
    count: int


class Decoder:
    """Decodes one chunk. rooms_j: most tokens of each answer; ended: given answers' numbers, returns which the
    model ended; barred_V: ids that are never drawn (None: every id may be).
    """

    def __init__(
        self,
        network: Network,
        distribution: token_sampling.Distribution,
        *,
        rows: int,
        streams_j: npt.NDArray[np.uint64],
        rooms_j: Ints,
        ended: Ended,
        refill: bool = True,
        barred_V: Tensor | None = None,
    ) -> None:
        self.network, self.distribution, self.ended, self.refill = network, distribution, ended, refill
        self.rows, self.streams_j, self.rooms_j = rows, streams_j, rooms_j
        self.device = next(network.parameters()).device
        self.vocab_size = network.architecture.vocab_size
        self.barred_V = None if barred_V is None else barred_V.to(self.device)
        shape = (len(rooms_j), int(rooms_j.max(initial=0)))
        counts, stopped = np.zeros(shape[0], np.int64), np.zeros(shape[0], np.bool_)
        self.answers = Answers(np.zeros(shape, np.int32), np.zeros(shape, np.float32), counts, stopped)

    @torch.inference_mode()
    def run(self, prompts: Sequence[Prompt]) -> Answers:
        """All answers to `prompts`, none of which asks for more than `rows`."""
        waiting = deque(prompts)
        longest = max((len(p.ids) + int(self.rooms_j[p.first]) for p in prompts), default=0)
        self.rows = min(self.rows, sum(p.count for p in prompts))
        self.cache = Cache(self.rows, longest, self.network.architecture.window)
        self.answer_b, self.position_b, self.token_b = (np.full(self.rows, fill, np.int64) for fill in (-1, 0, 0))
        while True:
            idle = int((self.answer_b < 0).sum())
            if (
                waiting
                and idle >= waiting[0].count
                and (idle == self.rows or (self.refill and idle * _IDLE >= self.rows))
            ):
                self._admit(waiting)
                continue
            if idle == self.rows:
                return self.answers
            if not waiting and idle * _IDLE >= self.rows:
                self._shrink()
            self._step()

    def _admit(self, waiting: deque[Prompt]) -> None:
        free = np.flatnonzero(self.answer_b < 0)
        while waiting and waiting[0].count <= len(free):
            unit, tokens, need = [], 0, 0
            while waiting and need + waiting[0].count <= len(free) and (not unit or tokens < _PROMPT_TOKENS):
                unit.append(waiting.popleft())
                tokens, need = tokens + len(unit[-1].ids), need + unit[-1].count
            self._read(unit, free[:need])
            free = free[need:]

    def _read(self, unit: list[Prompt], rows: Ints) -> None:
        """Read prompts packed, hand their keys to `rows` and draw the first tokens."""
        lengths = [len(prompt.ids) for prompt in unit]
        counts = np.array([prompt.count for prompt in unit])
        plan = pack(lengths, self.device)
        self.cache.read_prompts()
        ids = torch.from_numpy(np.concatenate([prompt.ids for prompt in unit])).to(self.device)
        assert plan.positions is not None and plan.last is not None
        hidden = self._forward(ids[None], plan.positions, None, plan)
        starts = np.cumsum([0, *lengths[:-1]])
        places = np.arange(max(lengths))
        index_ul = starts[:, None] + np.minimum(places, np.array(lengths)[:, None] - 1)
        self.cache.place(
            torch.from_numpy(rows).to(self.device),
            torch.from_numpy(index_ul.repeat(counts, 0)).to(self.device),
        )
        self.answer_b[rows] = np.concatenate([prompt.first + np.arange(prompt.count) for prompt in unit])
        self.position_b[rows] = np.repeat(lengths, counts)
        logits = None
        if hidden is not None:
            unit_j = torch.from_numpy(np.repeat(np.arange(len(unit)), counts)).to(self.device)
            logits = self._logits(hidden[plan.last, 0][None])[unit_j]
        self._record(rows, logits)

    def _step(self) -> None:
        """Read the last token of every row and draw the next; idle rows go along and are not looked at."""
        rank.heartbeat()
        seen = int(self.position_b[self.answer_b >= 0].max()) + 1
        position_b = torch.from_numpy(np.where(self.answer_b >= 0, self.position_b, 0)).to(self.device)
        self.cache.begin_step(position_b, seen)
        token_b = torch.from_numpy(self.token_b).to(self.device)
        hidden = self._forward(token_b[:, None], position_b[:, None], self.cache.hidden_mask, None)
        busy = np.flatnonzero(self.answer_b >= 0)
        self.position_b[busy] += 1
        if hidden is not None and len(busy) < self.rows:
            hidden = hidden[:, torch.from_numpy(busy).to(self.device)]
        self._record(busy, None if hidden is None else self._logits(hidden))

    def _record(self, rows: Ints, logits: Tensor | None) -> None:
        """Draw a token for each of `rows`, write it down, and let go of the rows whose answer is complete."""
        answer, answers = self.answer_b[rows], self.answers
        step = answers.counts[answer]
        token, answers.logprobs[answer, step] = self._draw(answer, step, logits)
        self.token_b[rows] = answers.ids[answer, step] = token
        answers.counts[answer] += 1
        stopped = self.ended(answer, answers)
        answers.stopped[answer] = stopped
        self.answer_b[rows[stopped | (answers.counts[answer] >= self.rooms_j[answer])]] = -1

    def _draw(self, answer: Ints, step: Ints, logits: Tensor | None) -> npt.NDArray[np.float64]:
        """Tokens and their log-probabilities, [2, rows]; the last pipeline stage draws, which alone has `logits`."""
        drawn = torch.zeros(2, len(answer), dtype=torch.float64, device=self.device)
        if logits is not None:
            allowed = logits if self.barred_V is None else logits.masked_fill(self.barred_V, -torch.inf)
            drawn[0] = token = self.distribution.draw(allowed, token_sampling.uniforms(self.streams_j[answer], step))
            drawn[1] = token_sampling.logprobs(logits, token)
        stages.share(self.network, drawn)
        return drawn.cpu().numpy()

    def _shrink(self) -> None:
        busy = np.flatnonzero(self.answer_b >= 0)
        self.cache.keep(torch.from_numpy(busy).to(self.device))
        self.rows = len(busy)
        self.answer_b, self.position_b, self.token_b = (x[busy] for x in (self.answer_b, self.position_b, self.token_b))

    def _forward(self, ids: Tensor, positions: Tensor, mask: Tensor | None, plan: object) -> Tensor | None:
        """Hidden states [s, b, h] after the last layer; None on the pipeline stages before it."""
        network = self.network

        def stage() -> Tensor:
            first = network.pre_process
            return network.decoder(
                hidden_states=network.embedding(input_ids=ids, position_ids=positions) if first else None,
                attention_mask=mask,
                inference_context=self.cache,
                rotary_pos_emb=network.rope_table(positions),
                packed_seq_params=plan,
            )

        return stages.through(network, stage, ids.shape[1], ids.shape[0])

    def _logits(self, hidden_1bh: Tensor) -> Tensor:
        """Logits over the real vocabulary, fp32 [b, V], the same on every tensor-parallel rank."""
        network = self.network
        shared = network.shared_embedding_or_output_weight() if network.share_embeddings_and_output_weights else None
        logits, _ = network.output_layer(hidden_1bh, weight=shared, runtime_gather_output=True)
        return logits[0, :, : self.vocab_size].float()
