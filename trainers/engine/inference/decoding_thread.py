"""One thread that has the networks: it decodes answers side by side, and reads token rows between two tokens.

    submit(answers)          they join the batch when there is a place; `deliver` is called with what is news
    cancel(answers)          their places are free at the next token
    ask(model, kind, ids)    a future: what a network says of one row; rows that wait together share a pass
    change(make)             a future: other networks, once all that came before has its answer by those that were there

Every method but `deliver` is called from any other thread; `Ended` where this one has been stopped. A fault ends the
answers that it met, never the thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch

from trainers.engine.inference.continuous import Answer, ContinuousDecoder
from trainers.engine.inference.frozen import FrozenModel
from trainers.engine.inference.generator import Generator
from trainers.engine.inference.passes import Ints

Kind = Literal["logprobs", "top_k", "scores"]
"""Log-probabilities of a row's tokens; those and its likeliest ids; the numbers of a scalar head."""

_PASS_TOKENS = 8192
_ENDING = "the decoder is ending"


class Ended(Exception):
    """The thread has ended, and does not answer."""


@dataclass(frozen=True, eq=False)
class _Row:
    """A row that somebody asks a network about."""

    model: str
    kind: Kind
    ids: Ints
    k: int
    answer: Future[Any] = field(default_factory=Future)


Networks: TypeAlias = "tuple[ContinuousDecoder | None, Mapping[str, FrozenModel]]"
"""The decoder of a policy, and the networks that are asked about rows, by name."""


@dataclass(frozen=True, eq=False)
class _Change:
    """Other networks, which `make` opens in the thread; what comes after it is asked for waits behind it."""

    make: Callable[[], Networks]
    done: Future[None] = field(default_factory=Future)
    waiting: deque[Answer] = field(default_factory=deque)
    rows: deque[_Row] = field(default_factory=deque)


class DecodingThread:
    """The thread; a context manager. `models`: networks that are asked about rows, by name; `threads`: of torch on the
    CPU (None: as it is); `report`: called with a fault of ours.
    """

    def __init__(
        self,
        decoder: ContinuousDecoder | None,
        models: Mapping[str, FrozenModel],
        *,
        deliver: Callable[[Sequence[Answer]], object],
        report: Callable[[BaseException], object],
        threads: int | None = None,
    ) -> None:
        self.decoder, self.models, self.threads = decoder, models, threads
        self.deliver, self.report = deliver, report
        self._waiting: deque[Answer] = deque()
        self._rows: deque[_Row] = deque()
        self._change: _Change | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)

    def __enter__(self) -> DecodingThread:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._thread.join()

    def stop(self) -> None:
        """End all that waits and is under way, and then the thread; returns at once."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    @property
    def is_alive(self) -> bool:
        """Whether the thread still works."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Answers that have no place yet."""
        return len(self._waiting) + (len(self._change.waiting) if self._change else 0)

    @property
    def running(self) -> int:
        """Answers that are being decoded."""
        return len(self.decoder.answers) if self.decoder else 0

    @property
    def rows_waiting(self) -> int:
        """Rows that a network is to be asked about."""
        return len(self._rows) + (len(self._change.rows) if self._change else 0)

    def submit(self, answers: Sequence[Answer]) -> None:
        """Have `answers` decoded, in this order."""
        assert self.decoder is not None, "there is a policy"
        with self._changed:
            self._require_open()
            (self._change.waiting if self._change else self._waiting).extend(answers)
            self._changed.notify()

    def cancel(self, answers: Sequence[Answer]) -> None:
        """End those of `answers` that are not complete."""
        with self._changed:
            for answer in answers:
                answer.finish = answer.finish or "cancelled"
            gone = {id(answer) for answer in answers}
            for waiting in (self._waiting, *([self._change.waiting] if self._change else [])):
                kept = [answer for answer in waiting if id(answer) not in gone]
                if len(kept) < len(waiting):
                    waiting.clear()
                    waiting.extend(kept)

    def ask(self, model: str, kind: Kind, ids: Ints, k: int = 0) -> Future[Any]:
        """What the network `model` says of one row: float32 by token, ([T, k] ids, [T, k] float32), or its scores."""
        row = _Row(model, kind, ids, k)
        with self._changed:
            self._require_open()
            (self._change.rows if self._change else self._rows).append(row)
            self._changed.notify()
        return row.answer

    def change(self, make: Callable[[], Networks]) -> Future[None]:
        """Have other networks answer whatever comes from now on: `make` opens them, here, when all that came before is
        answered. Where it raises, those that are there stay, and the future has the fault. One at a time.
        """
        with self._changed:
            self._require_open()
            assert self._change is None, "a change is under way"
            self._change = _Change(make)
            self._changed.notify()
            return self._change.done

    def with_model(self, name: str, model: FrozenModel, generator: Generator | None, weights: str) -> Networks:
        """The networks with `model` as `name`; with a `generator` it is the policy, whose `weights` answers name."""
        decoder = self.decoder
        if generator is not None and decoder is not None:
            decoder = ContinuousDecoder(generator, slots=decoder.slots, weights=weights)
        return decoder, {**self.models, name: model}

    def _require_open(self) -> None:
        if self._closed:
            raise Ended(_ENDING)

    def _run(self) -> None:
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or self._rows or self._waiting or self.running or self._change
                )
                if self._closed:
                    break
                is_idle = not (self._rows or self._waiting or self.running)
                rows = self._alike()
                joining = self.decoder.choose(self._waiting) if self.decoder else []
            if is_idle and self._change is not None:
                self._make(self._change)
            if rows:
                self._answer(rows)
            self._decode(joining)
        self._end()

    def _make(self, change: _Change) -> None:
        fault: Exception | None = None
        try:
            made = change.make()
        except Exception as raised:
            fault = raised
        with self._changed:
            if fault is None:
                self.decoder, self.models = made
            self._waiting, self._rows, self._change = change.waiting, change.rows, None
        if fault is None:
            change.done.set_result(None)
        else:
            change.done.set_exception(fault)

    def _alike(self) -> list[_Row]:
        """The row that has waited longest, and those that can be read in one pass with it."""
        chosen: list[_Row] = []
        tokens = 0
        kept: deque[_Row] = deque()
        for row in self._rows:
            alike = not chosen or (row.model, row.kind, row.k) == (chosen[0].model, chosen[0].kind, chosen[0].k)
            if alike and (not chosen or tokens + len(row.ids) <= _PASS_TOKENS):
                tokens += len(row.ids)
                if row.answer.set_running_or_notify_cancel():
                    chosen.append(row)
            else:
                kept.append(row)
        self._rows = kept
        return chosen

    def _answer(self, rows: Sequence[_Row]) -> None:
        try:
            for row, answer in zip(rows, _asked(self.models[rows[0].model], rows), strict=True):
                row.answer.set_result(answer)
        except Exception as fault:
            self.report(fault)
            for row in rows:
                if not row.answer.done():
                    row.answer.set_exception(fault)

    def _decode(self, joining: Sequence[Answer]) -> None:
        if self.decoder is None:
            return
        try:
            news = self.decoder.admit(joining) if joining else []
            if news:
                self.deliver(news)
            if news := self.decoder.step():
                self.deliver(news)
        except Exception as fault:
            self.report(fault)
            self.deliver([*self.decoder.abandon(f"{type(fault).__name__} in the decoder")])

    def _end(self) -> None:
        if (change := self._change) is not None:
            self._waiting.extend(change.waiting)
            self._rows.extend(change.rows)
            change.done.set_exception(Ended(_ENDING))
        lost = [answer for answer in self._waiting if not answer.finish]
        for answer in lost:
            answer.finish, answer.fault = "failed", _ENDING
        if self.decoder is not None:
            lost += self.decoder.abandon(_ENDING)
        for row in self._rows:
            if row.answer.set_running_or_notify_cancel():
                row.answer.set_exception(Ended(_ENDING))
        if lost:
            self.deliver(lost)


def _asked(model: FrozenModel, rows: Sequence[_Row]) -> list[Any]:
    ids, kind = [row.ids for row in rows], rows[0].kind
    if kind == "scores":
        return [*model.scores(ids)]
    if kind == "logprobs":
        return model.logprobs(ids).to_pylist()
    parts = (model.logprobs(ids), *model.top_k(ids, rows[0].k))
    return [*zip(*(part.to_pylist() for part in parts), strict=True)]
