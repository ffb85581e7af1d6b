"""A conversation with a policy: turns are kept, answers come in pieces while they are drawn."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from datakit.clients.sampling import Sampling
from pipelines.serve.models import Served, require_policy
from pipelines.serve.streams import StreamedText
from schemas.errors import DataError, WorkerError

if TYPE_CHECKING:
    from trainers.engine.inference.continuous import Answer
    from trainers.engine.inference.decoding_thread import DecodingThread


@dataclass
class Conversation:
    """A conversation with `served`; a context manager. Answer i is drawn with the seed `seed` + i."""

    served: Served
    sampling: Sampling
    seed: int
    system: str = ""
    threads: int | None = None
    turns: list[dict[str, str]] = field(default_factory=list)
    answered: int = 0

    def __enter__(self) -> Conversation:
        from trainers.engine.inference.continuous import ContinuousDecoder
        from trainers.engine.inference.decoding_thread import DecodingThread

        self._news: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
        self._faults: list[BaseException] = []
        self._generator = require_policy(self.served)
        self._thread: DecodingThread = DecodingThread(
            ContinuousDecoder(self._generator, slots=1), {},
            deliver=self._deliver, report=self._faults.append, threads=self.threads,
        )  # fmt: skip
        self._thread.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.__exit__()

    def _deliver(self, news: Sequence[Answer]) -> None:
        for one in news:
            self._news.put((len(one.ids), one.finish))

    def send(self, text: str) -> Iterator[str]:
        """The answer to `text`, in pieces; both turns are kept when it is complete. `DataError` where the conversation
        has no room for an answer, or the template refuses it: it stays as it was then.
        """
        asked = [*self.opening, *self.turns, {"role": "user", "content": text}]
        self.last = answer = self._answer(asked)
        streamed = StreamedText(answer)
        self._thread.submit([answer])
        try:
            finish = ""
            while not finish:
                count, finish = self._news.get()
                if piece := streamed.more(count, finish):
                    yield piece
        finally:
            self._thread.cancel([answer])
        if finish == "failed":
            raise WorkerError("decoder-failed", f"the answer failed: {answer.fault}") from next(
                iter(self._faults), None
            )
        self.answered += 1
        self.turns += [{"role": "user", "content": text}, {"role": "assistant", "content": answer.text}]

    @property
    def opening(self) -> Sequence[dict[str, str]]:
        """The system's turn, where there is one."""
        return [{"role": "system", "content": self.system}] if self.system else []

    def tokens(self) -> Iterator[tuple[str, float]]:
        """The last answer's tokens as text, and their log-probabilities (nats)."""
        for number, logprob in zip(self.last.ids, self.last.logprobs, strict=True):
            yield self.served.texts.token(number), logprob

    def forget(self) -> None:
        """Begin anew, with the system's turn alone."""
        self.turns.clear()

    def _answer(self, asked: Sequence[dict[str, str]]) -> Answer:
        from trainers.engine.inference.continuous import Answer
        from trainers.engine.inference.token_sampling import Distribution

        generator, sampling = self._generator, self.sampling
        ids = self.served.texts.conversation(asked, answer=True)
        if fault := generator.fault(ids):
            raise DataError(
                "too-long",
                f"the conversation cannot be answered: {fault}",
                kept="the conversation without your last words",
                next="/forget begins anew",
            )
        distribution = Distribution(sampling.temperature, sampling.top_k, sampling.top_p, sampling.greedy)
        room = min(sampling.max_new_tokens, self.served.positions - len(ids))
        seed, stops = (self.seed + self.answered) % (1 << 64), generator.stop_texts(sampling.stop)
        inside = generator.goes_on_inside(ids)
        return Answer(ids, seed, room, distribution, stops, inside, watched=True)
