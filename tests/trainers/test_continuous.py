"""Continuous decoding: who joins when, and who leaves, changes no answer; places are given back."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import wait

import numpy as np
import pyarrow as pa
import pytest

from tests.trainers.networks import SMALL, louder, network, words
from tests.trainers.sampling import Sampling
from trainers.engine.inference.continuous import Answer, ContinuousDecoder
from trainers.engine.inference.decoding_thread import DecodingThread, Ended
from trainers.engine.inference.frozen import FrozenModel
from trainers.engine.inference.generator import Generator
from trainers.engine.inference.token_sampling import Distribution

END = 1
PLAIN = Distribution()


def generator(**changes: object) -> Generator:
    return Generator(louder(network(**changes), 2.0).eval(), words(), [END])


def prompts(count: int, longest: int = 20) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(2, SMALL.vocab_size, rng.integers(1, longest)) for _ in range(count)]


def asked(source: Generator, prompt: np.ndarray, seed: int, room: int = 12, **how: object) -> Answer:
    how = {"distribution": PLAIN, "stops": source.stop_texts(()), "inside": source.goes_on_inside(prompt), **how}
    return Answer(prompt, seed, room, **how)  # type: ignore[arg-type]


def in_process(source: Generator, one: Answer) -> dict[str, object]:
    rows = pa.table({"prompt_ids": pa.array([one.prompt.tolist()], pa.list_(pa.int32()))})
    sampling = Sampling(**vars(one.distribution), max_new_tokens=one.room)
    return source.generate(rows, sampling, np.array([one.seed], np.uint64)).to_pylist()[0]


def assert_same(source: Generator, answers: Sequence[Answer]) -> None:
    for one in answers:
        expected = in_process(source, one)
        assert (one.ids, one.text, one.finish) == (
            expected["response_ids"], expected["response"], expected["finish_reason"],
        )  # fmt: skip
        np.testing.assert_allclose(one.logprobs, expected["logprobs"], atol=2e-5)


@pytest.mark.parametrize("changes", [{}, {"window": 4}, {"position": "learned"}], ids=["plain", "window", "learned"])
def test_answers_that_join_at_any_token_are_those_of_the_sampler(changes: dict[str, object]) -> None:
    source = generator(**changes)
    kinds = [PLAIN, Distribution(0.7, 5, 0.9), Distribution(greedy=True), Distribution(top_p=0.8)]
    answers = [
        asked(source, prompt, 7919 * number, 3 + number % 11, distribution=kinds[number % 4], top=number % 3)
        for number, prompt in enumerate(prompts(24))
    ]
    decoder, waiting, later = ContinuousDecoder(source, slots=6), deque(answers[:3]), deque(answers[3:])
    most = 0
    while waiting or later or decoder.answers:
        if later:
            waiting.append(later.popleft())  # one more at every token
        if joining := decoder.choose(waiting):
            decoder.admit(joining)
        most = max(most, len(decoder.answers))
        decoder.step()
    assert most == 6 and decoder.cache.slots == 0
    assert_same(source, answers)
    for one in answers:
        assert [len(listed) for listed in one.likeliest] == [one.top] * (len(one.ids) if one.top else 0)
        for token, logprob, listed in zip(one.ids, one.logprobs, one.likeliest, strict=False):
            assert dict(listed).get(token, logprob) == pytest.approx(logprob, abs=2e-5)
            assert listed[0][1] >= logprob - 2e-5


def test_answers_to_one_prompt_read_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainers.engine.inference import passes

    source, [first, second] = generator(), prompts(2)
    read: list[tuple[int, list[int]]] = []
    real = passes.read_prompts

    def counted(net, cache, given, counts, rows):  # type: ignore[no-untyped-def]
        read.append((len(given), counts.tolist()))
        return real(net, cache, given, counts, rows)

    monkeypatch.setattr(passes, "read_prompts", counted)
    answers = [asked(source, first, seed) for seed in range(5)] + [asked(source, second, 9)]
    decoder, waiting = ContinuousDecoder(source, slots=8), deque(answers)
    decoder.admit(decoder.choose(waiting))
    while decoder.answers:
        decoder.step()
    assert read == [(2, [5, 1])] and len({tuple(one.ids) for one in answers[:5]}) == 5
    assert_same(source, answers)


def test_a_thread_serves_many_and_a_cancelled_answer_gives_its_place_back() -> None:
    source = generator()
    ended = threading.Semaphore(0)
    faults: list[BaseException] = []

    def deliver(news: Sequence[Answer]) -> None:
        for _ in [one for one in news if one.finish]:
            ended.release()

    endless = Generator(source.network, words(), [])  # nothing ends its answers
    decoder = ContinuousDecoder(endless, slots=2)
    frozen = FrozenModel(source.network)
    with DecodingThread(decoder, {"m": frozen}, deliver=deliver, report=faults.append, threads=1) as thread:
        long = [asked(endless, prompt, 3, room=44) for prompt in prompts(2)]
        short = [asked(endless, prompt, number, room=5) for number, prompt in enumerate(prompts(12))]
        thread.submit(long)
        thread.submit(short)
        rows = [row for row in prompts(6) if len(row) > 1]
        futures = [thread.ask("m", "logprobs", row) for row in rows]
        for _ in long + short:
            assert ended.acquire(timeout=30)
        wait(futures, 30)
        endlessly = [asked(endless, prompts(1)[0], 3, room=10**9, distribution=PLAIN) for _ in range(3)]
        endlessly[0].room = 10**6
        thread.submit(endlessly[:1])
        until = time.monotonic() + 30
        while not endlessly[0].ids and time.monotonic() < until:
            time.sleep(0.001)
        thread.cancel(endlessly)
        while thread.running and time.monotonic() < until:
            time.sleep(0.001)
        assert (thread.running, thread.waiting) == (0, 0) and endlessly[0].finish == "cancelled"
    assert not faults
    assert_same(endless, long + short)
    for row, future in zip(rows, futures, strict=True):
        np.testing.assert_allclose(future.result(), frozen.logprobs([row]).to_pylist()[0], atol=2e-5)


def test_the_end_reaches_everybody_though_some_have_gone_away() -> None:
    source, met = generator(), []
    thread = DecodingThread(ContinuousDecoder(source, slots=1), {}, deliver=met.extend, report=met.append)
    waits = asked(source, prompts(1)[0], 1)
    thread.submit([waits])
    gone, stays = (thread.ask("m", "logprobs", np.array([1, 2], np.int64)) for _ in range(2))
    assert gone.cancel()
    thread.stop()
    with thread, pytest.raises(Ended):
        stays.result(30)
    assert waits.finish == "failed" and met == [waits]


def test_a_fault_ends_the_answers_it_meets_and_not_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    source = generator()
    done, faults = threading.Event(), []
    with DecodingThread(
        ContinuousDecoder(source, slots=2), {}, deliver=lambda _: done.set(), report=faults.append
    ) as thread:
        real = thread.decoder.step  # type: ignore[union-attr]

        def broken() -> list[Answer]:
            monkeypatch.setattr(thread.decoder, "step", real)
            raise MemoryError("no room")

        monkeypatch.setattr(thread.decoder, "step", broken)
        first, second = (asked(source, prompt, 1) for prompt in prompts(2))
        thread.submit([first])
        assert done.wait(30)
        while not first.finish:
            time.sleep(0.001)
        assert (first.finish, first.fault) == ("failed", "MemoryError in the decoder") and len(faults) == 1
        thread.submit([second])
        while not second.finish:
            time.sleep(0.001)
    assert_same(source, [second])
