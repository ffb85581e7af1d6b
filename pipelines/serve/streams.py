"""Answers while they are made: text as far as it is certain, one server-sent event a piece.

What may still change is kept back: letters of which bytes are missing, the beginning of a text that would end the
answer, and a run of SentencePiece's byte tokens that goes on, of which a byte that fits no letter takes all others
along. All pieces together are the text of the whole answer.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from pipelines.serve.answer_queue import AnswerQueue
from pipelines.serve.fields import RequestError
from pipelines.serve.replies import Replies

if TYPE_CHECKING:
    from trainers.engine.inference.continuous import Answer

_NO_LETTER = "\ufffd"
_EVERY = 256
"""Tokens after which an answer is looked at less often than at each of them, so that its cost stays in proportion."""


class StreamedText:
    """The text of an answer that grows."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.sent, self.looked = answer, "", 0

    def more(self, count: int, finish: str) -> str | None:
        """What its first `count` tokens add to what was sent; None where it is too early to look."""
        if not finish and count - self.looked <= self.looked // _EVERY:
            return None
        self.looked = count
        stops, ids = self.answer.stops, self.answer.ids[:count]
        if not finish:
            ids = ids[: len(ids) - stops.open_bytes(ids)]
        [text] = stops.answer_texts([ids], [finish == "stop"], [self.answer.inside])
        if not finish:
            text = _certain(text, stops.texts)
            if not text.startswith(self.sent):
                return ""
        fresh = text[len(self.sent) :]
        self.sent += fresh
        return fresh


def _certain(text: str, stops: Sequence[str]) -> str:
    text = text.rstrip(_NO_LETTER)
    longest = max((size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0)
    return text[: len(text) - longest]


async def events(answer_queue: AnswerQueue, replies: Replies, answers: Sequence[Answer]) -> AsyncIterator[bytes]:
    """The reply as server-sent events; a fault in the middle is an event too."""
    streamed = [StreamedText(answer) for answer in answers]
    since = [0] * len(answers)
    try:
        async with aclosing(answer_queue.watched(answers)) as news:
            async for at, count, finish in news:
                if finish == "failed":
                    continue
                text = streamed[at].more(count, finish)
                if text is not None:
                    yield event(replies.piece(at, text, answers[at], since[at], count, finish))
                    since[at] = count
        if replies.asked.usage:
            yield event(replies.last(answers))
    except RequestError as fault:
        yield event(fault.body)
    yield b"data: [DONE]\n\n"


def event(body: Any) -> bytes:
    """`body` as one server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n\n"
