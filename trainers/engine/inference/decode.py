"""Decoding many answers at once: one cache, each row at its own place, finished rows given to the next
prompt.

A prompt is read once for all its samples, packed with others. Every step reads one token per row. When a
quarter of the rows stand idle they are given to waiting prompts; when none waits, the batch shrinks to the
rows still at work. Who sits where follows from the chunk's prompts and draws alone, never from time. Where a network
is cut over processes, all of them decode the same chunk in step (see `stages`).

Tensor and array suffixes: j answers (prompt-major), b rows of the batch, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainers.engine.inference import passes, token_sampling
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
        counts = np.array([prompt.count for prompt in unit])
        logits = passes.read_prompts(self.network, self.cache, [prompt.ids for prompt in unit], counts, rows)
        self.answer_b[rows] = np.concatenate([prompt.first + np.arange(prompt.count) for prompt in unit])
        self.position_b[rows] = np.repeat([len(prompt.ids) for prompt in unit], counts)
        self._record(rows, logits)

    def _step(self) -> None:
        """Read the last token of every row and draw the next; idle rows go along and are not looked at."""
        rank.heartbeat()
        busy = np.flatnonzero(self.answer_b >= 0)
        position_b = np.where(self.answer_b >= 0, self.position_b, 0)
        chosen = busy if len(busy) < self.rows else None
        logits = passes.read_tokens(self.network, self.cache, self.token_b, position_b, chosen)
        self.position_b[busy] += 1
        self._record(busy, logits)

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
