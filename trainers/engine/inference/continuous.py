"""Decoding without chunks: answers join the running batch at any token and leave it at any other.

The rows in use stand in front of the cache, so every step computes them alone: where an answer is complete the last
row takes its place. Each answer has its own distribution, its own ends and its own stream of random numbers, so what is
drawn does not depend on who else is in the batch, but for the last bits of sums whose order a batch decides.

Tensor and array suffixes: b rows of the batch, V vocabulary.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from trainers.engine.inference import passes, token_sampling
from trainers.engine.inference.answer_texts import StopTexts
from trainers.engine.inference.generator import Generator
from trainers.engine.inference.passes import Ints
from trainers.engine.inference.token_sampling import Distribution
from trainers.engine.megatron.cache import SlotCache

_PROMPT_TOKENS = 8192

Finish = Literal["", "stop", "length", "cancelled", "failed"]


@dataclass(eq=False)
class Answer:
    """An answer in the making. `prompt`: token ids, the same object for all answers to one request; `seed`: all that
    its draws depend on; `room`: most tokens; `top`: how many of the likeliest ids are wanted at every token; `watched`:
    whether every token is news, not the end alone. `weights` are those that draw it. `finish` is empty until it is
    complete. Times are those of a clock that never goes back, in seconds.
    """

    prompt: Ints
    seed: int
    room: int
    distribution: Distribution
    stops: StopTexts
    inside: bool = False
    top: int = 0
    watched: bool = False
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    likeliest: list[list[tuple[int, float]]] = field(default_factory=list)
    finish: Finish = ""
    fault: str = ""
    weights: str = ""
    asked_at: float = field(default_factory=time.monotonic)
    first_at: float = 0.0

    @property
    def text(self) -> str:
        """What it says so far, without the token or the text that ended it."""
        [text] = self.stops.answer_texts([[*self.ids]], [self.finish == "stop"], [self.inside])
        return text


class ContinuousDecoder:
    """Decodes at most `slots` answers of `generator`'s network, which has these `weights`, at once; of one thread."""

    def __init__(self, generator: Generator, *, slots: int = 64, weights: str = "") -> None:
        self.weights = weights
        self.generator, self.network, self.slots = generator, generator.network, slots
        self.device = next(self.network.parameters()).device
        self._barred_V = None if generator.barred_V is None else generator.barred_V.to(self.device)
        self.cache = SlotCache(slots, self.network.architecture.window)
        self.answers: list[Answer] = []
        self._position_b, self._token_b, self._count_b = (np.zeros(slots, np.int64) for _ in range(3))
        self._stream_b = np.zeros(slots, np.uint64)

    def choose(self, waiting: deque[Answer]) -> list[Answer]:
        """Take from `waiting` the first answers that have a place and whose prompts fit one pass."""
        chosen: list[Answer] = []
        tokens = 0
        while waiting and len(self.answers) + len(chosen) < self.slots:
            fresh = not chosen or waiting[0].prompt is not chosen[-1].prompt
            tokens += len(waiting[0].prompt) if fresh else 0
            if chosen and tokens > _PROMPT_TOKENS:
                break
            answer = waiting.popleft()
            if not answer.finish:
                chosen.append(answer)
        return chosen

    @torch.inference_mode()
    def admit(self, joining: Sequence[Answer]) -> list[Answer]:
        """Read the prompts of these, each once for answers that share it side by side, and draw their first tokens;
        those of them that are news.
        """
        groups = [[*group] for _, group in itertools.groupby(joining, key=lambda answer: id(answer.prompt))]
        prompts, counts = [group[0].prompt for group in groups], np.array([len(group) for group in groups])
        rows = np.arange(len(self.answers), len(self.answers) + len(joining))
        self.cache.hold(len(self.answers) + len(joining), max(map(len, prompts)))
        self.answers += joining
        for answer in joining:
            answer.weights = self.weights
        logits = passes.read_prompts(self.network, self.cache, prompts, counts, rows)
        self._position_b[rows] = [len(answer.prompt) for answer in joining]
        self._count_b[rows] = 0
        seeds = np.array([answer.seed for answer in joining], np.uint64)
        self._stream_b[rows] = token_sampling.streams(seeds, np.zeros(len(rows), np.int64))
        return self._record(rows, logits)

    @torch.inference_mode()
    def step(self) -> list[Answer]:
        """Read the last token of every answer and draw the next; those that are news: watched ones, and complete ones.

        Answers whose `finish` somebody else has set are let go first.
        """
        self._leave([row for row, answer in enumerate(self.answers) if answer.finish])
        count = len(self.answers)
        if not count:
            return []
        position_b = self._position_b[:count]
        self.cache.hold(count, int(position_b.max()) + 1)
        logits = passes.read_tokens(self.network, self.cache, self._token_b[:count], position_b)
        position_b += 1
        return self._record(np.arange(count), logits)

    def abandon(self, fault: str) -> list[Answer]:
        """End all answers, because of `fault`, and begin anew with nothing in the cache."""
        lost = [answer for answer in self.answers if not answer.finish]
        for answer in lost:
            answer.finish, answer.fault = "failed", fault
        self.answers = []
        self.cache = SlotCache(self.slots, self.network.architecture.window)
        return lost

    def _record(self, rows: Ints, logits: Tensor | None) -> list[Answer]:
        """Draw a token for each of `rows`, and let go of the rows whose answer is complete."""
        assert logits is not None, "a network in one process has its logits"
        answers = [self.answers[row] for row in rows]
        token_b, logprob_b = self._draw(answers, rows, logits)
        self._token_b[rows] = token_b
        self._count_b[rows] += 1
        news, done, now = [], [], time.monotonic()
        for row, answer, token, logprob in zip(rows.tolist(), answers, token_b.tolist(), logprob_b, strict=True):
            answer.first_at = answer.first_at or now
            answer.ids.append(token)
            answer.logprobs.append(logprob)
            if not answer.finish:
                _end(answer, token, logprob)
            if answer.finish:
                done.append(row)
            if answer.finish or answer.watched:
                news.append(answer)
        self._leave(done)
        return news

    def _draw(self, answers: Sequence[Answer], rows: Ints, logits: Tensor) -> tuple[Ints, list[float]]:
        """A token for each row and its log-probability; the likeliest ids where they are asked for."""
        allowed = logits if self._barred_V is None else logits.masked_fill(self._barred_V, -torch.inf)
        uniform_b = token_sampling.uniforms(self._stream_b[rows], self._count_b[rows])
        groups: dict[Distribution, list[int]] = {}
        for at, answer in enumerate(answers):
            groups.setdefault(answer.distribution, []).append(at)
        if len(groups) == 1:
            [distribution] = groups
            tokens = distribution.draw(allowed, uniform_b)
        else:
            tokens = torch.empty(len(answers), dtype=torch.int64, device=self.device)
            for distribution, chosen in groups.items():
                tokens[chosen] = distribution.draw(allowed[chosen], uniform_b[chosen])
        top = max(answer.top for answer in answers)
        if top:
            asking = [at for at, answer in enumerate(answers) if answer.top]
            logits_aV = logits[asking]
            best = logits_aV.topk(min(top, logits_aV.shape[1]), dim=-1)
            values = (best.values - logits_aV.logsumexp(-1, keepdim=True)).tolist()
            for at, ids, numbers in zip(asking, best.indices.tolist(), values, strict=True):
                answer = answers[at]
                answer.likeliest.append([*zip(ids, numbers, strict=True)][: answer.top])
        return tokens.cpu().numpy(), token_sampling.logprobs(logits, tokens).tolist()

    def _leave(self, rows: Sequence[int]) -> None:
        """Let go of `rows`, which rise: the last row in use takes the place of each."""
        for row in reversed(rows):
            last = len(self.answers) - 1
            if row < last:
                self.cache.move(last, row, int(self._position_b[last]))
                for array in (self._position_b, self._token_b, self._count_b, self._stream_b):
                    array[row] = array[last]
                self.answers[row] = self.answers[last]
            self.answers.pop()
        if not self.answers:
            self.cache.clear()


def _end(answer: Answer, token: int, logprob: float) -> None:
    """Say whether, and how, the answer ends with this token."""
    stops = answer.stops
    if not np.isfinite(logprob):
        answer.finish, answer.fault = "failed", "the model's log-probabilities are not finite"
    elif stops.ends[token] or (stops.may_end[token] and stops.ends_in(np.array(answer.ids, np.int32), answer.inside)):
        answer.finish = "stop"
    elif len(answer.ids) >= answer.room:
        answer.finish = "length"
