"""A policy behind the queue of answers: prompts become tokens, and answers that the decoder can draw."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipelines.serve.answer_queue import AnswerQueue
from pipelines.serve.asked import Completion
from pipelines.serve.fields import RequestError
from pipelines.serve.models import Served
from pipelines.serve.replies import PromptScores
from schemas.errors import QuiverError, printable

if TYPE_CHECKING:
    from trainers.engine.inference.answer_texts import StopTexts
    from trainers.engine.inference.continuous import Answer

Ints = npt.NDArray[np.int64]

_KEPT_ENDS = 64


class Policy:
    """The policy `served`, asked through `answer_queue`."""

    def __init__(self, answer_queue: AnswerQueue, served: Served) -> None:
        assert served.generator is not None, served.name
        self.answer_queue, self.served, self.generator = answer_queue, served, served.generator
        self._ends = functools.lru_cache(_KEPT_ENDS)(self.generator.stop_texts)

    async def prompts(self, asked: Completion) -> Sequence[Ints]:
        """The prompts of a request as tokens; `RequestError` for one that can have no answer."""
        prompts = await asyncio.to_thread(self._read, asked)
        for number, ids in enumerate(prompts):
            scored = asked.draw.most == 0 and 0 < len(ids) <= self.served.positions
            if not scored and (fault := self.generator.fault(ids)):
                where = f"prompt {number}: " if len(prompts) > 1 else ""
                raise RequestError(
                    f"{where}{fault}", param="messages" if asked.messages else "prompt", code="bad_prompt"
                )
        self.answer_queue.metrics.tokens["prompt"] += sum(map(len, prompts))
        return prompts

    async def answers(self, asked: Completion, prompts: Sequence[Ints]) -> Sequence[Answer]:
        """The answers to `prompts`, to be drawn: answer i of each has the seed of the request + i."""
        from trainers.engine.inference.continuous import Answer
        from trainers.engine.inference.token_sampling import Distribution

        draw = asked.draw
        plain = Distribution(draw.temperature, draw.top_k, draw.top_p) if draw.temperature else None
        distribution = plain or Distribution(greedy=True)
        ends: StopTexts = await asyncio.to_thread(self._ends, draw.stop, draw.stop_ids)
        made = []
        for ids in prompts:
            room = self.served.positions - len(ids)
            for number in range(draw.n):
                made.append(
                    Answer(
                        ids, (draw.seed + number) % (1 << 64), room if draw.most is None else min(draw.most, room),
                        distribution, ends, self.generator.goes_on_inside(ids), draw.top or 0, asked.stream,
                    )
                )  # fmt: skip
        return made

    async def prompt_scores(self, asked: Completion, prompts: Sequence[Ints]) -> Sequence[PromptScores]:
        """What the model thinks of the prompts' tokens, where that is asked for."""
        echoed = asked.echo and asked.draw.top is not None
        if not echoed and asked.prompt_top is None:
            return []
        top = max(asked.prompt_top or 0, (asked.draw.top or 0) if echoed else 0)
        self.answer_queue.metrics.rows_scored += len(prompts)
        made = await self.answer_queue.ask(self.served.name, "top_k" if top else "logprobs", prompts, top)
        if not top:
            return [PromptScores(logprobs, [()] * len(logprobs)) for logprobs in made]
        pairs = [zip(ids[1:], values[1:], strict=True) for _, ids, values in made]
        listed = [[(), *([*zip(*pair, strict=True)] for pair in one)] for one in pairs]
        return [PromptScores(one[0], top) for one, top in zip(made, listed, strict=True)]

    def _read(self, asked: Completion) -> Sequence[Ints]:
        try:
            if asked.messages:
                return [self.served.texts.conversation(asked.messages, asked.tools, answer=True)]
            texts = self.served.texts
            return [texts.text(one) if isinstance(one, str) else np.array(one, np.int64) for one in asked.prompts]
        except QuiverError as fault:
            words = f"{fault.what}; {fault.expected}" if fault.expected else fault.what
            raise RequestError(printable(words, 300), param="messages" if asked.messages else "prompt") from fault
